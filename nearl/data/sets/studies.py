"""Studies among the files of a set: a folder of DICOM slices is one file of the set, as a zip or a NIfTI is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from nearl.data.archives import Folder, Parts, Reader
from nearl.data.images import ImageRecord, Problem, decode_many
from nearl.data.records import STUDY_SIDE, base_name
from nearl.data.sets.tables import is_table, listed, read_tables, slashed, without_ending
from nearl.errors import NearlError

SLICES = (".dcm", ".dicom", ".ima")
FEWEST = 2  # files of a folder that is a study
TRIED = 8  # files of a folder that are opened to see whether they belong together (our choice)
TRIED_SIDE = 64  # pixels of those, at most

Entry = tuple[Parts, Reader]


def with_studies(files: Sequence[Entry]) -> tuple[list[Entry], list[Problem]]:
    """The files, those of each folder of slices as one, and what lies beside the slices and is left out.

    Slices are most files of the folder, at least two, by their ending or because they have none, and form a volume.
    Where they form none they are images of their own, unless a table names the folder."""
    cells = cache(lambda: _cells(files))
    inside: dict[Parts, list[Entry]] = {}
    for parts, reader in files:
        inside.setdefault(parts[:-1], []).append((parts, reader))
    kept: list[Entry] = []
    problems: list[Problem] = []
    for folder, members in inside.items():
        named = [member for member in members if member[0][-1] and not is_table(member[0])]
        slices = [(parts[-1], reader) for parts, reader in named if is_slice(parts[-1])]
        others = [base_name(parts[-1]) for parts, _ in named if not is_slice(parts[-1])]
        many = folder and len(slices) >= FEWEST and len(slices) > len(others)
        if not many or not (_is_volume(slices) or _is_named(folder, slices, cells())):
            kept += members
            continue
        kept += [(folder, Folder(slices)), *(member for member in members if is_table(member[0]))]
        if others:
            were = "lies" if len(others) == 1 else "lie"
            words = f"{listed(others)} {were} beside the slices of {base_name(folder[-1])} and {{}} left out."
            problems.append(Problem(others[0], words.format("was" if len(others) == 1 else "were")))
    return kept, problems


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
    said = [f"{name} holds {len(records)} images; the one with most slices is read."] if others else []
    said += [problem.reason for problem in problems[:1]]
    said += [f"{len(problems) - 1} more files of {name} could not be read."] if len(problems) > 1 else []
    study = largest.study().noted(said)
    return replace(study, name=name) if isinstance(reader, Folder) else study


def is_slice(name: str) -> bool:
    """Whether a file is called as DICOM slices are, or has no ending."""
    return name.lower().endswith(SLICES) or "." not in name


def _is_volume(slices: Sequence[tuple[str, Reader]]) -> bool:
    """Whether some of the first files belong together. Files of which none can be read count as a damaged volume."""
    tried = [(name, reader()) for name, reader in slices[:TRIED]]
    records, problems = decode_many(tried, TRIED_SIDE)
    return len(records) + len(problems) < len(tried) or not records


def _cells(files: Sequence[Entry]) -> set[str]:
    """All cells of the tables among the files, as paths in lower case."""
    tables, _ = read_tables(files)
    return {slashed(cell).casefold() for table in tables for row in table.rows for cell in row}


def _is_named(folder: Parts, slices: Sequence[tuple[str, Reader]], cells: set[str]) -> bool:
    """Whether cells of a table name the folder, and none a file in it."""
    names = {"/".join(folder[start:]).casefold() for start in range(len(folder))}
    if not names & cells:
        return False
    inside = {without_ending(name.casefold()) for name, _ in slices}
    return not any(without_ending(cell.rsplit("/", 1)[-1]) in inside for cell in cells)
