"""What a reader hands on: a JSON header and then the numbers, piece by piece, so that nothing is held twice.

A draft crosses from the worker process to the app as plain JSON and raw bytes, never as code. The app checks the
header before it believes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nearl.data.formats.volume import LETTERS, Scan
from nearl.data.formats.windows import FUNCTIONS, Table, Window
from nearl.errors import NearlError

PICTURE, SCAN = "picture", "scan"
DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<f8")
MAX_SCAN_BYTES = 600_000_000  # 512 x 512 x 1100 slices of 16 bits (our choice)
MAX_NOTES = 20


@dataclass
class Draft:
    """A picture (uint8 [H, W, 3]) or a scan (as Scan.voxels) on its way. ``meta`` is plain JSON; ``chunks`` yields
    contiguous arrays that fill ``shape`` in C order, and may raise NearlError."""

    source: int  # which of the sources it came from, or began with
    name: str
    kind: str
    meta: dict
    shape: tuple[int, ...]
    dtype: str
    chunks: Iterable[np.ndarray]

    def header(self) -> dict:
        keys = ("source", "name", "kind", "meta", "shape", "dtype")
        return {key: getattr(self, key) for key in keys}


def stored_dtype(dtype: np.dtype) -> str:
    """The little-endian name of a dtype that a draft can carry. Raises NearlError for others."""
    name = np.dtype(dtype).newbyteorder("<").str
    name = name.replace("<u1", "|u1").replace("<i1", "|i1")
    if name not in DTYPES:
        raise NearlError(f"numbers of the type {np.dtype(dtype).name} cannot be shown")
    return name


def space_for(header: dict) -> np.ndarray:
    """An empty array as a header asks for. Raises ValueError for anything that no honest reader sends."""
    shape, kind = header["shape"], header["kind"]
    if kind not in (PICTURE, SCAN) or header["dtype"] not in DTYPES:
        raise ValueError("unknown kind of draft")
    dims = (3,) if kind == PICTURE else (4, 5)
    if len(shape) not in dims or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError("impossible shape")
    if len(shape) != 4 and (shape[-1] != 3 or header["dtype"] != "|u1"):
        raise ValueError("impossible colours")
    size = np.dtype(header["dtype"]).itemsize
    for n in shape:
        size *= n
    if size > MAX_SCAN_BYTES:
        raise ValueError("more than is allowed")
    return np.empty(shape, np.dtype(header["dtype"]))


def scan_meta(
    slope: np.ndarray, intercept: np.ndarray, windows: tuple[Window, ...], table: Table | None, **rest
) -> dict:
    """The header of a scan as plain JSON; ``rest`` are fields of Scan that are JSON already."""
    return {
        "slope": slope.tolist(),
        "intercept": intercept.tolist(),
        "windows": [[w.name, w.center, w.width, w.function] for w in windows],
        "table": None if table is None else [table.first, table.entries.tolist(), table.top],
        **rest,
    }


def scan_from(meta: dict, voxels: np.ndarray) -> Scan:
    """A Scan of checked fields. Raises ValueError, KeyError or TypeError for what does not fit."""
    voxels.setflags(write=False)
    slope, intercept = np.array(meta["slope"], np.float64), np.array(meta["intercept"], np.float64)
    if not slope.shape == intercept.shape == voxels.shape[:2] or not np.isfinite([slope, intercept]).all():
        raise ValueError("scales that do not fit")
    windows = tuple(Window(str(n)[:40], float(c), float(w), str(f)) for n, c, w, f in meta["windows"])
    if any(
        w.function not in FUNCTIONS or not w.width > 0 or not np.isfinite([w.center, w.width]).all() for w in windows
    ):
        raise ValueError("impossible window")
    table = meta["table"]
    if table is not None:
        table = Table(int(table[0]), np.array(table[1], np.float64), max(int(table[2]), 1))
    axes = None if meta.get("axes") is None else np.array(meta["axes"], np.float64)
    if axes is not None and (axes.shape != (3, 3) or not np.isfinite(axes).all()):
        raise ValueError("impossible directions")
    spacing = tuple(float(s) if s and 0 < s < 1e4 else None for s in meta.get("spacing") or (None,) * 3)
    sides = meta.get("sides")
    if sides is not None and any(set(side) - set("".join(LETTERS)) for side in sides):
        raise ValueError("impossible sides")
    return Scan(
        voxels,
        slope,
        intercept,
        modality=str(meta.get("modality", ""))[:4],
        spacing=spacing,
        axes=axes,
        oriented=bool(meta.get("oriented", True)),
        aspect=float(meta.get("aspect") or 1.0),
        sides=None if sides is None else (sides[0][:3], sides[1][:3]),
        windows=windows,
        table=table,
        whites_low=bool(meta.get("whites_low")),
        padding=meta.get("padding"),
        full_range=meta.get("full_range"),
        facts=dict(meta.get("facts", {})),
        notes=tuple(str(note)[:300] for note in meta.get("notes", ())[:MAX_NOTES]),
    )
