"""Compressed images for the tests, and DICOM files around them whose headers say what they like."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import UID

from tests.support.scans import US, dataset, written

JPEG = "1.2.840.10008.1.2.4.50"
JPEG_12 = base64.b64decode(  # grey of 12 bits, [16, 24], as libjpeg-turbo packs it
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQIBAQEBAQIBAQECAgICAgICAgIDAwQDAwMDAwICAwQDAwQEBAQE"
    "AgMFBQQEBQQEBAT/wQALDAAQABgBAREA/8QAFgABAQEAAAAAAAAAAAAAAAAADQwO/8QAHBAAAAYDAAAAAAAAAAAAAAAAAAsMKDhHVWNz"
    "/9oACAEBAAA/AMt7ky6d0imxrC13w0haAJl07pFNjWFrvhpC0ATLp3SKbGsLXfDSIP8AJl07pFNjWFrvhpC0ATLp3SKbGsLXfDSFoAmX"
    "TukU2NYWu+Gkf//Z"
)


def corners() -> np.ndarray:
    """uint8 [64, 64, 3]: red, green, blue and grey."""
    image = np.full((64, 64, 3), 128, np.uint8)
    image[:32, :32], image[:32, 32:], image[32:, :32] = (220, 30, 30), (30, 220, 30), (30, 30, 220)
    return image


def packed(format: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(corners()).convert(mode).save(buffer, format, **options)
    return buffer.getvalue()


def wrapped(frame: bytes, photometric: str, syntax: str = JPEG, pixels: np.ndarray | None = None, **tags) -> bytes:
    """A compressed frame in a header that says what it likes; None takes a field out."""
    ds = dataset(corners() if pixels is None else pixels, photometric, US)
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    for name, value in tags.items():
        if value is None:
            ds.pop(name, None)
        else:
            setattr(ds, name, value)
    return written(ds)
