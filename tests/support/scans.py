"""Made-up DICOM and NIfTI files for the tests: every voxel is known, and so is where it lies in the patient."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from itertools import permutations, product

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT, MR, US = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.6.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SERIES = generate_uid(entropy_srcs=["series"])


def body(shape: tuple[int, int, int] = (20, 18, 24)) -> np.ndarray:
    """int16 [X, Y, Z] in R, A, S order: no two voxels along an axis are alike, and no mirror image is the same."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (7 * x + 41 * y + 13 * z + 3 * (x > 12) * (y < 5) - 300).astype(np.int16)


def directions() -> list[tuple[np.ndarray, np.ndarray]]:
    """All 24 (right, down) pairs of unit directions along the axes of the patient."""
    axes = [sign * np.eye(3)[i] for i in range(3) for sign in (1, -1)]
    return [(a, b) for a, b in product(axes, axes) if a @ b == 0]


def turns() -> list[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """All 48 ways to lay an array's axes: (order, signs)."""
    return list(product(permutations(range(3)), product((1, -1), repeat=3)))


def dataset(pixels: np.ndarray, photometric: str = "MONOCHROME2", kind: str = CT, **tags) -> FileDataset:
    """A dataset around pixels [H, W], [H, W, 3] or, with NumberOfFrames, [T, H, W...]. ``tags`` are set as they are."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["instance"])
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    ds.SeriesInstanceUID = SERIES
    ds.Modality = {CT: "CT", MR: "MR", US: "US", ENHANCED_CT: "CT"}.get(kind, "OT")
    colour = photometric.startswith(("RGB", "YBR"))
    ds.SamplesPerPixel = 3 if colour else 1
    if colour:
        ds.PlanarConfiguration = 0
    ds.PhotometricInterpretation = photometric
    frames = tags.get("NumberOfFrames", 1)
    ds.Rows, ds.Columns = pixels.shape[1:3] if "NumberOfFrames" in tags else pixels.shape[:2]
    ds.NumberOfFrames = frames
    ds.BitsAllocated = 8 * pixels.dtype.itemsize
    ds.BitsStored = tags.pop("BitsStored", ds.BitsAllocated)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    raw = pixels.tobytes()
    ds.add_new("PixelData", "OB" if pixels.dtype.itemsize == 1 else "OW", raw + b"\0" * (len(raw) % 2))
    for name, value in tags.items():
        setattr(ds, name, value)
    return ds


def written(ds: Dataset, syntax: str | None = None) -> bytes:
    """A dataset as the bytes of a file, in another uncompressed or deflated transfer syntax if one is given."""
    if syntax is not None:
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def series(voxels: np.ndarray, right: np.ndarray, down: np.ndarray, spacing=(2.0, 1.5, 1.0), **tags) -> list[bytes]:
    """A body [X, Y, Z] in R, A, S order as one file per slice, in a shuffled order.

    right, down: DICOM directions (to the left, back and head) of the rows' and columns' growing numbers. spacing: mm
    along x, y and z.
    """
    normal = np.cross(right, down)
    lps = voxels[::-1, ::-1]  # growing to the left and to the back
    stack = lps
    order = [int(np.abs(v).argmax()) for v in (normal, down, right)]
    stack = lps.transpose(order)
    signs = [int(v[i]) for v, i in zip((normal, down, right), order, strict=True)]
    stack = stack[tuple(slice(None, None, sign) for sign in signs)]
    step = [spacing[i] for i in order]
    files = []
    for number, picture in enumerate(stack):
        ds = dataset(np.ascontiguousarray(picture), InstanceNumber=1, **tags)
        ds.ImageOrientationPatient = [*map(float, right), *map(float, down)]
        ds.ImagePositionPatient = [float(v) for v in normal * number * step[0] + 5]
        ds.PixelSpacing = [step[1], step[2]]
        files.append(written(ds))
    return [files[i] for i in np.random.default_rng(0).permutation(len(files))]


def enhanced(frames: np.ndarray, positions: list[float], **tags) -> bytes:
    """A multi-frame CT, every frame with its own position (mm along z) and rescale intercept 10 x its number."""
    ds = dataset(frames, kind=ENHANCED_CT, NumberOfFrames=len(frames), **tags)
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [1.0, 1.0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, z in enumerate(positions):
        group, position, scale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, z]
        scale.RescaleSlope, scale.RescaleIntercept = 1, 10 * number
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [scale]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    return written(ds)


def nifti(voxels: np.ndarray, affine: np.ndarray, coded: bool = True, second: bool = False, **fields) -> bytes:
    """An array as a .nii file. coded: the header says that the affine is true. fields: of the header."""
    import nibabel

    image = (nibabel.Nifti2Image if second else nibabel.Nifti1Image)(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    if not coded:
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def _csa_tag(name: str, values: list[str], vr: str) -> bytes:
    """One entry of a CSA header."""
    out = struct.pack("<64si4siii", name.encode(), len(values), vr.encode(), 0, len(values), 77)
    for value in values:
        data = value.encode() + b"\0"
        out += struct.pack("<4i", 0, len(data), 77, 0) + data + b"\0" * (-len(data) % 4)
    return out


def _csa(count: int, normal: tuple[float, ...]) -> bytes:
    """Siemens's private header with what a mosaic needs."""
    entries = [
        _csa_tag("AcquisitionMatrixText", ["24*20"], "SH"),
        _csa_tag("NumberOfImagesInMosaic", [str(count)], "US"),
        _csa_tag("SliceNormalVector", [f"{v:.8f}" for v in normal], "FD"),
    ]
    return b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), 77) + b"".join(entries)


def mosaic(slices: np.ndarray, normal: tuple[float, ...] | None = (0, 0, 1), private: bool = True, **tags) -> bytes:
    """Slices [N, h, w] side by side; `private`: how many they are is said."""
    count, height, width = slices.shape
    across = int(np.ceil(np.sqrt(count)))
    whole = np.zeros((across * height, across * width), np.uint16)
    for number, image in enumerate(slices):
        down, right = divmod(number, across)
        whole[down * height : (down + 1) * height, right * width : (right + 1) * width] = image
    ds = dataset(whole, kind=MR, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], **tags)
    ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-100.0, -90.0, -30.0]
    ds.PixelSpacing, ds.SpacingBetweenSlices, ds.SliceThickness = [3.0, 2.0], 4.0, 4.0
    ds.Manufacturer = "SIEMENS"
    if private:
        ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)
    if private and normal is not None:
        ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", _csa(count, normal))
    return written(ds)


def phases(count: int = 3, lacking: int = 0, **tags) -> list[bytes]:
    """A series of `count` phases of six slices, the first phase without its first `lacking`; a slice holds 100 x phase
    + place."""
    files = []
    for phase in range(1, count + 1):
        for place in range(lacking if phase == 1 else 0, 6):
            ds = dataset(np.full((20, 24), 100 * phase + place, np.int16), kind=MR, **tags)
            ds.ImageOrientationPatient, ds.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 5.0 * place]
            ds.PixelSpacing, ds.TemporalPositionIdentifier, ds.InstanceNumber = [2.0, 1.0], phase, 10 * phase + place
            ds.AcquisitionTime = f"12{phase:02d}{place:02d}"
            files.append(written(ds))
    return files


def png16(values: np.ndarray) -> bytes:
    """Colours of 16 bits [H, W, 3 or 4], or grey and alpha [H, W, 2], as a PNG."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
