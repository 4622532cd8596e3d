"""Labelled sets: class folders, lists of files per class, files with a table, or a zip of them -> images with labels.

Accepted layouts, for folders and zips alike: <class>/..., <anything>/<class>/..., train/<class>/... with or without
test/<class>/... (also Training, Testing, Val...), and each of these under one outer folder; or images in any folders
with a CSV of files and labels beside them, which then decides. Hidden files and masks beside their images are left out.
A prompts.json beside the class folders is kept as it is. One bad file or empty class is named in `problems` and the
rest is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nearl.data.archives import Parts, Reader, folder_files, is_zip, open_zip, path_reader, zip_files
from nearl.data.images import ImageRecord, Problem, base_name, decode_one
from nearl.data.sandbox.request import current
from nearl.data.sets.base import LabelledSet
from nearl.data.sets.columns import Chosen, Columns, ColumnsError, choose
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.layouts import TEST, TRAIN, VALID, File, Layout, arrange, split_of, stem, without_masks
from nearl.data.sets.studies import decode_study, with_studies
from nearl.data.sets.tables import Names, Row, Table, is_table, match, read_tables, same
from nearl.errors import NearlError
from nearl.prompts import class_key

MAX_SIDE = 512  # pixels; larger images are shrunk so that a whole set fits in memory (our choice)
MAX_DECODED = 3_000_000_000  # bytes of pixels of one set, about 4,000 images of the largest side


def resolve_splits(
    path: Path | str,
    fewest: int = 2,
    columns: Columns | None = None,
    findings: bool = False,
    studies: bool = False,
) -> tuple[LabelledSet, LabelledSet | None]:
    """(train, test) of a folder or zip with train/ and test/, or with a table that has such a column; (all, None) where
    it holds only class folders or a table.

    Both have the same classes in the same order, those of train. A zip is read in memory, nothing is unpacked to disk;
    entries that must not be opened are named in `problems` (`nearl.data.archives`). fewest: so many classes must
    have images. columns: which columns of the table to use; None finds them by their names and content. findings: a
    table that marks several findings gives a `nearl.data.sets.findings.FindingsSet`. studies: a volume is read whole,
    as a study of its slices, and a folder of DICOM slices or a zip is one volume; else one slice of it is an image.

    Raises NearlError if there is no such folder or zip, a class name occurs twice, fewer than `fewest` classes have
    images that can be read, test holds a class that train does not, or a zip was made to harm; ColumnsError where it is
    not plain which columns of a table hold files and labels.
    """
    path = Path(path)
    name = base_name(str(path.resolve()))
    how = How(columns or Columns(), columns is not None, findings, studies)
    if not path.is_file():
        return _load(*folder_files(path, name), name, fewest, how)
    with open_zip(path, name) as archive:
        return _load(*zip_files(archive, name), name, fewest, how)


def from_files(per_class: dict[str, Sequence[Path | str]], name: str = "your images", fewest: int = 2) -> LabelledSet:
    """A set from lists of image files, one per class; zips among them are opened. NearlError as resolve_splits."""
    with ExitStack() as stack:
        problems: list[Problem] = []
        classes: dict[str, list[File]] = {}
        for label, paths in per_class.items():
            files, masks = without_masks(_opened(paths, stack, problems))
            problems += masks
            classes[label] = [File("/".join(parts), reader) for parts, reader in files]
        result = _decode_classes(classes, name, fewest=fewest)
    return replace(result, problems=problems + result.problems)


def from_table(
    files: Sequence[Path | str],
    table: Path | str | None = None,
    name: str = "your images",
    fewest: int = 2,
    columns: Columns | None = None,
) -> LabelledSet:
    """Image files, or zips of them, with a CSV of files and labels, and of patients if it has such a column.

    table: the CSV; None takes the one among the files or in a zip. Names are matched by the path from the top of a zip,
    from a folder below it, or alone where only one file has them; in another case or without the ending where that fits
    one file only. Spellings of a label that differ only in case are one class.

    Raises NearlError as resolve_splits does, and where there is no such table or more than one.
    """
    return table_splits(files, table, name, fewest, columns, divide=False)[0]


def table_splits(
    files: Sequence[Path | str],
    table: Path | str | None = None,
    name: str = "your images",
    fewest: int = 2,
    columns: Columns | None = None,
    divide: bool = True,
    findings: bool = False,
) -> tuple[LabelledSet, LabelledSet | None]:
    """As `from_table`, but (train, test) where the table has a column that says so, unless `divide` is False;
    ``findings`` as of `resolve_splits`."""
    with ExitStack() as stack:
        problems: list[Problem] = []
        opened, masks = without_masks(_opened(files, stack, problems))
        given = opened if table is None else [((Path(table).name,), path_reader(Path(table)))]
        tables, unread = read_tables(given)
        if not tables:
            lack = f"{name} has no table of labels; add a CSV with the columns file and label."
            raise NearlError(unread[0].reason if unread else lack)
        reading = _Reading(_images(opened), How(columns or Columns(), findings=findings))
        if not reading.take(tables, name):
            raise reading.refused[0]
        return reading.sets(name, fewest, problems + masks + unread, divide)


def check_names(names: Iterable[str], where: str) -> None:
    """Raises NearlError for a class without a name, or a name that occurs twice."""
    seen: dict[str, str] = {}
    for label in names:
        key = same(label)
        if not key:
            raise NearlError(f"A class of {where} has no name; give every class a name.")
        if key in seen:
            raise NearlError(f"{where} has the class “{label}” twice (“{seen[key]}”); rename or merge one of them.")
        seen[key] = label


def check_memory(size: int, name: str) -> None:
    """Raises NearlError where a set of so many bytes of pixels is too large to keep in memory."""
    if size > MAX_DECODED:
        raise NearlError(f"{name} holds too many images to keep in memory; use a part of them.")


# ---- from a list of files to a set


def _opened(paths: Iterable[Path | str], stack: ExitStack, problems: list[Problem]) -> list[tuple[Parts, Reader]]:
    """Every file, including those in zips, which stay open as long as `stack`. A zip that is refused is a problem."""
    files: list[tuple[Parts, Reader]] = []
    for path in map(Path, paths):
        if not is_zip(path):
            files.append(((path.name,), path_reader(path)))
            continue
        label = base_name(path.name)
        try:
            some, others = zip_files(stack.enter_context(open_zip(path, label)), label)
        except NearlError as error:
            problems.append(Problem(label, str(error)))
            continue
        files += [(parts, reader) for parts, reader in some if parts[-1]]
        problems += others
    return files


class How(NamedTuple):
    """How a table is to be read."""

    columns: Columns
    asked: bool = False  # whether somebody named the columns
    findings: bool = False  # whether columns of marks may be findings
    studies: bool = False  # whether volumes are read whole


def _load(
    files: list[tuple[Parts, Reader]], problems: list[Problem], name: str, fewest: int, how: How
) -> tuple[LabelledSet, LabelledSet | None]:
    files, beside = with_studies(files) if how.studies else (files, [])
    files, masks = without_masks(files)
    layout = arrange(files, [*problems, *beside, *masks])
    if reading := _reading(layout, _images(files), name, how):
        train, test = reading.sets(name, fewest, layout.problems, notes=layout.notes)
    else:
        if None not in layout.splits and TRAIN not in layout.splits:
            raise NearlError(f"{name} has a test folder but no train folder; add train/<class>/ folders.")
        known = layout.splits[None if None in layout.splits else TRAIN]
        train = _decode_classes(known, name, fewest=fewest, studies=how.studies)
        train = replace(train, problems=layout.problems + train.problems, notes=layout.notes)
        test = None
        if TEST in layout.splits:
            test = _decode_classes(layout.splits[TEST], name, train.classes, fewest=1, studies=how.studies)
    return replace(train, prompts=layout.prompts), test and replace(test, prompts=layout.prompts)


def _images(files: Iterable[tuple[Parts, Reader]]) -> list[tuple[Parts, Reader]]:
    return [item for item in files if item[0][-1] and not is_table(item[0]) and item[0][-1] != "prompts.json"]


def _reading(layout: Layout, images: list[tuple[Parts, Reader]], name: str, how: How) -> _Reading | None:
    """What a table says of the images; None where the folders do. NearlError where nothing says what is what."""
    tables, unread = read_tables(layout.loose)
    layout.problems += unread
    reading = _Reading(images, how)
    if layout.flat:
        for part, files in layout.flat.items():
            own, unread = read_tables(item for item in files if len(item[0]) == 1)
            layout.problems += unread
            common = [t for t in tables if split_of(stem(t.name)) == part] or tables
            reading.take(own or common, name, _images(files), part)
    elif None in layout.splits or not layout.splits or how.asked:
        reading.take(tables, name)
    classes = next(iter(layout.splits.values()), {})
    if reading.rows and not (len(reading.findings) == 1 and len(classes) > 1):  # one column of marks among folders
        layout.problems += reading.problems
        return reading
    if len(classes) < 2 and reading.refused:  # one folder with all images is no class
        raise reading.refused[0]
    if not classes:
        lack = f"{name} holds no class folders; put the images of each class in a folder named after it."
        outside = sorted(layout.outside, key=lambda problem: " lies outside " in problem.reason)  # what may hold labels
        reasons = [problem.reason for problem in layout.problems + outside]
        why = f" ({reasons[0]})" if reasons else ""
        raise NearlError(unread[0].reason if unread and not layout.splits else lack + why)
    layout.problems += layout.outside
    layout.problems += [Problem(t.name, f"{t.name} was not used: {_why_not(t, reading)}") for t in tables]
    return None


def _why_not(table: Table, reading: _Reading) -> str:
    refused = next((str(error) for error in reading.refused if str(error).startswith(table.name)), "")
    return refused or "the folders say what each image shows."


class _Reading:
    """What tables say of images: rows that were matched with files."""

    def __init__(self, images: list[tuple[Parts, Reader]], how: How):
        self.images, self.how = images, how
        self.findings: tuple[str, ...] = ()
        self.rows: list[tuple[str, list[Row], list[tuple[Parts, Reader]]]] = []  # (table, its rows, files they mean)
        self.notes: list[str] = []
        self.problems: list[Problem] = []  # tables that are not used
        self.refused: list[ColumnsError] = []

    def take(
        self, tables: Sequence[Table], where: str, images: list[tuple[Parts, Reader]] | None = None, part: str = ""
    ) -> bool:
        """Use the table of labels among these, or one of train and one of test images; whether there was one.

        part: what the images are, where their folder says so. NearlError for several tables that could be meant.
        """
        images = self.images if images is None else images
        names = Names(images)
        found: list[tuple[Table, Chosen]] = []
        others: list[tuple[Table, str]] = []
        for table in tables:
            try:
                found.append((table, choose(table, names.only, split_of, self.how.columns, self.how.findings)))
            except ColumnsError as error:
                self.refused.append(error)
                others.append((table, str(error)))
        parts = [split_of(stem(table.name)) for table, _ in found]
        if len(found) > 1 and (len(set(parts)) < len(parts) or TRAIN not in parts or None in parts):
            pair = f"{found[0][0].name}, {found[1][0].name}"
            raise NearlError(f"{where} holds {len(found)} tables ({pair}); leave one of them.")
        for table, chosen in found:
            if (self.rows and chosen.findings != self.findings) or chosen.findings != found[0][1].findings:
                raise NearlError(f"{table.name} has other findings than the other table; give both the same columns.")
            self.findings = chosen.findings
        rows: list[Row] = []
        for (table, chosen), word in zip(found, parts, strict=True):
            of_table = part or (word if len(found) > 1 else "")
            columns = (chosen.files, chosen.labels, chosen.groups, chosen.parts or [""] * len(table.rows))
            rows += [Row(f, lab, group, of_table or own or "") for f, lab, group, own in zip(*columns, strict=True)]
            self.notes += [note for note in chosen.notes if note not in self.notes]
        if found:
            self.rows.append((" and ".join(table.name for table, _ in found), rows, images))
            used = found[0][0].name
            self.problems += [Problem(t.name, f"{t.name} was not used beside {used}.") for t, _ in others]
        return bool(found)

    def sets(
        self, name: str, fewest: int, problems: list[Problem], divide: bool = True, notes: Sequence[str] = ()
    ) -> tuple[LabelledSet, LabelledSet | None]:
        """(train, test); all images are in train where no row says that its image is for tests."""
        per_part: dict[str, dict[str, list[File]]] = {}
        problems, said = list(problems), [*notes, *self.notes]
        spelt: dict[str, str] = {}
        for table, rows, images in self.rows:
            found = match(table, rows, images)
            problems += found.problems
            for (path, reader), label, group, part in zip(
                found.files, found.labels, found.groups, found.parts, strict=True
            ):
                classes = per_part.setdefault(part if divide else "", {})
                classes.setdefault(spelt.setdefault(same(label), label), []).append(File(path, reader, group))
        train = per_part.get(TRAIN) or per_part.get("")
        if not train:
            why = f" ({problems[0].reason})" if problems else ""
            raise NearlError(f"No row of {self.rows[0][0]} fits an image of {name}; check the file names in it.{why}")
        as_test = TEST if TEST in per_part else VALID
        for part in per_part.keys() - {TRAIN, "", as_test}:
            count = sum(map(len, per_part[part].values()))
            said.append(f"{count} images that the table gives for {part}ation are not used; only train and test are.")
        test, whole = per_part.get(as_test), self.how.studies
        if self.findings:
            each = [
                None if part is None else _decode_classes(part, name, fewest=1, studies=whole) for part in (train, test)
            ]
            sets = [None if part is None else FindingsSet.of(part, self.findings) for part in each]
            return replace(sets[0], problems=problems + sets[0].problems, notes=said), sets[1]
        result = _decode_classes(train, name, fewest=fewest, studies=whole)
        result = replace(result, problems=problems + result.problems, notes=said)
        if test is None:
            return result, None
        return result, _decode_classes(test, name, result.classes, fewest=1, studies=whole)


def _decode_classes(
    per_class: dict[str, list[File]],
    name: str,
    classes: list[str] | None = None,
    fewest: int = 2,
    studies: bool = False,
) -> LabelledSet:
    """Decode every file. classes: the exact classes to use, even those without an image; None takes what is there."""
    check_names(per_class, name)
    if classes is not None:
        per_class = _respelt(per_class, classes)
    if classes is not None and (unknown := sorted(set(per_class) - set(classes))):
        raise NearlError(
            f"The test images of {name} have a class “{unknown[0]}” that is not among the training classes."
        )
    decoded: dict[str, list[tuple[ImageRecord, str]]] = {}
    problems: list[Problem] = []
    size = 0
    current().expect(sum(map(len, per_class.values())))
    for label in sorted(per_class) if classes is None else classes:
        decoded[label] = []
        files = per_class.get(label, [])
        for file in files:
            try:
                record = decode_study(file.read, file.path) if studies else _decode(file)
            except NearlError as error:
                problems.append(Problem(base_name(file.path), str(error)))
                continue
            decoded[label].append((record, file.group))
            size += sum(part.pixels.nbytes for part in record.parts)
            check_memory(size, name)
        if not decoded[label]:
            lack = "no image that can be read" if files else "no image"
            problems.append(Problem(label, f"The class “{label}” has {lack}."))
    filled = [label for label, found in decoded.items() if found]
    if len(filled) < fewest:
        why = f" ({problems[-1].reason})" if problems else ""
        needed = "needs at least two classes with images" if fewest > 1 else "needs images"
        raise NearlError(f"{name} {needed} that can be read, but has {len(filled)}.{why}")
    kept = filled if classes is None else classes
    rows = [(record, index, group) for index, label in enumerate(kept) for record, group in decoded[label]]
    records, labels, groups = ([row[i] for row in rows] for i in range(3))
    return LabelledSet(list(kept), records, labels, problems, name, groups=groups if any(groups) else None)


def _respelt(per_class: dict[str, list[File]], classes: list[str]) -> dict[str, list[File]]:
    """Test classes under the names of the training classes that they differ from only in case or an underscore."""
    known: dict[str, list[str]] = {}
    for name in classes:
        known.setdefault(class_key(name), []).append(name)
    result: dict[str, list[File]] = {}
    for name, files in per_class.items():
        alike = known.get(class_key(name), [])
        result.setdefault(alike[0] if name not in classes and len(alike) == 1 else name, []).extend(files)
    return result


def _decode(file: File) -> ImageRecord:
    source = file.read()
    zipped = source.startswith(b"PK\x03\x04") if isinstance(source, bytes) else is_zip(source)
    if zipped:
        shown = base_name(file.path)
        raise NearlError(f"{shown} is an archive inside the set and was left out; put its images there themselves.")
    return decode_one(source, file.path, MAX_SIDE).still()
