"""Where the files that come with the package are: weights, prompts, examples and what the page is made of."""

from __future__ import annotations

from pathlib import Path


def _find() -> Path:
    """`nearl/assets` of an installed package, else `assets/` of a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "assets"
    return installed if installed.is_dir() else package.parent / "assets"


ASSETS = _find()
