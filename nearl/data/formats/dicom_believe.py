"""Which fields of a DICOM header are believed: those that fit its pixels. The others are set to what the pixels are.

A compressed image's own header (`codestream`) is believed over the fields around it, and the number of bytes of an
uncompressed one over fields that do not fit it. Required fields that are missing get their only sensible value.
"""

from __future__ import annotations

import io

from nearl.data.formats import codestream
from nearl.data.formats.codestream import RGB, YBR, Codestream

GREYS = ("MONOCHROME1", "MONOCHROME2")
COLOURS = (
    "RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
)  # fmt: skip
BEGINNINGS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")  # of codestreams, and of a JP2 file
RLE = "1.2.840.10008.1.2.5"
FRAGMENT = b"\xfe\xff\x00\xe0"  # what fragments begin with
JPEG = "1.2.840.10008.1.2.4."
SYNTAXES = {  # those that fit a family of codestreams, the first to be taken where none of them is said
    "JPEG": (f"{JPEG}50", f"{JPEG}51"),
    "JPEG Lossless": (f"{JPEG}57", f"{JPEG}70"),
    "JPEG-LS": (f"{JPEG}80", f"{JPEG}81"),
    "JPEG 2000": (f"{JPEG}90", f"{JPEG}91", f"{JPEG}92", f"{JPEG}93", f"{JPEG}201", f"{JPEG}202", f"{JPEG}203"),
}
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def believe(dataset) -> None:
    """Set the fields that say how pixels are stored to what the pixels are, in place."""
    photometric = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    samples = _whole(dataset, "SamplesPerPixel")
    _fragments(dataset)
    frame = first_frame(dataset)
    found = codestream.look(frame) if frame else None
    _syntax(dataset, frame, found)
    if found is not None:
        samples = found.samples
        photometric = _photometric(photometric, found)
        _sizes(dataset, found)
    elif not encapsulated(dataset):
        samples, photometric = _native(dataset, samples, photometric)
    if samples is None:
        samples = 3 if photometric in COLOURS and photometric != "PALETTE COLOR" else 1
    if not photometric:
        photometric = "RGB" if samples == 3 else "MONOCHROME2"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, photometric
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    if allocated is None:
        allocated = dataset.BitsAllocated = 16 if (stored or 16) > 8 else 8
    if stored is None:
        stored = dataset.BitsStored = allocated
    if _whole(dataset, "HighBit") is None:
        dataset.HighBit = stored - 1
    if _whole(dataset, "PixelRepresentation") is None:
        dataset.PixelRepresentation = 0
    if samples > 1 and _whole(dataset, "PlanarConfiguration") not in (0, 1):
        dataset.PlanarConfiguration = 0
    if (count := _held_frames(dataset, found)) > int(dataset.get("NumberOfFrames") or 1):
        dataset.NumberOfFrames = count


def complete(dataset) -> bool:
    """Whether the header alone says enough of the pixels: it is grey, uncompressed and lacks nothing."""
    fields = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
    grey = str(dataset.get("PhotometricInterpretation") or "").strip() in GREYS and dataset.get("SamplesPerPixel") == 1
    return grey and not encapsulated(dataset) and all(_whole(dataset, name) is not None for name in fields)


def encapsulated(dataset) -> bool:
    """Whether the pixels are in the fragments of a compressed transfer syntax."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return bool(syntax.is_transfer_syntax and syntax.is_encapsulated)


def first_frame(dataset) -> bytes | None:
    """The bytes of the first frame in fragments; empty where it cannot be found, None where there are no fragments."""
    from pydicom.encaps import generate_frames

    content = dataset.get("PixelData")
    if not isinstance(content, bytes) or content[:4] != FRAGMENT:
        return None
    try:
        return next(generate_frames(content, number_of_frames=int(dataset.get("NumberOfFrames") or 1)))
    except Exception:  # damaged: said when the frames are decoded
        return b""


def _fragments(dataset) -> None:
    """Put a codestream that stands there bare into a fragment, and uncompressed pixels in a fragment out of it."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian

    content = dataset.get("PixelData")
    if not isinstance(content, bytes) or int(dataset.get("NumberOfFrames") or 1) > 1:
        return
    if content.startswith(BEGINNINGS) and codestream.look(content) is not None:
        dataset.PixelData = encapsulate([content])
    elif encapsulated(dataset) and str(dataset.file_meta.TransferSyntaxUID) != RLE:
        frame, bits = first_frame(dataset) or b"", _whole(dataset, "BitsAllocated") or 0
        pixels = (_whole(dataset, "Rows") or 0) * (_whole(dataset, "Columns") or 0)
        needed = pixels * (_whole(dataset, "SamplesPerPixel") or 1) * bits // 8
        if needed and len(frame) == needed + needed % 2 and codestream.look(frame) is None:
            dataset.PixelData = frame
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _held_frames(dataset, found: Codestream | None) -> int:
    """How many frames the pixels are: as many as uncompressed bytes fill exactly, or, where a single one is said, as
    fragments begin a codestream. 0 where that cannot be told."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    content = dataset.get("PixelData")
    if not isinstance(content, bytes):
        return 0
    if found is not None:
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            return 0
        stream, count = io.BytesIO(content), 0
        parse_basic_offsets(stream)
        for fragment in generate_fragments(stream):
            if not fragment.startswith(BEGINNINGS):
                return 0
            count += 1
        return count
    if encapsulated(dataset):
        return 0
    samples = 2 if dataset.PhotometricInterpretation == "YBR_FULL_422" else dataset.SamplesPerPixel
    bits = (_whole(dataset, "Rows") or 0) * (_whole(dataset, "Columns") or 0) * samples * dataset.BitsAllocated
    count = len(content) * 8 // bits if bits and not bits % 8 else 0
    needed = count * bits // 8
    return count if len(content) == needed + needed % 2 else 0


def _syntax(dataset, frame: bytes | None, found: Codestream | None) -> None:
    """Set the transfer syntax to how the pixels are packed, where it says something else."""
    from pydicom.uid import UID, ExplicitVRLittleEndian

    said = str(dataset.file_meta.TransferSyntaxUID)
    if found is not None and said not in SYNTAXES[found.family]:
        dataset.file_meta.TransferSyntaxUID = UID(SYNTAXES[found.family][0])
    elif frame is None and "PixelData" in dataset and encapsulated(dataset):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _whole(dataset, name: str) -> int | None:
    value = dataset.get(name)
    return value if isinstance(value, int) else None


def _photometric(said: str, found: Codestream) -> str:
    """The colour space of a decoded frame, by its codestream where that says so."""
    if found.samples == 1:
        return said if said in (*GREYS, "PALETTE COLOR") else "MONOCHROME2"
    if found.colour == RGB:
        return "RGB" if found.process else "YBR_RCT"  # pydicom's name for what JPEG 2000 turns back to RGB
    if found.colour == YBR:
        return "YBR_FULL_422" if found.baseline else "YBR_FULL"
    return said if said in COLOURS and said != "PALETTE COLOR" else "RGB"


def _sizes(dataset, found: Codestream) -> None:
    """Rows, columns and bits of a codestream, where the header has none or others."""
    dataset.Rows, dataset.Columns = found.rows, found.columns
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    needed = 8 if found.bits <= 8 else 16 if found.bits <= 16 else 32
    if allocated is None or allocated < needed or (found.process and allocated != needed):
        dataset.BitsAllocated = allocated = needed
    if stored is None or stored < found.bits or stored > allocated:
        dataset.BitsStored = found.bits
        dataset.HighBit = found.bits - 1


def _native(dataset, samples: int | None, photometric: str) -> tuple[int | None, str]:
    """(samples, photometric interpretation) of uncompressed pixels; bits of a sample are set by their length too."""
    name = next((name for name in PIXELS if name in dataset), "")
    rows, columns = _whole(dataset, "Rows") or 0, _whole(dataset, "Columns") or 0
    unit = rows * columns * int(dataset.get("NumberOfFrames") or 1)
    content = dataset.get(name) if name == "PixelData" else None
    if not isinstance(content, bytes) or not unit or encapsulated(dataset):
        return samples, photometric
    size = len(content)
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")

    def holds(parts: float, bits: int) -> bool:
        needed = round(unit * parts * bits / 8)
        return size == needed or size == needed + needed % 2

    if photometric == "YBR_FULL_422" and holds(3, allocated or 8):
        return 3, "YBR_FULL"
    if photometric == "YBR_FULL_422" or (photometric == "YBR_FULL" and allocated == 8 and holds(2, 8)):
        return 3, "YBR_FULL_422"
    colour = photometric in COLOURS and photometric != "PALETTE COLOR"
    likely = samples or (3 if colour else 1)
    for parts, bits in ((likely, allocated), (likely, 8), (likely, 16), (likely, 32), (4 - likely, allocated)):
        if bits is None or not holds(parts, bits):
            continue
        if bits != allocated and not _fits(bits, allocated, stored):
            continue
        if parts == 3 and likely == 1 and not colour:  # more likely three frames
            continue
        dataset.BitsAllocated = bits
        if colour != (parts == 3):
            photometric = "RGB" if parts == 3 else photometric if photometric in GREYS else "MONOCHROME2"
            photometric = "PALETTE COLOR" if parts == 1 and "RedPaletteColorLookupTableData" in dataset else photometric
        return parts, photometric
    return samples, photometric


def _fits(bits: int, allocated: int | None, stored: int | None) -> bool:
    """Whether samples of `bits` bits agree with the bits that are stored better than those said to be allocated."""
    if allocated is None:
        return stored is None or stored <= bits
    return stored is not None and stored <= bits and (bits < allocated or stored > allocated)
