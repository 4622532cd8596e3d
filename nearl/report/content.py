"""What a report says, in words and numbers, wherever it is shown. Adapters may come from anybody, so everything taken
from one is checked or made plain here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nearl.adapters.taught import taught_with
from nearl.data.splits import FEW_OF_CLASS
from nearl.errors import NearlError
from nearl.methods import title as method_title
from nearl.prompts import ABSENT, FINDINGS, MAX_CLASSES
from nearl.reading.trust import Trust
from nearl.report.results import readable
from nearl.report.words import flattered, per_cent, plain, plural, verdict

if TYPE_CHECKING:
    from PIL import Image

FIGURES = {  # key of `nearl.measure.evaluate.evaluate` -> its name on the printed page
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "auroc": "AUROC",
    "ece": "Calibration error (lower is better)",
}
HOW = {
    "given": "Checked on {n}, which came separately and were not used for teaching.",
    "held-out": "Checked on {n}, kept aside before teaching and not used for it.",
    "folds": "Checked on {n} by cross-validation, each read by a model taught on others. The adapter itself was then "
    "taught on all of them, so the figures are for its recipe, not for this very adapter.",
    "none": "Not checked on images other than those it was taught with.",
}
OF_FINDINGS = {
    "macro_auroc": "AUROC, mean of the findings",
    "macro_sensitivity": "Sensitivity, mean",
    "macro_specificity": "Specificity, mean",
}
LIMITS = (
    "The intervals (95 %) are for the choice of images alone: other images of the same kind, from the same place. "
    "Images from another scanner, hospital or population may be read worse, and no figure here can tell.",
    "Shares are relative to the classes named: an image of anything else is still read as one of them.",
    "The adapter may have learned what the images of a class share by accident, such as a marker or a border.",
)
LIMITS_OF_FINDINGS = (
    LIMITS[0],
    "Each share is that of the prompts for present against those for absent: what no finding names is not looked for.",
    "The adapter may have learned what the images with a finding share by accident, such as a tube or a marker.",
)


@dataclass
class Report:
    """A run to report on.

    Raises NearlError where what the adapter says about its trust is unusable.
    """

    meta: dict  # of the Adapter
    # of `nearl.measure.evaluate.study`, None where nothing was measured; in any other layout they are left out and a
    # caution says so
    results: dict | None = None
    rows: Sequence[dict] = ()  # of `nearl.measure.evaluate.rows`
    curve: Sequence[dict] = ()  # events of a run with "phase", "step", "loss", "held_out"
    notes: Sequence[str] = ()  # what to know of the images
    # of a row: its image, for a picture beside each mistake; None where no picture is asked for
    picture: Callable[[dict], Image.Image | None] | None = None
    cautions: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if self.results is not None and not readable(self.results):
            self.results = None
            self.cautions.append("The figures that came with this adapter have another layout and are left out.")
        self.cautions += [plain(note) for note in self.notes]
        self.trust = None if self.meta.get("trust") is None else Trust.from_dict(self.meta["trust"])

    @property
    def legend(self) -> str:
        """What the bars show: before and after teaching, or the one that was measured."""
        after = self.results is not None and self.results["adapted"] is not None
        what = "Outline: before teaching. Filled: after." if after else "Outline: before teaching; nothing was taught."
        return f"{what} The line across a bar is the 95 % interval."

    def thumbnail(self, row: dict, side: int = 160) -> Image.Image | None:
        """A small picture of a mistake, RGB without any metadata, where one is asked for and the image is there."""
        found = None if self.picture is None else self.picture(row)
        if found is not None:
            found = found.convert("RGB")
            found.thumbnail((side, side))
        return found

    @classmethod
    def from_run(cls, run) -> Report:
        """Of a `nearl.runs.RunFolder`. Raises NearlError where it has no result."""
        outcome = run.outcome()
        if outcome is None:
            raise NearlError("This run has no result yet, so there is nothing to report; let it finish.")
        status = run.look()
        held = dict(status.held)
        curve = [{"phase": "teaching", "step": s, "loss": x, "held_out": held.get(s)} for s, x in status.losses]
        return cls(outcome.adapter.meta, outcome.results, outcome.rows, curve, run.about.notes)

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
    def findings(self) -> list[str]:
        """The names of the findings; none where it was taught classes."""
        if self.results is not None:
            return [plain(name) for name in self.results.get("findings") or ()]
        prompts = self.meta.get("prompts")
        several = isinstance(prompts, dict) and prompts.get("kind") == FINDINGS
        return self.classes[::2] if several else []

    @property
    def shown(self) -> dict | None:
        """The results with plain names, or None where no image was measured."""
        if not self.results or not self.results["frozen"]:
            return None
        found = {**self.results, "classes": self.classes}
        for which in ("frozen", "adapted"):
            if self.findings and found[which]:
                named = zip(found[which]["per_finding"], self.findings, strict=True)
                found[which] = {**found[which], "per_finding": [{**row, "finding": name} for row, name in named]}
        return found | ({"findings": self.findings} if self.findings else {})

    @property
    def taught(self) -> list[tuple[str, int, str]]:
        """(class, images it was taught with, its prompts) in class order."""
        counts = self.meta.get("support_counts") or {}
        prompts = {}
        for entry in (self.meta.get("prompts") or {}).get("classes") or []:
            for key, before in (("prompts", ""), ("absent", ABSENT)):
                if isinstance(entry, dict) and isinstance(entry.get(key), list):
                    prompts[before + plain(entry.get("name"))] = "; ".join(plain(p) for p in entry[key][:32])
        counts = {plain(name): _count(n) for name, n in counts.items()}
        names = [plain(name) for name in (self.meta.get("classes") or [])[:MAX_CLASSES]]
        return [(name, counts.get(name, 0), prompts.get(name, "")) for name in names]

    @property
    def taught_with(self) -> int:
        """How many images, or studies, it was taught with."""
        return taught_with(self.meta)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What was taught with what, as (name, value)."""
        backbone = self.meta.get("backbone") or {}
        model = plain(str(backbone.get("name")).removeprefix("local-dir:").replace("\\", "/").rstrip("/"))
        model = model.rsplit("/", 1)[-1] if str(backbone.get("name")).startswith("local-dir:") else model
        return [
            ("Model", f"{model}, frozen (weights {plain(backbone.get('weights'))[:12]})"),
            ("Method", plain(method_title(str(self.meta.get("method"))))),
            ("Taught with", f"{plural(self.taught_with, 'image')} {self._of}"),
            ("Made", plain(self.meta.get("created"))[:16].replace("T", " ") + " UTC"),
            ("Licence", plain(self.meta.get("licence"))),
        ]

    @property
    def _of(self) -> str:
        if self.findings:
            return f"with {plural(len(self.findings), 'finding')}"
        return f"in {plural(len(self.taught), 'class', 'classes')}"

    @property
    def headline(self) -> str:
        """The result: first what the check supports, then the figures."""
        if not self.results or self.results["frozen"] is None:
            return "Nothing was measured, so how well it does on new images is not known."
        before, after = self.results["frozen"], self.results["adapted"]
        if self.findings:
            each = [(one and one["macro_auroc"], when) for one, when in ((before, "before"), (after, "after"))]
            words = " and ".join(f"{value:.2f} {when}" for value, when in each if value is not None)
            said = verdict(self.results) if after is not None else self.results["too_few"]
            return " ".join(filter(None, (said, words and f"Mean AUROC of the findings: {words} teaching.")))
        was = per_cent(before["balanced_accuracy"]) if before["balanced_accuracy"] is not None else None
        if after is None:
            return self.results["too_few"] or f"Before teaching, {was} were correct, each class counted equally."
        if self.results["too_few"]:
            return verdict(self.results)
        return (
            f"{verdict(self.results)} Of images it was not taught with, {was} were correct before teaching and "
            f"{per_cent(after['balanced_accuracy'])} after, each class counted equally."
        )

    @property
    def how(self) -> str:
        """Which images the figures were measured on."""
        kind = self.results["kind"] if self.results else "none"
        words = HOW[kind].format(n=plural(self.results["n"] if self.results else 0, "image"))
        few = " So few say no more than a hint." if self.results and self.results["few"] and kind != "none" else ""
        return " ".join(filter(None, (words + few, flattered(self.results))))

    def figures(self) -> list[tuple[str, dict, dict | None]]:
        """(name, before, after) of every figure; a figure is {"value", "interval", "words"}, "value" None where too
        few images say too little."""
        if not self.results or self.results["frozen"] is None:
            return []
        before, after = self.results["frozen"], self.results["adapted"]
        return [
            (name, _figure(before, key), None if after is None else _figure(after, key))
            for key, name in (OF_FINDINGS if self.findings else FIGURES).items()
        ]

    def aurocs(self) -> list[tuple[str, dict, dict | None]]:
        """As `figures`, the AUROC of each finding, with numbered names."""
        if not self.findings or not self.results or self.results["frozen"] is None:
            return []
        before, after = (self.results[which] and self.results[which]["per_finding"] for which in ("frozen", "adapted"))
        return [
            (f"{i + 1}  {name}", _figure(before[i], "auroc"), None if after is None else _figure(after[i], "auroc"))
            for i, name in enumerate(self.findings)
        ]

    def recalls(self) -> list[tuple[str, dict, dict | None]]:
        """The same for the share of each class that was recognised, in class order, with numbered names."""
        if not self.results or self.results["frozen"] is None or self.findings:
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
            how = (
                "overconfident" if t.temperature > 1.05 else "underconfident" if t.temperature < 0.95 else "about right"
            )
            fitted = ", fitted on models taught on parts" if t.folds else ""
            words.append(
                f"Shares were {how} on the images kept aside; readings are calibrated (temperature "
                f"{t.temperature:.2f}{fitted})."
            )
        if t.coverage:
            words.append(
                f"A reading names the classes among which the true one is in {per_cent(float(t.coverage))} of cases, "
                "for images like those kept aside."
            )
        if t.thresholds is not None:
            words.append(
                "From which share on a finding counts as present was chosen on the images that it was taught with."
            )
        if t.far is not None:
            words.append(
                "Images unlike those it was taught with are marked; about 1 in 20 ordinary ones is marked by mistake."
            )
        return words + [plain(reason) for reason in t.notes()]

    def limits(self) -> tuple[str, ...]:
        """What none of these figures can show."""
        found = LIMITS_OF_FINDINGS if self.findings else LIMITS
        return found if self.figures() else found[1:]

    def losses(self) -> list[tuple[int, float]]:
        """(step, loss) of the adapter's own teaching."""
        return self._curve("loss")

    def held(self) -> list[tuple[int, float]]:
        """(step, balanced accuracy on the held-out images) of the adapter's own teaching."""
        return self._curve("held_out")

    def _curve(self, key: str) -> list[tuple[int, float]]:
        own = [event for event in self.curve if event.get("phase") == "teaching"]
        return [(event["step"], event[key]) for event in own if event.get(key) is not None]


def _figure(figures: dict, key: str) -> dict:
    value, interval = figures[key], figures[f"{key}_interval"]
    write = "{:.2f}".format if key.endswith("auroc") else per_cent
    if value is None:
        return {"value": None, "interval": interval, "words": "too few to say"}
    low, high = (write(end).removesuffix("\u202f%") for end in interval)
    return {"value": value, "interval": interval, "words": f"{write(value)} ({low} to {high})"}


def _recall(row: dict) -> dict:
    value = row["recall"] if row["n"] >= FEW_OF_CLASS else None
    return {"value": value, "interval": row["interval"], "words": f"{row['right']} of {row['n']}"}


def _count(value: object) -> int:
    """A whole number of things; 0 for anything else."""
    return value if type(value) is int and 0 <= value < 10**9 else 0
