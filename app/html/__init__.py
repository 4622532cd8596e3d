"""The HTML of the page: Jinja templates in `templates/`, which escape whatever is put into them."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from nearl.report.render import environment

_environment = environment(Path(__file__).parent / "templates")


def render(template: str, **data: object) -> str:
    """The HTML of a template. The result may be put into another template as it is."""
    return Markup(_environment.get_template(template).render(data))
