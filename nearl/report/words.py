"""Numbers and names as readers see them: on the page, in the report and in its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

JOINERS = "\u200c\u200d"  # inside words of some scripts


def per_cent(value: float) -> str:
    """0.714 -> "71 %" with a narrow no-break space; a share that only rounds to 0 or 100 per cent says so."""
    if 0 < value < 0.005:
        return "< 1\u202f%"
    if 0.995 < value < 1:
        return "> 99\u202f%"
    return f"{100 * value:.0f}\u202f%"


def span(interval: tuple[float, float]) -> str:
    """(0.48, 0.86) -> "48 to 86 %"."""
    low, high = (100 * min(max(float(end), 0.0), 1.0) for end in interval)
    return f"{low:.0f} to {high:.0f}\u202f%"


def points(difference: float) -> str:
    """A difference of shares in whole percentage points, with its sign: 0.31 -> "+31", 0.001 -> "0"."""
    whole = round(100 * difference)
    return f"{whole:+d}".replace("-", "\N{MINUS SIGN}") if whole else "0"


def plural(n: int, one: str, many: str | None = None) -> str:
    """3, "image" -> "3 images"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def plain(text: object) -> str:
    """Any value as one line of printable text, without control characters, half characters (lone surrogates) or
    characters that turn the direction of writing."""
    return " ".join(printable(str(text)).split())


def printable(text: str) -> str:
    """The text with a space for every character that cannot be printed."""
    return "".join(c if c.isprintable() or c in JOINERS else " " for c in text)


def shortened(name: str, most: int) -> str:
    """The name, cut to at most `most` characters."""
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def verdict(results: Mapping | None) -> str:
    """Whether teaching helped, as far as the check can tell, in one sentence. ``results``: of
    `nearl.measure.evaluate.study`; None where nothing was measured."""
    if not results or not (gain := results["gain"]):
        return "Nothing was measured, so whether teaching helped is not known."
    value, (low, high), n = gain["value"], gain["interval"], results["n"]
    few = f"{plural(n, 'image')} {'is' if n == 1 else 'are'} too few to say whether teaching helped."
    if "findings" in results:
        if results["few"]:  # the interval of so few can be a single point
            return few
        ends = f"95 % interval {low:+.2f} to {high:+.2f}".replace("-", "\N{MINUS SIGN}")
        if low > 0 or high < 0:
            return f"{'Better' if low > 0 else 'Worse'} by {abs(value):.2f} in macro AUROC, {ends}."
        return f"No clear sign that teaching helped: {value:+.2f} in macro AUROC, {ends}.".replace(
            "-", "\N{MINUS SIGN}"
        )
    if low > 0 or high < 0:
        near, far = sorted((abs(low), abs(high)))
        by = "" if value is None else f" by {plural(round(100 * abs(value)), 'point')}"
        return f"{'Better' if low > 0 else 'Worse'}{by}, 95 % interval {100 * near:.0f} to {100 * far:.0f}."
    if results["too_few"] or value is None:
        return few
    clear, unit = "clear " if round(100 * value) > 0 else "", "point" if abs(round(100 * value)) == 1 else "points"
    return (
        f"No {clear}sign that teaching helped: {points(value)} {unit}, 95 % interval {points(low)} to {points(high)}."
    )


def speaks_against(results: Mapping | None) -> bool:
    """Whether fewer of the held-out images were correct after teaching than before, each class counted equally; False
    where nothing was measured."""
    if not results or not results.get("adapted"):
        return False
    if "findings" in results:
        return bool(results["gain"]) and results["gain"]["interval"][1] < 0
    before, after = (_recall(results[which]["confusion"]) for which in ("frozen", "adapted"))
    return after < before - 1e-9


def _recall(confusion: Sequence[Sequence[int]]) -> float:
    """The mean recall of the classes that have images; `study` hides it where there are few."""
    shares = [row[i] / sum(row) for i, row in enumerate(confusion) if sum(row)]
    return sum(shares) / len(shares)


PRETRAINED = (
    "The model was pretrained with images of this kind, perhaps with these very ones: figures before teaching may "
    "flatter it."
)


def flattered(results: Mapping | None) -> str:
    """What to know of figures before teaching where the model learned from images of this kind (`nearl.measure`), in a
    sentence; "" elsewhere."""
    return PRETRAINED if results and results.get("pretrained") and results["frozen"] else ""


FINDING_FIGURES = {  # of `nearl.measure.findings.figures`
    "macro_auroc": ("Tells present from absent, mean of the findings", "macro AUROC: 0.5 is chance, 1 is always right"),
    "macro_sensitivity": ("Said to be present where it is", "mean sensitivity, at each finding's threshold"),
    "macro_specificity": ("Said to be absent where it is", "mean specificity, at each finding's threshold"),
}

# The figures of a result: key of `nearl.measure.evaluate.evaluate` -> its name and its term with what it means.
FIGURES = {
    "balanced_accuracy": ("Correct on images it had not seen", "balanced accuracy: every class counts the same"),
    "accuracy": ("Correct, every image counted the same", "accuracy"),
    "auroc": ("Ranks the true class above the others", "AUROC: 50 % is chance, 100 % is always"),
    "ece": ("Calibration error, lower is better", "expected calibration error"),
}
