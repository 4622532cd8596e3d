"""What a report says, in words and numbers, whatever it is written on. Adapters may come from anybody, so everything
taken from one is checked or made plain here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nearl.errors import NearlError
from nearl.prompts import MAX_CLASSES
from nearl.reading.trust import Trust

JOINERS = "\u200c\u200d"  # inside words of some scripts
FIGURES = {  # key of `nearl.measure.evaluate.evaluate` -> name, and whether it is a share
    "balanced_accuracy": ("Right, each class counted equally", True),
    "accuracy": ("Right, each image counted equally", True),
    "auroc": ("Area under the ROC curve", False),
    "ece": ("Calibration error (lower is better)", True),
}
HOW = {
    "given": "Checked on {n}, which came separately and were not taught with.",
    "held-out": "Checked on {n}, kept aside before teaching and not taught with.",
    "folds": "Checked on {n}, each read by a model taught on others. The adapter itself was then taught on all of "
    "them, so the figures are for its recipe, not for this very adapter.",
    "none": "Not checked on images that it was not taught with.",
}
LIMITS = (
    "The intervals (95 %) are for the choice of images alone: other images of the same kind, from the same place. "
    "Images from another scanner, hospital or population may be read worse, and no figure here can tell.",
    "Shares are relative to the classes named: an image of anything else is still given to one of them.",
    "The adapter may have learnt what the images of a class share by accident, such as a marker or a border.",
)


@dataclass
class Report:
    """A run to report on.

    meta: of the Adapter. results: of `nearl.measure.evaluate.study`, or None where nothing was measured; in any
    other layout
    they are left out and a caution says so. rows: of `nearl.measure.evaluate.rows`. curve: events of a run with
    "phase",
    "step", "loss", "held_out". Raises NearlError where the adapter's trust is unusable.
    """

    meta: dict
    results: dict | None = None
    rows: Sequence[dict] = ()
    curve: Sequence[dict] = ()
    cautions: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.results is not None and not readable(self.results):
            self.results = None
            self.cautions.append("The figures that came with this adapter have another layout and are left out.")
        self.trust = None if self.meta.get("trust") is None else Trust.from_dict(self.meta["trust"])

    @classmethod
    def from_run(cls, run) -> Report:
        """Of a `nearl.runs.RunFolder`. Raises NearlError where nothing has come of it."""
        outcome = run.outcome()
        if outcome is None:
            raise NearlError("This run has not come to anything yet, so there is nothing to report; let it finish.")
        return cls(outcome.adapter.meta, outcome.results, outcome.rows, run.events)

    @property
    def title(self) -> str:
        name = plain(self.meta.get("name") or "")
        return name or "What teaching did"

    @property
    def classes(self) -> list[str]:
        """The class names as they were measured, else as they were taught; at most 64."""
        names = self.results["classes"] if self.results else self.meta.get("classes") or []
        return [plain(name) for name in names[:MAX_CLASSES]]

    @property
    def taught(self) -> list[tuple[str, int, str]]:
        """(class, images it was taught with, its prompts) in class order."""
        counts = self.meta.get("support_counts") or {}
        prompts = {}
        for entry in (self.meta.get("prompts") or {}).get("classes") or []:
            if isinstance(entry, dict) and isinstance(entry.get("prompts"), list):
                prompts[plain(entry.get("name"))] = "; ".join(plain(p) for p in entry["prompts"][:32])
        counts = {plain(name): _count(n) for name, n in counts.items()}
        names = [plain(name) for name in (self.meta.get("classes") or [])[:MAX_CLASSES]]
        return [(name, counts.get(name, 0), prompts.get(name, "")) for name in names]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was taught with what, as (name, value)."""
        backbone = self.meta.get("backbone") or {}
        model = plain(str(backbone.get("name")).removeprefix("local-dir:").replace("\\", "/").rstrip("/"))
        model = model.rsplit("/", 1)[-1] if str(backbone.get("name")).startswith("local-dir:") else model
        images = sum(n for _, n, _ in self.taught)
        return [
            ("Model", f"{model}, frozen (weights {plain(backbone.get('weights'))[:12]})"),
            ("Method", plain(self.meta.get("method"))),
            ("Taught with", f"{count(images, 'image')} in {count(len(self.taught), 'class', 'classes')}"),
            ("Made", plain(self.meta.get("created"))[:16].replace("T", " ") + " UTC"),
            ("Licence", plain(self.meta.get("licence"))),
        ]

    @property
    def headline(self) -> str:
        """What came of it, in one sentence."""
        if not self.results or self.results["frozen"] is None:
            return "Nothing was measured, so how well it does on new images is not known."
        before, after = self.results["frozen"], self.results["adapted"]
        if self.results["too_few"]:
            return self.results["too_few"]
        was = percent(before["balanced_accuracy"])
        if after is None:
            return f"Before teaching, {was} were right, each class counted equally."
        sentence = (
            f"Of images not taught with, {was} were right before teaching and "
            f"{percent(after['balanced_accuracy'])} after, each class counted equally"
        )
        low, high = self.results["gain"]["interval"]
        if low <= 0 <= high:
            return f"{sentence}; the difference may be chance ({points(low)} to {points(high)} points)."
        return f"{sentence}; a change of {points(low)} to {points(high)} points (95 % interval)."

    @property
    def how(self) -> str:
        """On what the figures were measured."""
        kind = self.results["kind"] if self.results else "none"
        words = HOW[kind].format(n=count(self.results["n"] if self.results else 0, "image"))
        few = " So few say no more than a hint." if self.results and self.results["few"] and kind != "none" else ""
        return words + few

    def figures(self) -> list[tuple[str, dict, dict | None]]:
        """(name, before, after) of every figure; a figure is {"value", "interval", "words"}, "value" None where too
        few images say too little."""
        if not self.results or self.results["frozen"] is None:
            return []
        before, after = self.results["frozen"], self.results["adapted"]
        return [
            (name, _figure(before, key, share), None if after is None else _figure(after, key, share))
            for key, (name, share) in FIGURES.items()
        ]

    def recalls(self) -> list[tuple[str, dict, dict | None]]:
        """The same for the share of each class that was recognised, in class order, with numbered names."""
        if not self.results or self.results["frozen"] is None:
            return []
        before, after = self.results["frozen"]["recall"], (self.results["adapted"] or {}).get("recall")
        return [
            (f"{i + 1}  {name}", _recall(before[i]), None if after is None else _recall(after[i]))
            for i, name in enumerate(self.classes)
        ]

    def trust_words(self) -> list[str]:
        """How far its readings can be trusted, in sentences."""
        if self.trust is None:
            return []
        words, t = [], self.trust
        if t.temperature is not None:
            bold = "too bold" if t.temperature > 1.05 else "too timid" if t.temperature < 0.95 else "about right"
            fitted = ", fitted on models taught on parts" if t.folds else ""
            words.append(
                f"Shares were {bold} on the images kept aside; readings are calibrated (temperature "
                f"{t.temperature:.2f}{fitted})."
            )
        if t.coverage:
            words.append(
                f"A reading names the classes among which the true one is in {percent(float(t.coverage))} of cases, "
                "for images like those kept aside."
            )
        if t.far is not None:
            words.append("Images unlike those it was taught with are marked; about 1 in 20 ordinary ones is, too.")
        return words + [plain(reason) for reason in t.notes()]

    def limits(self) -> tuple[str, ...]:
        """What no figure here can tell."""
        return LIMITS if self.figures() else LIMITS[1:]

    def losses(self) -> list[tuple[int, float]]:
        """(step, error) of the adapter's own teaching."""
        return self._curve("loss")

    def held(self) -> list[tuple[int, float]]:
        """(step, balanced accuracy on the images kept aside) of the adapter's own teaching."""
        return self._curve("held_out")

    def _curve(self, key: str) -> list[tuple[int, float]]:
        own = [event for event in self.curve if event.get("phase") == "teaching"]
        return [(event["step"], event[key]) for event in own if event.get(key) is not None]


# --------------------------------------------------------------------------------------------------------------- words


def plain(text: object) -> str:
    """Any value as one line of printable text: no control characters, no half characters, nothing that turns the
    direction of writing."""
    return " ".join(printable(str(text)).split())


def printable(text: str) -> str:
    """The text with a space for every character that cannot be printed."""
    return "".join(c if c.isprintable() or c in JOINERS else " " for c in text)


def count(n: int, one: str, many: str | None = None) -> str:
    """3, "image" -> "3 images"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """0.714 -> "71 %"."""
    return f"{100 * share:.0f}\u202f%"


def points(difference: float) -> str:
    """A difference of shares in whole points, with its sign: 0.31 -> "+31"."""
    return f"{100 * difference:+.0f}".replace("-", "\N{MINUS SIGN}")


def _figure(figures: dict, key: str, share: bool) -> dict:
    value, interval = figures[key], figures[f"{key}_interval"]
    write = percent if share else "{:.2f}".format
    if value is None:
        return {"value": None, "interval": interval, "words": "too few to say"}
    low, high = (write(end).removesuffix("\u202f%") for end in interval)
    return {"value": value, "interval": interval, "words": f"{write(value)} ({low} to {high})"}


def _recall(row: dict) -> dict:
    words = f"{row['right']} of {row['n']}"
    if row["recall"] is None:
        words += ", too few to say" if row["n"] else ""
    return {"value": row["recall"], "interval": row["interval"], "words": words}


# --------------------------------------------------------------------------------------------------------------- checks


def readable(results: object) -> bool:
    """Whether these are the results of `nearl.measure.evaluate.study`, number for number in its range."""
    try:
        return _readable(results)
    except (TypeError, KeyError, AttributeError, ValueError, OverflowError):
        return False


def _readable(results: dict) -> bool:
    names, gain = results["classes"], results["gain"]
    return (
        isinstance(names, list)
        and 0 < len(names) <= MAX_CLASSES
        and all(isinstance(name, str) for name in names)
        and results["kind"] in HOW
        and isinstance(results["too_few"], str)
        and isinstance(results["few"], bool)
        and _count(results["n"]) == results["n"]
        and (gain is None or (_within(gain["value"], -1, 1) and _interval(gain["interval"], -1, 1)))
        and (gain is not None) == (results["adapted"] is not None)
        and (results["frozen"] is not None or results["adapted"] is None)
        and all(results[key] is None or _figures(results[key], len(names)) for key in ("frozen", "adapted"))
        and (results["too_few"] != "" or _all_said(results))
    )


def _all_said(results: dict) -> bool:
    """Whether the figures of the headline are there."""
    return all(results[key] is None or results[key]["balanced_accuracy"] is not None for key in ("frozen", "adapted"))


def _figures(figures: dict, classes: int) -> bool:
    return (
        all(
            _within(figures[key]) and (_interval(figures[f"{key}_interval"]) or figures[key] is None) for key in FIGURES
        )
        and len(figures["recall"]) == classes
        and all(_count(r["n"]) == r["n"] and _count(r["right"]) == r["right"] for r in figures["recall"])
        and all(_within(r["recall"]) and (_interval(r["interval"]) or r["n"] == 0) for r in figures["recall"])
        and len(figures["confusion"]) == classes
        and all(len(row) == classes and all(_count(n) == n for n in row) for row in figures["confusion"])
        and 0 < len(figures["reliability"]) <= 100
        and all(_bin(b) for b in figures["reliability"])
    )


def _bin(b: dict) -> bool:
    inside = b["n"] == 0 or None not in (b["confidence"], b["right"], b["interval"])
    spans = b["interval"] is None or _interval(b["interval"])
    shares = all(_within(b[key]) for key in ("low", "high", "confidence", "right"))
    return inside and spans and shares and _count(b["n"]) == b["n"] and None not in (b["low"], b["high"])


def _within(value: object, low: float = 0, high: float = 1) -> bool:
    return value is None or (isinstance(value, (int, float)) and low <= value <= high)


def _interval(pair: object, low: float = 0, high: float = 1) -> bool:
    return (
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(v is not None and _within(v, low, high) for v in pair)
    )


def _count(value: object) -> int:
    """A whole number of things; 0 for anything else."""
    return value if type(value) is int and 0 <= value < 10**9 else 0
