"""Embeddings kept on disk, so that a gallery is indexed once.

One SQLite file: for each model, the unit embeddings of images by the SHA-256 of the content that they were computed
from. It holds no image, no file name and no text. A gallery that was moved, renamed or added to finds what is there,
and several programs may use the file at the same time.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from nearl.errors import NearlError

PATIENCE = 30.0  # seconds to wait while another program writes
AT_ONCE = 500  # keys in one question
OFF = 1e-2  # from a length of 1, above which an embedding is damaged (our choice)


class Index:
    """Embeddings in a file, which is made if it is missing. NearlError where it cannot be used."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
            with self._file:
                self._file.execute(
                    "CREATE TABLE IF NOT EXISTS vectors "
                    "(model TEXT, image TEXT, vector BLOB, PRIMARY KEY (model, image))"
                )
        except (sqlite3.Error, OSError) as error:
            raise NearlError(
                f"The index '{path}' cannot be used ({error}); remove it, or choose another one with --index."
            ) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def get(self, model: str, images: Iterable[str], width: int) -> dict[str, np.ndarray]:
        """The embeddings float32 [width] that are there, by the keys of ``images``; a damaged one counts as missing."""
        keys, found = list(dict.fromkeys(images)), {}
        for start in range(0, len(keys), AT_ONCE):
            some = keys[start : start + AT_ONCE]
            marks = ",".join("?" * len(some))
            with self._told():
                rows = self._file.execute(
                    f"SELECT image, vector FROM vectors WHERE model = ? AND image IN ({marks})", [model, *some]
                ).fetchall()
            found |= {
                key: np.frombuffer(blob, "<f4")
                for key, blob in rows
                if isinstance(blob, bytes) and len(blob) == 4 * width
            }
        return {key: vector for key, vector in found.items() if abs(np.linalg.norm(vector) - 1) < OFF}

    def add(self, model: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Keep embeddings float32 [E] by their keys, all of them or none."""
        rows = [(model, key, np.asarray(vector, "<f4").tobytes()) for key, vector in vectors.items()]
        with self._told(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)

    @contextlib.contextmanager
    def _told(self):
        try:
            yield
        except sqlite3.Error as error:
            raise NearlError(f"The index '{self.path}' is damaged or full ({error}); remove it.") from error


def usual_place() -> Path:
    """Where the index is kept unless another place is named: ``nearl/gallery.sqlite`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nearl" / "gallery.sqlite"
