"""The HTML of the page: Jinja templates in `templates/`, which escape whatever is put into them."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from nearl.report.render import environment

LONGEST = 14  # characters of a word below a small image
ELLIPSIS = "\u2060…\u2060"  # at which no line ends


def middle(name: str) -> str:
    """A name whose long words lack their middle, so that none is broken at the end of a line: "IMG_2…234.dcm"."""
    cut = lambda word: word if len(word) <= LONGEST else f"{word[:5]}{ELLIPSIS}{word[-7:]}"  # noqa: E731
    return " ".join(map(cut, name.split(" ")))


_environment = environment(Path(__file__).parent / "templates")
_environment.filters["middle"] = middle


def render(template: str, **data: object) -> str:
    """The HTML of a template. The result may be put into another template as it is."""
    return Markup(_environment.get_template(template).render(data))
