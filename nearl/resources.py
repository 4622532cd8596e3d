"""Where the files that come with the package are: weights, prompts, examples and what the page is made of."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def _find() -> Path:
    """`nearl/assets` of an installed package, else `assets/` of a checkout."""
    installed = Path(str(files("nearl"))) / "assets"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / "assets"


ASSETS = _find()
