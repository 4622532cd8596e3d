"""A run's results, to keep and to show: a web page, one printed page, and a table of the images."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearl.report.content import Report
    from nearl.report.page import html
    from nearl.report.sheet import pdf
    from nearl.report.table import csv

__all__ = ["Report", "csv", "html", "pdf"]

_HOME = {"Report": "content", "csv": "table", "html": "page", "pdf": "sheet"}


def __getattr__(name: str) -> object:
    """Load a part when it is first used: the page needs the words and templates without torch and matplotlib."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
