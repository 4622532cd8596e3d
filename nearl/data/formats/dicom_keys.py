"""What a DICOM header says of when and how each slice was made: it tells the volumes of a series apart.

Nothing of it leaves the worker.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Hashable

import numpy as np

STEADY = ("CT", "PT")  # modalities that acquire the slices of a volume one after another, in order of position
SECONDS = 86_400
GE_PART = (0x0043, 0x102F)

Group = Callable[[str], object]  # a functional group of one frame by its sequence's name; the dataset if it has none


def series_of(dataset) -> str:
    """What is equal in all files of one series; "" where nothing says so."""
    if uid := str(dataset.get("SeriesInstanceUID") or ""):
        return uid
    parts = [str(dataset.get(name) or "") for name in ("StudyInstanceUID", "SeriesNumber", "FrameOfReferenceUID")]
    return "|".join(parts) if parts[1] or parts[2] else ""


def keys(dataset, group: Group, frame: int) -> dict[str, Hashable]:
    """What tells moments at the same place apart, by the names of `nearl.data.formats.stacks`, where it is known."""
    content, heart, breath = (
        group(name)
        for name in ("FrameContentSequence", "CardiacSynchronizationSequence", "RespiratorySynchronizationSequence")
    )
    diffusion, echo = group("MRDiffusionSequence"), group("MREchoSequence")
    found: dict[str, Hashable] = {
        "temporal position": _first(content, "TemporalPositionIndex", "TemporalPositionIdentifier"),
        "cardiac phase": _first(heart, "NominalPercentageOfCardiacPhase"),
        "breathing phase": _first(breath, "NominalPercentageOfRespiratoryPhase"),
        "b-value": _b_value(dataset, diffusion),
        "direction": _direction(diffusion),
        "echo": _rounded(_first(echo, "EffectiveEchoTime", "EchoTime", "EchoNumbers")),
        "inversion": _rounded(number(dataset.get("InversionTime"))),
        "flip": _rounded(number(dataset.get("FlipAngle"))),
        "energy": _rounded(number(dataset.get("KVP"))),
        "kernel": str(dataset.get("ConvolutionKernel") or "") or None,
        "acquisition": _first(content, "FrameAcquisitionNumber", "AcquisitionNumber"),
        "trigger": _first(heart, "NominalCardiacTriggerDelayTime", "TriggerTime"),
        "reference": number(dataset.get("FrameReferenceTime")),
        "acquired": _moment(
            content.get("FrameAcquisitionDateTime") or content.get("AcquisitionDateTime"),
            dataset.get("AcquisitionDate"), dataset.get("AcquisitionTime"),
        ),
        "content": _moment(None, dataset.get("ContentDate"), dataset.get("ContentTime")),
        "location": number(dataset.get("SliceLocation")),
        "steady": str(dataset.get("Modality", "")) in STEADY or None,
    }  # fmt: skip
    instance = number(dataset.get("InstanceNumber"))
    if instance is not None or (number(dataset.get("NumberOfFrames")) or 1) > 1:
        found["number"] = (instance or 0.0) * 1e6 + frame
    return {name: value for name, value in found.items() if value is not None}


def traits(dataset, group: Group) -> dict[str, Hashable]:
    """What all slices of one volume have in common beside their geometry, by its name for people."""
    kind = group("MRImageFrameTypeSequence").get("FrameType") or group("CTImageFrameTypeSequence").get("FrameType")
    kind = kind or dataset.get("ImageType") or ()
    kind = (kind,) if isinstance(kind, str) else tuple(map(str, kind))
    if GE_PART in dataset:  # magnitude, phase, real or imaginary
        kind = (*kind, str(dataset[GE_PART].value))
    content = group("FrameContentSequence")
    return {
        "kind of image": kind,
        "slice thickness": _rounded(_first(group("PixelMeasuresSequence"), "SliceThickness")),
        "stack": str(content.get("StackID") or ""),
        "frame of reference": str(dataset.get("FrameOfReferenceUID") or ""),
        "study": str(dataset.get("StudyInstanceUID") or ""),
        "series number": str(dataset.get("SeriesNumber") or ""),
        "modality": str(dataset.get("Modality") or ""),
    }


def number(value) -> float | None:
    """A finite number, or None."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def _first(place, *names: str) -> float | None:
    """The first of these fields that holds a number."""
    return next((found for name in names if (found := number(place.get(name))) is not None), None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _b_value(dataset, diffusion) -> float | None:
    """The b-value in s/mm², also from where Siemens, Philips and GE kept it before there was a public field."""
    found = _first(diffusion, "DiffusionBValue")
    for tag in ((0x0019, 0x100C), (0x2001, 0x1003), (0x0043, 0x1039)):
        if found is None and tag in dataset:
            value = dataset[tag].value
            if hasattr(value, "insert"):  # several values
                value = value[0] if len(value) else None
            found = number(value.decode("ascii", "replace").strip("\0 ") if isinstance(value, bytes) else value)
            found = found % 100_000 if found is not None and tag[0] == 0x0043 else found  # GE adds 1e9
    return found


def _direction(diffusion) -> tuple[float, ...] | None:
    nested = diffusion.get("DiffusionGradientDirectionSequence")
    value = (nested[0] if nested else diffusion).get("DiffusionGradientOrientation")
    try:
        return tuple(round(float(v), 3) for v in value)
    except (TypeError, ValueError):
        return None


def _moment(whole, date, time) -> float | None:
    """Seconds since a fixed day, of a DT value, or of a date and a time; None without a time."""
    text = str(whole or "")
    date, time = (text[:8], text[8:].split("+")[0].split("-")[0]) if text else (str(date or ""), str(time or ""))
    time = time.replace(":", "")
    clock = number(time)
    if clock is None or len(time.split(".")[0]) < 4:
        return None
    clock = clock if len(time.split(".")[0]) >= 6 else clock * 100
    hours, rest = divmod(clock, 10_000)
    minutes, seconds = divmod(rest, 100)
    try:
        day = datetime.date(int(date[:4]), int(date[4:6]), int(date[6:8])).toordinal()
    except ValueError:
        day = 0
    return day * SECONDS + hours * 3600 + minutes * 60 + seconds
