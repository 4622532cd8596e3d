"""Slices that do not lie straight above one another, moved in their plane by whole pixels.

A tilted gantry, a sheared transform or an origin that jumps moves slices within their plane. The planes across them
are right only once that is undone; whole pixels leave every number as it is (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_GROWTH = 2.0  # a stack that would grow beyond so many times its height or width is left as it is (our choice)
MOVED = (
    "The slices do not lie straight above one another (a tilted gantry, a sheared transform or a shifted origin); "
    "each was moved back in its plane by whole pixels."
)
SHEARED = "The slices do not lie straight above one another, by more than can be undone; the other planes are sheared."


@dataclass(frozen=True, eq=False)
class Canvas:
    """Where each slice lies in a larger frame."""

    rows: int
    columns: int
    corners: np.ndarray  # int [T, K, 2]: the row and column of each slice's first pixel

    def place(self, image: np.ndarray, number: int, outside: float | None = None, whites_low: bool = False):
        """A slice [1, 1, h, w] or [1, 1, h, w, 3] in the frame; `number` counts all slices of the first moment first.

        outside: what surrounds it; its own darkest value if None.
        """
        top, left = (int(v) for v in self.corners.reshape(-1, 2)[number])
        height, width = image.shape[2:4]
        if outside is None:
            outside = 0 if image.ndim == 5 else image.max() if whites_low else image.min()
        found = np.full((1, 1, self.rows, self.columns, *image.shape[4:]), outside, image.dtype)
        found[:, :, top : top + height, left : left + width] = image
        return found


def canvas(corners: np.ndarray | None, rows: int, columns: int) -> tuple[Canvas | None, str]:
    """(the frame that holds slices of this size at these corners, or None if none is moved; a note on it, or "").

    corners: int [T, K, 2] from zero, or None where they are unknown.
    """
    if corners is None or not corners.any():
        return None, ""
    height, width = (int(n) for n in corners.reshape(-1, 2).max(axis=0) + np.array([rows, columns]))
    if height > MOST_GROWTH * rows or width > MOST_GROWTH * columns:
        return None, SHEARED
    return Canvas(height, width, corners), MOVED
