"""Studies among the files of a set: a folder of DICOM slices is one file of the set, as a zip or a NIfTI is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nearl.data.archives import Parts, Reader
from nearl.data.images import ImageRecord, decode_many
from nearl.data.records import STUDY_SIDE, base_name
from nearl.errors import NearlError

SLICES = (".dcm", ".dicom", ".ima")
FEWEST = 2  # files of a folder that is a study


class Folder:
    """Reads a folder of slices. As a `Reader` it gives its first file, for whoever looks at the beginning."""

    def __init__(self, files: Sequence[tuple[str, Reader]]):
        self.files = list(files)

    def __call__(self, *args, **kwargs) -> bytes | Path:
        return self.files[0][1](*args, **kwargs)


def with_studies(files: Sequence[tuple[Parts, Reader]]) -> list[tuple[Parts, Reader]]:
    """The files, those of each folder of slices as one: a folder in which every file is called as DICOM slices are, or
    has no ending, and there are at least two."""
    inside: dict[Parts, list[tuple[Parts, Reader]]] = {}
    for parts, reader in files:
        inside.setdefault(parts[:-1], []).append((parts, reader))
    kept: list[tuple[Parts, Reader]] = []
    for folder, members in inside.items():
        names = [(parts[-1], reader) for parts, reader in members if parts[-1]]
        if folder and len(names) >= FEWEST and all(_is_slice(name) for name, _ in names):
            kept.append((folder, Folder(names)))
        else:
            kept += members
    return kept


def decode_study(reader: Reader, path: str) -> ImageRecord:
    """The study that a folder, zip or file holds, which is its largest volume; an image for a file with one. NearlError
    where nothing can be read."""
    name = base_name(path)
    sources = reader.files if isinstance(reader, Folder) else [(name, reader)]
    records, problems = decode_many([(shown, read()) for shown, read in sources], STUDY_SIDE)
    if not records:
        raise NearlError(problems[0].reason)
    largest = max(records, key=lambda record: record.slices())
    others = len(records) - 1
    said = (f"{name} holds {len(records)} images; the one with most slices is read.",) if others else ()
    study = largest.study()
    return study if not said else study.noted(said)


def _is_slice(name: str) -> bool:
    return name.lower().endswith(SLICES) or "." not in name
