"""What a format hands over: a JSON header and then the numbers in pieces, so that nothing is in memory twice.

A draft crosses from the worker process to the app as plain JSON and raw bytes, never as code. The app checks the
header before it trusts it: `space_for` and `scan_from` run on the app's side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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
    """A decoded image or scan on its way to the app. Made by `Draft.picture` or `Draft.scan`."""

    name: str
    kind: str  # PICTURE or SCAN
    meta: dict  # plain JSON
    shape: tuple[int, ...]  # [H, W, 3] of an image, [T, K, H, W] or [T, K, H, W, 3] of a scan, as Scan.voxels
    dtype: str  # one of DTYPES
    chunks: Iterable[np.ndarray]  # contiguous arrays that fill `shape` in C order; iterating may raise NearlError
    source: int = 0  # which of the sources it came from; set by the reader

    @classmethod
    def picture(cls, name: str, pixels: np.ndarray, notes: Sequence[str] = ()) -> Draft:
        """A still image, uint8 [H, W, 3]. notes: what decoding changed, in sentences."""
        pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
        return cls(name, PICTURE, {"notes": list(notes)}, pixels.shape, "|u1", [pixels])

    @classmethod
    def scan(
        cls,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        chunks: Iterable[np.ndarray],
        slope: np.ndarray | float = 1.0,
        intercept: np.ndarray | float = 0.0,
        **meta,
    ) -> Draft:
        """A scan of stored numbers [T, K, H, W] or uint8 colours [T, K, H, W, 3].

        slope, intercept: [T, K] or one for all, from stored numbers to physical values. meta: fields of `Scan` as plain
        JSON, but windows and table as they are. Raises NearlError for a dtype that is not in DTYPES.
        """
        windows, table = meta.pop("windows", ()), meta.pop("table", None)
        meta |= {
            "slope": np.broadcast_to(slope, shape[:2]).tolist(),
            "intercept": np.broadcast_to(intercept, shape[:2]).tolist(),
            "windows": [[w.name, w.center, w.width, w.function] for w in windows],
            "table": None if table is None else [table.first, table.entries.tolist(), table.top],
        }
        return cls(name, SCAN, meta, shape, stored_dtype(dtype, name), chunks)

    def header(self) -> dict:
        """Everything but the numbers, as plain JSON."""
        return {key: getattr(self, key) for key in ("source", "name", "kind", "meta", "shape", "dtype")}


def stored_dtype(dtype: np.dtype | type, name: str) -> str:
    """The little-endian name of a dtype. NearlError, naming the file, where a draft cannot carry it."""
    stored = np.dtype(dtype).newbyteorder("<").str
    if stored not in DTYPES:
        kind = np.dtype(dtype).name
        raise NearlError(f"{name} stores numbers of the type {kind}, which cannot be shown; save it as floats.")
    return stored


def space_for(header: dict) -> np.ndarray:
    """An empty array of the shape and dtype in a header. ValueError for an invalid header."""
    shape, kind = header["shape"], header["kind"]
    if kind not in (PICTURE, SCAN) or header["dtype"] not in DTYPES:
        raise ValueError("unknown kind of draft")
    dims = (3,) if kind == PICTURE else (4, 5)
    if len(shape) not in dims or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError("impossible shape")
    if len(shape) != 4 and (shape[-1] != 3 or header["dtype"] != "|u1"):
        raise ValueError("impossible colours")
    if math.prod(shape) * np.dtype(header["dtype"]).itemsize > MAX_SCAN_BYTES:
        raise ValueError("more than is allowed")
    return np.empty(shape, np.dtype(header["dtype"]))


def scan_from(meta: dict, voxels: np.ndarray) -> Scan:
    """A Scan of checked fields, settled by its values. ValueError, KeyError or TypeError for fields that do not fit."""
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
    padding = meta.get("padding")
    if padding is not None:
        padding = (float(min(padding)), float(max(padding)))
    scan = Scan(
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
        padding=padding,
        full_range=meta.get("full_range"),
        facts=dict(meta.get("facts", {})),
        notes=tuple(str(note)[:300] for note in meta.get("notes", ())[:MAX_NOTES]),
    )
    return scan.settled()
