"""HTML from Jinja templates; everything put into them is escaped. The page's templates share these charts."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nearl.data.splits import FEW_OF_CLASS
from nearl.report import words

TEMPLATES = Path(__file__).parent / "templates"


def environment(*folders: Path) -> Environment:
    """The templates of these folders and of the report, with the filters that they use."""
    found = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    found.globals["FEW_OF_CLASS"] = FEW_OF_CLASS
    found.filters |= {
        "per_cent": lambda value: words.per_cent(float(value)),
        "span": words.span,
        "plural": words.plural,
        "points": words.points,
        "fixed": lambda value, digits=1: f"{float(value):.{digits}f}",
        "thousands": lambda n: f"{n:,.0f}".replace(",", "\u202f"),
        "seconds": seconds,
        "css": lambda share: f"{100 * min(max(float(share), 0.0), 1.0):.1f}%",
    }
    return found


def seconds(value: float) -> str:
    """0.02 -> "0", 12.3 -> "12"; tenths below ten."""
    if value < 0.05:
        return "0"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
