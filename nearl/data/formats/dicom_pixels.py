"""The pixels of a DICOM dataset: decoded, coloured and with unused bits put right.

pydicom decodes, with its own rules for signs and unused bits. What differs here, each because files in use need it:
colours of a lossy JPEG are those of its own markers (decoded by Pillow), numbers that are stored at the high end of
their bytes are moved down, and a colour table's entries are taken for what they are rather than what they are said
to be.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from nearl.data.formats import codestream
from nearl.data.formats.dicom_believe import RLE, SYNTAXES, encapsulated
from nearl.errors import NearlError

LOSSY_JPEG = SYNTAXES["JPEG"]
CODESTREAMS = {syntax for family in SYNTAXES.values() for syntax in family}
CHANNELS = ("Red", "Green", "Blue")
END = b"\xff\xd9"  # of a JPEG
MAX_ENTRIES = 65_536  # of a colour table


def frames(dataset, name: str, order: Iterable[int]) -> Iterator[np.ndarray]:
    """The frames of a believed dataset in a given order: stored greys [1, 1, H, W], or uint8 RGB [1, 1, H, W, 3].

    Raises NearlError where they are cut short or no installed decoder knows them.
    """
    order = list(order)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for frame in _finished(dataset, order):
                if frame.shape[:2] != (int(dataset.Rows), int(dataset.Columns)):
                    raise ValueError("the compressed image has another size than the header says")
                if frame.dtype.byteorder == ">":
                    frame = frame.astype(frame.dtype.newbyteorder("<"))
                yield np.ascontiguousarray(frame)[None, None]
    except MemoryError:
        raise
    except Exception as error:  # decoders fed with untrusted bytes can raise anything
        syntax = syntax_name(dataset)
        unknown = any(words in str(error) for words in ("missing dependencies", "does not support"))
        if isinstance(error, (NotImplementedError, RuntimeError)) and unknown:
            raise NearlError(
                f"{name} is compressed as {syntax}, which no decoder installed here knows; export it uncompressed."
            ) from error
        raise NearlError(
            f"{name} is a DICOM file ({syntax}) whose image is damaged or cut short; export it again."
        ) from error


def syntax_name(dataset) -> str:
    """How the pixels are packed, in words."""
    uid = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return uid.name.split(",")[0] if uid is not None and uid.name != str(uid) else "unknown compression"


def _finished(dataset, order: list[int]) -> Iterator[np.ndarray]:
    """Frames with tables applied, and colours as uint8."""
    from pydicom.pixels import apply_modality_lut

    lookup = "ModalityLUTSequence" in dataset and len(dataset.ModalityLUTSequence) > 0
    palette = _Palette(dataset) if str(dataset.PhotometricInterpretation) == "PALETTE COLOR" else None
    top = None
    for frame in _decoded(dataset, order):
        if palette is not None:
            frame = palette.colours(frame)
        elif lookup:
            frame = apply_modality_lut(frame, dataset)
        if frame.ndim == 3 and frame.dtype != np.uint8:
            if top is None:
                top = _top(dataset, frame, order)
            frame = (frame.astype(np.float64) * (255 / top)).round().clip(0, 255).astype(np.uint8)
        yield frame


def _top(dataset, frame: np.ndarray, order: list[int]) -> int:
    """The number of a colour deeper than 8 bits that is full: less than BitsStored says if the numbers use less."""
    most = int(frame.max())
    if len(order) > 1:  # the same for all frames
        most = max(int(other.max()) for other in _decoded(dataset, order))
    said = 2 ** int(dataset.BitsStored) - 1
    return said if (said + 1) // 2 <= most <= said else max(2 ** most.bit_length() - 1, 255)


def _decoded(dataset, order: list[int]) -> Iterator[np.ndarray]:
    from pydicom.pixels import iter_pixels

    if str(dataset.file_meta.TransferSyntaxUID) in CODESTREAMS:
        yield from _compressed(dataset, order)
        return
    unpacked = not encapsulated(dataset) or str(dataset.file_meta.TransferSyntaxUID) == RLE
    grey = "PixelData" in dataset and dataset.SamplesPerPixel == 1
    if not (unpacked and grey and int(dataset.BitsStored) < int(dataset.BitsAllocated)):
        yield from iter_pixels(dataset, indices=order)
        return
    bits = _Bits(dataset)
    for frame in iter_pixels(dataset, indices=order, correct_unused_bits=False):
        yield bits.used(frame)


def _compressed(dataset, order: list[int]) -> Iterator[np.ndarray]:
    """Frames of JPEG, JPEG-LS and JPEG 2000: a lossy JPEG of 8 bits whose markers say what its colours are as every
    JPEG reader shows it, one of 12 bits by GDCM, others by pydicom."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    count, signed = int(dataset.get("NumberOfFrames") or 1), dataset.PixelRepresentation == 1
    for number in order:
        frame = get_frame(dataset.PixelData, number, number_of_frames=count)
        found = codestream.look(frame)
        if found is None:
            raise ValueError("no frame header")  # some decoders end the process at these
        if found.baseline and (found.samples == 1 or found.colour):
            values = _jpeg(frame, "L" if found.samples == 1 else "RGB")
            yield values.view(np.int8) if found.samples == 1 and signed else values
        elif found.deep:
            values = _deep_jpeg(frame, found)
            yield (values << 4).view(np.int16) >> 4 if signed else values
        else:
            yield pixel_array(dataset, index=number)


def _jpeg(frame: bytes, mode: str) -> np.ndarray:
    """A JPEG of 8 bits; the marker at its end may be missing, but nothing before it. OSError where something is."""

    def decoded(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            return np.array(image.convert(mode))

    try:
        return decoded(frame)
    except OSError:
        image = decoded(frame + END)
        if not np.array_equal(image, decoded(frame + 64 * b"U" + END)):  # what follows was taken for the image
            raise
        return image


def _deep_jpeg(frame: bytes, found: codestream.Codestream) -> np.ndarray:
    """uint16 [H, W] of a lossy JPEG of 12 bits, which GDCM decodes although pydicom does not ask it to."""
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((found.columns, found.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(LOSSY_JPEG[1])))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM gives bytes as a str
    return np.frombuffer(decoded, "<u2").reshape(found.rows, found.columns)


class _Bits:
    """Which bits of a number hold it, decided once for all frames: by the header where the numbers agree with it."""

    def __init__(self, dataset):
        self.allocated, self.stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
        shift = int(dataset.HighBit) + 1 - self.stored
        self.shift = shift if 0 < shift <= self.allocated - self.stored else 0
        self.overlaid = any((0x6000 + 2 * i, 0x0102) in dataset and (0x6000 + 2 * i, 0x3000) not in dataset
                            for i in range(16))  # fmt: skip

    def used(self, frame: np.ndarray) -> np.ndarray:
        """The numbers of a frame, of the same dtype."""
        raw = frame.astype(frame.dtype.newbyteorder("=")).view(f"u{frame.dtype.itemsize}")
        rest = self.allocated - self.stored
        shift = self.shift
        signed = frame.dtype.kind == "i"
        if shift and (raw & (2**shift - 1)).any() and self._spare(raw, signed):
            shift = self.shift = 0  # they lie at the low end after all
        raw = raw >> shift if shift else raw
        if not self.overlaid and not shift and not self._spare(raw, signed):
            return frame  # more bits are used than the header says
        shown = (raw << rest).view(frame.dtype.newbyteorder("="))
        return shown >> rest

    def _spare(self, raw: np.ndarray, signed: bool) -> bool:
        """Whether the bits above those that are stored hold nothing but copies of the sign."""
        above = raw >> self.stored
        if not above.any():
            return True
        if not signed:
            return False
        full = 2 ** (self.allocated - self.stored) - 1
        sign = (raw >> (self.stored - 1)) & 1
        return bool((above == sign * full).all())


class _Palette:
    """The colour tables of a dataset (PS3.3 C.7.6.3.1.5 and .6)."""

    def __init__(self, dataset):
        descriptor = [int(v) for v in dataset.RedPaletteColorLookupTableDescriptor]
        first = descriptor[1]
        if dataset.PixelRepresentation == 1 and first > 32767:
            first -= 65536
        self.first = first
        count = descriptor[0] or MAX_ENTRIES
        if "RedPaletteColorLookupTableData" in dataset:
            tables = [self._entries(dataset.get(f"{name}PaletteColorLookupTableData"), count) for name in CHANNELS]
        else:
            from pydicom.pixels import apply_color_lut

            dtype = np.int32 if first < 0 else np.uint16
            ramp = np.arange(first, first + count, dtype=dtype)[None]
            tables = list(np.moveaxis(apply_color_lut(ramp, dataset)[0, :, :3], -1, 0))
        short = min(map(len, tables))
        table = np.stack([np.asarray(entries[:short], np.int64) for entries in tables], axis=-1)
        # what the entries use: those of 8 bits are often said to have 16, and those of 16 bits to have 8
        top = max(2 ** int(table.max()).bit_length() - 1, 255)
        if top > 255 and not ((table % 257).any() and (table % 256).any()):
            top = 65_535  # 8 bits in both bytes or in the upper one: dark colours stay dark
        self.table = (table * (255 / top)).round().astype(np.uint8)

    @staticmethod
    def _entries(data: bytes, count: int) -> np.ndarray:
        words = len(data) >= 2 * count
        entries = np.frombuffer(data[: len(data) // 2 * 2] if words else data, "<u2" if words else "u1")[:count]
        if not len(entries):
            raise ValueError("an empty colour table")
        return entries

    def colours(self, frame: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] of stored numbers [H, W]; those beyond an end of the table get the entry at that end."""
        return self.table[np.clip(frame.astype(np.int64) - self.first, 0, len(self.table) - 1)]
