"""NIfTI-1 and -2 in one file (.nii, .nii.gz). The header, read by nibabel, is checked before any voxel is read.

Its free-text fields and extensions are never read.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator

import numpy as np

from nearl.data.formats.base import Format
from nearl.data.formats.drafts import MAX_SCAN_BYTES, Draft, stored_dtype
from nearl.data.formats.shifted import SHEARED, Canvas, canvas
from nearl.data.formats.volume import MIN_SIDE
from nearl.data.formats.windows import Window
from nearl.errors import NearlError

HEADER_BYTES = 544  # of NIfTI-2, the longer one
UNITS = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
COLOURS = {128: 3, 2304: 4}  # data types RGB24 and RGBA32 -> bytes per voxel
NUMBERS = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)  # integers of 8 to 64 bits, floats of 32 and 64
COMPLEX = "complex numbers"
LEAST_VOLUME = 0.5  # of three unit directions; with less they are not those of a body (our choice)
MOST_ASKEW = 0.02  # cosine of the angle between rows and columns that pass for perpendicular (our choice)
SAME_WAY = 0.7  # cosine of the angle between two directions that pass for the same (our choice)
TWO_WAYS = (
    "The file says in two ways how it lies in the patient (sform and qform), and they contradict each other: the first "
    "is used; check left and right."
)
TYPES = {1: "1-bit masks", 32: COMPLEX, 1792: COMPLEX, 1536: "128-bit floats", 2048: COMPLEX}


class Nifti(Format):
    def sniff(self, head: bytes, name: str) -> bool:
        """Whether it is NIfTI, packed or not, alone or the header of a pair."""
        head = _unpacked(head, 352)
        return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:7] in (b"n+2", b"ni2")

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        """A scan [T, K, H, W]: axes 4, 3, 2 and 1 of the file, as they lie on disk.

        Raises NearlError for a header that is wrong, data types that are not grey or RGB, and a file that is cut short.
        """
        try:
            header = _header(_unpacked(data, HEADER_BYTES))
            code, shape = int(header["datatype"]), tuple(int(n) for n in header.get_data_shape())
            offset = int(header.get_data_offset())
            magic = bytes(header["magic"])
        except (MemoryError, ImportError):
            raise
        except Exception as error:  # a parser fed with untrusted bytes can raise anything
            raise NearlError(f"{name} is a NIfTI file but its header is damaged; export it again.") from error
        if magic[:3] in (b"ni1", b"ni2"):
            raise NearlError(f"{name} is one half of a NIfTI pair (.hdr and .img); save it as a single .nii file.")
        shape, dtype, channels = _layout(header, code, shape, name)
        size = " x ".join(map(str, shape))
        body = _body(data, name, offset, math.prod(shape) * channels * dtype.itemsize, size)
        full = (*shape, *(1,) * (4 - len(shape)))[::-1]  # moments, slices, rows, columns
        voxels = np.frombuffer(body, dtype, math.prod(shape) * channels, offset)
        voxels = voxels.reshape(*full, channels) if channels > 1 else voxels.reshape(full)
        try:
            meta, order, corners = _meta(header, voxels)
        except MemoryError:
            raise
        except Exception as error:
            raise NearlError(f"{name} is a NIfTI file but its header is damaged; export it again.") from error
        voxels = voxels.transpose(0, *(1 + axis for axis in order), *range(4, voxels.ndim))
        frame, words = canvas(corners, *voxels.shape[2:4])
        meta["notes"] += [words] if words else []
        rows, columns = voxels.shape[2:4] if frame is None else (frame.rows, frame.columns)
        shape = (*voxels.shape[:2], rows, columns) + ((3,) if channels > 1 else ())
        wide = dtype.kind in "iu" and dtype.itemsize == 8
        stored = np.dtype(stored_dtype(np.float64 if wide else dtype, name))
        if math.prod(shape) * stored.itemsize > MAX_SCAN_BYTES:
            raise NearlError(f"{name} is {size} voxels, more than can be held; save a smaller part of it.")
        return Draft.scan(name, shape, stored, _slices(voxels, stored, frame), **meta)


def _layout(header, code: int, shape: tuple[int, ...], name: str) -> tuple[tuple[int, ...], np.dtype, int]:
    """(shape of two to four dimensions, dtype and numbers of a voxel). NearlError for what cannot be shown or held."""
    if code not in NUMBERS and code not in COLOURS:
        kind = TYPES.get(code, "numbers of an unknown type")
        raise NearlError(
            f"{name} is a NIfTI file of {kind}, which cannot be shown; save it as whole numbers or floats."
        )
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 2 or len(shape) > 4 or min(shape) < 1:
        raise NearlError(f"{name} has {len(shape)} dimensions; save it as a 3-D or 4-D volume.")
    dtype, channels = np.dtype("u1") if code in COLOURS else header.get_data_dtype(), COLOURS.get(code, 1)
    size = " x ".join(map(str, shape))
    if math.prod(shape) * channels * dtype.itemsize > MAX_SCAN_BYTES:
        raise NearlError(f"{name} says it is {size} voxels, more than can be held; save a smaller part of it.")
    if sorted(shape[:3])[-2] < MIN_SIDE:
        raise NearlError(f"{name} is only {size} voxels; use one of at least {MIN_SIDE} x {MIN_SIDE} a slice.")
    return shape, dtype, channels


def _slices(voxels: np.ndarray, dtype: np.dtype, frame: Canvas | None) -> Iterator[np.ndarray]:
    slices = voxels.shape[1]
    for number in range(voxels.shape[0] * slices):
        image = voxels[number // slices, number % slices]
        image = np.ascontiguousarray(image[..., :3] if voxels.ndim == 5 else image, dtype=dtype)[None, None]
        yield image if frame is None else frame.place(image, number)


def _header(block: bytes):
    import nibabel

    if block[4:7] in (b"n+2", b"ni2"):
        return nibabel.Nifti2Header.from_fileobj(io.BytesIO(block[:540]), check=False)
    return nibabel.Nifti1Header.from_fileobj(io.BytesIO(block[:348]), check=False)


def _unpacked(data: bytes, size: int) -> bytes:
    """The first bytes of a file, unpacked where it is gzip."""
    if data[:2] != b"\x1f\x8b":
        return data[:size]
    try:
        return zlib.decompressobj(31).decompress(data[:65_536], size)
    except zlib.error:
        return b""


def _body(data: bytes, name: str, offset: int, needed: int, size: str) -> bytes | bytearray:
    """Everything up to the last voxel, and never more than the header declares."""
    if not HEADER_BYTES // 2 < offset <= 100_000_000:
        raise NearlError(f"{name} is a NIfTI file but its header is damaged; export it again.")
    if data[:2] == b"\x1f\x8b":
        if needed > 1_100 * len(data):  # gzip cannot pack tighter
            raise NearlError(f"{name} says it is {size} voxels but holds far less; save it again.")
        body = bytearray(offset + needed)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                at = 0
                while at < len(body) and (got := stream.readinto(memoryview(body)[at:])):
                    at += got
        except (OSError, EOFError, zlib.error):
            raise NearlError(f"{name} is a packed NIfTI file that is damaged or cut short; save it again.") from None
        data, body = body[:at] if at < len(body) else body, None
    if len(data) < offset + needed:
        raise NearlError(f"{name} says it is {size} voxels but is cut short; download or save it again.")
    return data


def _meta(header, voxels: np.ndarray) -> tuple[dict, tuple[int, int, int], np.ndarray | None]:
    """(everything but shape and numbers, as `Draft.scan` takes it, order of the array's axes, corners of slices)."""
    colour = voxels.ndim == 5
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if colour or not np.isfinite(slope) or slope == 0:  # not used
        slope, intercept = 1.0, 0.0
    intercept = intercept if np.isfinite(intercept) else 0.0
    notes, windows = [], ()
    oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    unit = UNITS.get(header.get_xyzt_units()[0], 1.0)
    mirrored = header["pixdim"][0] < 0
    header["pixdim"] = np.abs(header["pixdim"])  # lengths have no sign
    header["pixdim"][0] = -1 if mirrored else 1  # 0 means 1
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0 and _disagree(header):
        notes.append(TWO_WAYS)
    affine = np.asarray(header.get_best_affine(), np.float64)[:3, :3]
    affine = np.diag([-1.0, -1.0, 1.0]) @ affine  # from right, front, head to DICOM's left, back, head
    steps = affine.T[::-1]  # of growing slice, row and column number
    lengths = np.linalg.norm(steps, axis=1)
    axes, order, corners = None, (0, 1, 2), None
    if np.isfinite(lengths).all() and (lengths > 0).all():
        directions = steps / lengths[:, None]
        if abs(np.linalg.det(directions)) > LEAST_VOLUME:
            order, directions, lengths, corners, words = _straight(directions, lengths, voxels.shape[1:4])
            axes = directions.tolist()
            notes += [words] if words else []
            if corners is not None:
                corners = np.broadcast_to(corners, (voxels.shape[0], *corners.shape))
    if axes is None or not oriented:
        oriented = False
        notes.append("The file does not say how it lies in the patient: left and right are not known.")
    spacing = [float(n) * unit if np.isfinite(n) and n > 0 else None for n in lengths]
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if not colour and np.isfinite([low, high]).all() and high > low:
        windows = (Window("From the file", (low + high) / 2, high - low),)
    facts = {
        "format": "NIfTI", "bits": 8 * voxels.dtype.itemsize, "signed": voxels.dtype.kind != "u",
        "slices": voxels.shape[1 + order[0]], "frames": voxels.shape[0], "compression": "none",
    }  # fmt: skip
    meta = {
        "slope": slope, "intercept": intercept, "windows": windows, "facts": facts,
        "spacing": spacing, "axes": axes, "oriented": oriented, "notes": notes,
    }  # fmt: skip
    return meta, order, corners


def _disagree(header) -> bool:
    """Whether the two transforms of a file lay any of its axes along another axis of the body, or the other way."""
    forms = [np.asarray(form, np.float64)[:3, :3] for form in (header.get_sform(), header.get_qform())]
    lengths = [np.linalg.norm(form, axis=0) for form in forms]
    if not np.isfinite(forms).all() or not np.all(lengths):
        return False
    first, second = (form / length for form, length in zip(forms, lengths, strict=True))
    return bool(((first * second).sum(axis=0) < SAME_WAY).any())


def _straight(
    directions: np.ndarray, lengths: np.ndarray, shape: tuple[int, int, int]
) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray, np.ndarray | None, str]:
    """(order of the axes, their directions and lengths, corners [K, 2] of the slices or None, what to say).

    A sheared transform is one of slices that are shifted in their plane: its slices are those across the axis that is
    askew, which becomes the first.
    """
    cosines = np.abs(directions @ directions.T).round(6)  # where two would do, the slices of the file
    askew = min(range(3), key=lambda axis: cosines[(axis + 1) % 3, (axis + 2) % 3])
    down, right = (axis for axis in range(3) if axis != askew)
    step = directions[askew] * lengths[askew]
    drift = np.array([step @ directions[axis] / lengths[axis] for axis in (down, right)])
    off = np.arange(shape[askew])[:, None] * drift
    corners = np.floor(off - off.min(axis=0) + 0.5).astype(np.int64)
    if not corners.any():
        return (0, 1, 2), directions, lengths, None, ""
    if cosines[down, right] > MOST_ASKEW:
        return (0, 1, 2), directions, lengths, None, SHEARED
    normal = np.cross(directions[down], directions[right])
    normal *= np.sign(step @ normal) / np.linalg.norm(normal)
    order = (askew, down, right)
    straight = np.stack([normal, directions[down], directions[right]])
    return order, straight, np.array([step @ normal, lengths[down], lengths[right]]), corners, ""
