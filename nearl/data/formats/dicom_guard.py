"""DICOM: which kind of object a file is, and whether it may be decoded.

Object class, transfer syntax and the unpacked size are checked before pydicom reads the file.
"""

from __future__ import annotations

import io
import warnings
import zlib

from nearl.data.formats.dicom_believe import believe
from nearl.errors import NearlError

MAX_INFLATED = 300_000_000  # bytes of a deflated dataset
MAX_INFLATE_RATIO = 200  # inflated / deflated, beyond 16 MB

DEFLATED = "1.2.840.10008.1.2.1.99"
VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4 and HEVC begin so
STORAGE = "1.2.840.10008.5.1.4.1.1."
REFUSED = (  # SOP classes by their beginning, longest first
    ("1.2.840.10008.1.3.10", "the table of contents of a disc (DICOMDIR); choose the image files beside it"),
    (f"{STORAGE}88.", "a structured report or key-object note, not an image; open it with a DICOM viewer"),
    (f"{STORAGE}66.4", "a segmentation (SEG), not an image; choose the images that it was drawn on"),
    (f"{STORAGE}66.7", "a segmentation (SEG), not an image; choose the images that it was drawn on"),
    (f"{STORAGE}66", "raw, registration or surface data, not an image; choose the images of the study"),
    (f"{STORAGE}481.2", "a radiotherapy dose (RTDOSE), not an image; choose the planning CT"),
    (f"{STORAGE}481.3", "a radiotherapy structure set (RTSTRUCT), not an image; choose the planning CT"),
    (f"{STORAGE}481.", "a radiotherapy plan or record, not an image; choose the planning CT"),
    (f"{STORAGE}104.1", "a PDF document wrapped in DICOM, not an image; open it with a DICOM viewer"),
    (f"{STORAGE}104.", "a document or model wrapped in DICOM, not an image; open it with a DICOM viewer"),
    (f"{STORAGE}11.", "a presentation state, not an image; choose the images that it belongs to"),
    (f"{STORAGE}9.", "a waveform such as an ECG, not an image; export the tracing as an image"),
    (f"{STORAGE}4.2", "MR spectroscopy, not an image; choose the images of the study"),
    (f"{STORAGE}77.1.6", "a whole-slide image made of tiles; export the region of interest as PNG or TIFF"),
)
ALLOWED = (f"{STORAGE}481.1",)  # RT Image is an X-ray
REFUSED_MODALITIES = {
    "SEG": f"{STORAGE}66.4", "SR": f"{STORAGE}88.", "KO": f"{STORAGE}88.", "RTSTRUCT": f"{STORAGE}481.3",
    "RTDOSE": f"{STORAGE}481.2", "RTPLAN": f"{STORAGE}481.", "PR": f"{STORAGE}11.", "DOC": f"{STORAGE}104.",
    "REG": f"{STORAGE}66", "ECG": f"{STORAGE}9.",
}  # fmt: skip
ENVELOPED = bytes.fromhex("06092a864886f70d010703")  # CMS EnvelopedData, the wrapping of "secure DICOM"


def looks_like(head: bytes) -> bool:
    """Whether a file that begins with `head` is DICOM, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    plausible = explicit or int.from_bytes(head[4:8], "little") <= 64
    return len(head) > 64 and plausible and ((group == 2 and element <= 0x10) or (group == 8 and element <= 0x60))


def is_enveloped(head: bytes) -> bool:
    """Whether a file that begins with `head` is an encrypted envelope."""
    return head[:1] == b"\x30" and ENVELOPED in head[:64]


def parse(data: bytes, name: str, pixels: bool = True):
    """The dataset of one file, checked to be an image. NearlError, naming the file, for any other object.

    With its pixels, fields that do not fit them are put right (`believe`).
    """
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax, body = _file_meta(data)
    if syntax.startswith(VIDEO):
        raise NearlError(f"{name} is a video (MPEG) in DICOM, which is not read here; export single frames.")
    if syntax == DEFLATED:
        _check_inflated(data[body:], name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=not pixels)
            if not syntax:  # files without a preamble: the encoding that pydicom found
                implicit, little = dataset.original_encoding
                plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
                dataset.ensure_file_meta()
                dataset.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian
            _refuse(dataset, name)
            if pixels:
                believe(dataset)
    except (NearlError, MemoryError):
        raise
    except Exception as error:  # a parser fed with untrusted bytes can raise anything
        raise NearlError(f"{name} is a DICOM file but is damaged or cut short; export it again.") from error
    return dataset


def _file_meta(data: bytes) -> tuple[str, int]:
    """(transfer syntax, where the dataset begins), read by hand because pydicom inflates a deflated dataset at once."""
    at, syntax = (132 if data[128:132] == b"DICM" else 0), ""
    while data[at : at + 2] == b"\x02\x00" and len(data) >= at + 8:
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OD", b"OL", b"UC", b"UR")
        begin = at + (12 if long else 8)
        size = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
        if data[at + 2 : at + 4] == b"\x10\x00":
            syntax = data[begin : begin + size].rstrip(b"\0 ").decode("ascii", "replace")
        at = begin + size
    return syntax, at


def _check_inflated(packed: bytes, name: str) -> None:
    inflater, total, allowed = zlib.decompressobj(-15), 0, max(16_000_000, MAX_INFLATE_RATIO * len(packed))
    allowed = min(allowed, MAX_INFLATED)
    try:
        while not inflater.eof:
            piece = inflater.decompress(packed, 1 << 20)
            packed, total = inflater.unconsumed_tail, total + len(piece)
            if total > allowed:
                raise NearlError(f"{name} grows far beyond its size when unpacked and was refused; export it again.")
            if not piece and not packed:
                break
    except zlib.error:
        raise NearlError(f"{name} is a packed DICOM file that is damaged or cut short; export it again.") from None


def _refuse(dataset, name: str) -> None:
    """Raise NearlError for an object that is not an image, or one without its pixels."""
    meta = getattr(dataset, "file_meta", None) or {}
    kind = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    modality = str(dataset.get("Modality", ""))
    if not kind or kind not in ALLOWED:
        for beginning, sentence in REFUSED:
            if kind.startswith(beginning) or (not kind and REFUSED_MODALITIES.get(modality) == beginning):
                raise NearlError(f"{name} is {sentence}.")
    if "EncryptedAttributesSequence" in dataset and "Rows" not in dataset:
        raise NearlError(f"{name} is encrypted; export it without encryption.")
    if "Rows" not in dataset or "Columns" not in dataset:
        if len(dataset) == 0 or kind.startswith(STORAGE):
            raise NearlError(f"{name} is a DICOM file that is damaged or cut short; export it again.")
        raise NearlError(f"{name} is a DICOM file without an image; choose the images of the study.")
