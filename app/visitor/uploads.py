"""Uploaded files. Gradio keeps them on disk under their own names; the app deletes them as soon as they are read."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from nearl.data.images import base_name


def root() -> Path:
    """Gradio's folder for uploads and downloads."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()


def forget(paths: Iterable[str | Path]) -> None:
    """Delete those of the files that are in Gradio's folder for uploads; examples and files elsewhere stay."""
    for path in map(Path, paths):
        with contextlib.suppress(OSError):
            if path.resolve().is_relative_to(root()):
                path.unlink()
                path.parent.rmdir()


def neutral(paths: Iterable[str | Path], word: str = "image") -> list[tuple[str, Path]]:
    """Numbers in place of names, for answers that are not for the visitor's own screen: [("image 1", path), ...]."""
    return [(f"{word} {number}", Path(path)) for number, path in enumerate(paths, start=1)]


def without_names(text: str, paths: Iterable[str | Path], word: str = "file") -> str:
    """The text with numbers in place of the names of uploaded files."""
    for name, path in neutral(paths, word):
        text = text.replace(base_name(path.name), name)
    return text
