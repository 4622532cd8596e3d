"""Numbers and names as readers see them: on the page, in the report and in its table."""

from __future__ import annotations

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


# The figures of a result: key of `nearl.measure.evaluate.evaluate` -> its name and its term with what it means.
FIGURES = {
    "balanced_accuracy": ("Correct on images it had not seen", "balanced accuracy: every class counts the same"),
    "accuracy": ("Correct, every image counted the same", "accuracy"),
    "auroc": ("Ranks the true class above the others", "AUROC: 50 % is chance, 100 % is always"),
    "ece": ("Calibration error, lower is better", "expected calibration error"),
}
