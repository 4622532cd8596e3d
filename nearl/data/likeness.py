"""Pictures that show nearly the same: re-encoded, resized, slightly cropped, brighter or darker copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from nearl.data.records import ImageRecord

SIDE = 32
ALIKE = 0.97


def near_pairs(records: Sequence[ImageRecord], others: Sequence[ImageRecord] | None = None) -> list[tuple[int, int]]:
    """(i, j) of pictures that are nearly, not exactly, equal: i < j within records, or i in records and j in others."""
    a = _details(records)
    b = a if others is None else _details(others)
    found = np.argwhere(a @ b.T > ALIKE)
    second = records if others is None else others
    return [
        (int(i), int(j)) for i, j in found if (others is not None or i < j) and records[i].digest != second[j].digest
    ]


def _details(records: Sequence[ImageRecord]) -> np.ndarray:
    small = np.zeros((len(records), SIDE, SIDE), np.float32)
    for row, record in enumerate(records):
        small[row] = record.image().convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    flat = small.reshape(len(records), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
