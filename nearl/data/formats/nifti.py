"""NIfTI-1 and -2 in one file (.nii, .nii.gz): the header by nibabel, checked before a voxel is read.

The free-text fields and extensions of the header are never looked at.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator

import numpy as np

from nearl.data.formats.volume import MIN_SIDE
from nearl.data.formats.windows import Window
from nearl.data.sets.drafts import MAX_SCAN_BYTES, SCAN, Draft, scan_meta, stored_dtype
from nearl.errors import NearlError

HEADER_BYTES = 544  # of NIfTI-2, the longer one
UNITS = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
COLOURS = {128: 3, 2304: 4}  # data types RGB24 and RGBA32 -> bytes per voxel
NUMBERS = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)  # integers of 8 to 64 bits, floats of 32 and 64
COMPLEX = "complex numbers"
TYPES = {1: "1-bit masks", 32: COMPLEX, 1792: COMPLEX, 1536: "128-bit floats", 2048: COMPLEX}
CT_LOW, CT_HIGH = (-3100, -900), (100, 40_000)  # least and greatest value that look like Hounsfield units (our choice)


def looks_like(head: bytes) -> bool:
    """Whether a file that begins so is NIfTI, packed or not, alone or the header of a pair."""
    head = _unpacked(head, 352)
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:7] in (b"n+2", b"ni2")


def read_file(data: bytes, label: str, source: int) -> Draft:
    """One NIfTI file as a draft of shape [T, K, H, W]: axes 4, 3, 2 and 1 of the file, as they lie on disk.

    Raises NearlError for a header that is not true, for data types that are not grey or RGB, and for what is cut short.
    """
    try:
        header = _header(_unpacked(data, HEADER_BYTES))
        code, shape = int(header["datatype"]), tuple(int(n) for n in header.get_data_shape())
        offset = int(header.get_data_offset())
        magic = bytes(header["magic"])
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a parser fed with untrusted bytes can raise anything
        raise NearlError(f"{label} is a NIfTI file but its header is damaged; export it again.") from error
    if magic[:3] in (b"ni1", b"ni2"):
        raise NearlError(f"{label} is one half of a NIfTI pair (.hdr and .img); save it as a single .nii file.")
    if code not in NUMBERS and code not in COLOURS:
        kind = TYPES.get(code, "numbers of an unknown type")
        raise NearlError(
            f"{label} is a NIfTI file of {kind}, which cannot be shown; save it as whole numbers or floats."
        )
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 2 or len(shape) > 4 or min(shape) < 1:
        raise NearlError(f"{label} has {len(shape)} dimensions; save it as a 3-D or 4-D volume.")
    dtype = np.dtype("u1") if code in COLOURS else header.get_data_dtype()
    per_voxel = COLOURS.get(code, dtype.itemsize)
    count = 1
    for n in shape:
        count *= n
    size = " x ".join(map(str, shape))
    if count * max(per_voxel, 1) > MAX_SCAN_BYTES:
        raise NearlError(f"{label} says it is {size} voxels, more than can be held; save a smaller part of it.")
    if sorted(shape[:3])[-2] < MIN_SIDE:
        raise NearlError(f"{label} is only {size} voxels; use one of at least {MIN_SIDE} x {MIN_SIDE} a slice.")
    body = _body(data, label, offset, count * per_voxel, size)
    full = (*shape, *(1,) * (4 - len(shape)))[::-1]  # moments, slices, rows, columns
    if code in COLOURS:
        voxels = np.frombuffer(body, "u1", count * per_voxel, offset).reshape(*full, per_voxel)
    else:
        voxels = np.frombuffer(body, dtype, count, offset).reshape(full)
    try:
        meta = _meta(header, voxels, full, code in COLOURS)
    except MemoryError:
        raise
    except Exception as error:
        raise NearlError(f"{label} is a NIfTI file but its header is damaged; export it again.") from error
    wide = voxels.dtype.kind in "iu" and voxels.dtype.itemsize == 8
    stored = stored_dtype(np.dtype("f8") if wide else voxels.dtype)
    shape = (*full, 3) if code in COLOURS else full
    return Draft(source, label, SCAN, meta, shape, stored, _slices(voxels, np.dtype(stored)))


def _slices(voxels: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    for moment in voxels:
        for picture in moment:
            yield np.ascontiguousarray(picture[..., :3] if voxels.ndim == 5 else picture, dtype=dtype)[None, None]


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


def _body(data: bytes, label: str, offset: int, needed: int, size: str) -> bytes | bytearray:
    """Everything up to the last voxel; never more than the header declares."""
    if not HEADER_BYTES // 2 < offset <= 100_000_000:
        raise NearlError(f"{label} is a NIfTI file but its header is damaged; export it again.")
    if data[:2] == b"\x1f\x8b":
        if needed > 1_100 * len(data):  # gzip cannot pack tighter
            raise NearlError(f"{label} says it is {size} voxels but holds far less; save it again.")
        body = bytearray(offset + needed)
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                at = 0
                while at < len(body) and (got := stream.readinto(memoryview(body)[at:])):
                    at += got
        except (OSError, EOFError, zlib.error):
            raise NearlError(f"{label} is a packed NIfTI file that is damaged or cut short; save it again.") from None
        data, body = body[:at] if at < len(body) else body, None
    if len(data) < offset + needed:
        raise NearlError(f"{label} says it is {size} voxels but is cut short; download or save it again.")
    return data


def _meta(header, voxels: np.ndarray, full: tuple[int, ...], colour: bool) -> dict:
    slope, intercept = (None, None) if colour else header.get_slope_inter()
    slope, intercept = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    notes, windows = [], ()
    oriented = int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0
    unit = UNITS.get(header.get_xyzt_units()[0], 1.0)
    affine = np.asarray(header.get_best_affine(), np.float64)[:3, :3]
    affine = np.diag([-1.0, -1.0, 1.0]) @ affine  # from right, front, head to DICOM's left, back, head
    lengths = np.linalg.norm(affine, axis=0)
    axes = None
    if np.isfinite(lengths).all() and (lengths > 0).all() and abs(np.linalg.det(affine / lengths)) > 0.5:
        axes = (affine / lengths).T[::-1].tolist()
    if axes is None or not oriented:
        oriented = False
        notes.append("The file does not say how it lies in the patient: left and right are not known.")
    lengths = [float(n) * unit if np.isfinite(n) and n > 0 else None for n in lengths]
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if not colour and np.isfinite([low, high]).all() and high > low:
        windows = (Window("From the file", (low + high) / 2, high - low),)
    modality = ""
    if not colour and voxels.dtype.kind == "i":
        sample = voxels.reshape(-1)[:: max(1, voxels.size // 200_000)].astype(np.float64) * slope + intercept
        if CT_LOW[0] <= sample.min() <= CT_LOW[1] and CT_HIGH[0] <= sample.max() <= CT_HIGH[1]:
            modality = "CT"
            notes.append("The values look like Hounsfield units, so the windows for CT are offered.")
    moments, slices = full[:2]
    facts = {
        "format": "NIfTI", "bits": 8 * voxels.dtype.itemsize, "signed": voxels.dtype.kind != "u", "slices": slices,
        "frames": moments, "compression": "none",
    }  # fmt: skip
    scales = np.full((moments, slices), slope), np.full((moments, slices), intercept)
    rest = {"modality": modality, "spacing": lengths[::-1], "axes": axes, "oriented": oriented, "notes": notes}
    return scan_meta(*scales, windows, None, facts=facts, **rest)
