"""Files in folders and zips, read in memory; nothing is unpacked to disk.

What a zip declares (how many entries, where they lie, how large they become) is not trusted: its directory is read up
to a limit, entries may not overlap, and no entry yields more bytes than it is allowed to.
"""

from __future__ import annotations

import io
import stat
import unicodedata
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from nearl.data.charsets import encoding_of
from nearl.data.formats.base import MAX_BYTES
from nearl.data.records import Problem, base_name
from nearl.errors import NearlError

MAX_ENTRIES = 5_000
MAX_UNPACKED = 600_000_000  # bytes of one zip
MAX_RATIO = 200  # unpacked / packed bytes of one entry larger than 1 MB
MAX_DIRECTORY = 16_000_000  # bytes of a zip's own list of entries, 3 kB for each (our choice)
MAX_PARTS, MAX_NAME = 32, 1000  # folders and characters of one entry's path
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # what a file begins with, and one without entries
HEADER = 30  # bytes, at least, before an entry's own
CHUNK = 1 << 20  # bytes that are unpacked at a time
MAX_DEPTH = 8  # folders in folders (our choice)
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_LITTER = ("__macosx", "thumbs.db", "desktop.ini", "dicomdir")

Parts = tuple[str, ...]  # a path's parts, relative to the root; the last part is "" for a folder itself
Reader = Callable[..., "bytes | Path"]  # with size=N at least the first N bytes, or the path


class Folder:
    """Reads a folder of slices. As a `Reader` it gives its first file, for whoever looks at the beginning."""

    def __init__(self, files: Sequence[tuple[str, Reader]]):
        self.files = list(files)

    def __call__(self, *args, **kwargs) -> bytes | Path:
        return self.files[0][1](*args, **kwargs)


def _hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in _LITTER


def folder_files(root: Path, name: str) -> tuple[list[tuple[Parts, Reader]], list[Problem]]:
    """(files as (parts, reader), problems) of a folder, in sorted order. NearlError where it cannot be read."""
    if not root.is_dir():
        raise NearlError(f"The folder {name} does not exist or is not a folder; check the path.")
    files: list[tuple[Parts, Reader]] = []
    problems: list[Problem] = []

    def walk(folder: Path, parts: Parts, above: tuple[Path, ...]) -> None:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            raise NearlError(
                f"The folder {folder.name} cannot be read ({error.strerror}); check its permissions."
            ) from None
        for entry in entries:
            if _hidden(entry.name):
                continue
            if len(files) > 100_000:
                raise NearlError(f"{name} holds more than 100,000 files; choose the folder of one labelled set.")
            if entry.is_dir():
                inside, shown = (*parts, _clean(entry.name)), base_name(entry.name)
                if entry.resolve() in above:
                    problems.append(Problem(shown, f"{shown} is a link that leads in circles and was left out."))
                    continue
                files.append(((*inside, ""), path_reader(entry)))
                if len(parts) < MAX_DEPTH:
                    walk(entry, inside, (*above, entry.resolve()))
                else:
                    problems.append(Problem(shown, f"The folder {shown} lies too deep and was left out; move it up."))
            elif entry.is_file():
                files.append(((*parts, _clean(entry.name)), path_reader(entry)))
            else:
                shown = base_name(entry.name)
                problems.append(Problem(shown, f"{shown} is a broken link or a special file and was left out."))

    walk(root, (), (root.resolve(),))
    return files, problems


class _Bounded:
    """Reads at most MAX_DIRECTORY bytes at once: zipfile reads a whole directory before its entries can be counted."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise zipfile.LargeZipFile
        return super().read(size)


class _BoundedFile(_Bounded, io.FileIO):
    pass


class _BoundedBytes(_Bounded, io.BytesIO):
    pass


class _Zip(zipfile.ZipFile):
    """A zip that closes the file it was opened on."""

    def __init__(self, stream: io.IOBase):
        self.stream = stream
        super().__init__(stream)

    def close(self) -> None:
        super().close()
        self.stream.close()


def is_zip(source: Path | bytes) -> bool:
    """Whether a file begins as a zip does. False where it cannot be read."""
    try:
        if isinstance(source, bytes):
            return source.startswith(ZIP)
        with source.open("rb") as file:
            return file.read(4) in ZIP
    except OSError:
        return False


def path_reader(path: Path) -> Reader:
    """A reader of a file on disk: it returns the path, whatever size is asked for."""
    return lambda size=None: path


def open_zip(source: Path | bytes, name: str) -> zipfile.ZipFile:
    """The archive at a path or in memory. NearlError where it is missing, not a zip, or lists far too many entries."""
    try:
        return _Zip(_BoundedBytes(source) if isinstance(source, bytes) else _BoundedFile(source))
    except FileNotFoundError:
        raise NearlError(f"{name} does not exist; check the path.") from None
    except zipfile.LargeZipFile:
        raise NearlError(f"{name} lists far too many entries; at most {MAX_ENTRIES} are allowed.") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise NearlError(f"{name} is not a zip file, or a damaged one; make it again.") from None


def zip_files(archive: zipfile.ZipFile, name: str) -> tuple[list[tuple[Parts, Reader]], list[Problem]]:
    """The same of a zip. Entries that must not be opened (links, nested archives, locked or damaged ones, and those
    that unpack to far too much) are problems. NearlError for a zip that is locked, too large, or made to harm."""
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise NearlError(f"{name} has {len(entries)} entries; at most {MAX_ENTRIES} are allowed.")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise NearlError(f"{name} unpacks to more than {MAX_UNPACKED // 10**6} MB; send fewer or smaller images.")
    if any(entry.flag_bits & 1 for entry in entries) and all(
        entry.flag_bits & 1 or entry.is_dir() for entry in entries
    ):
        raise NearlError(f"{name} is locked with a password; make it again without one.")
    if _overlap(archive, entries):
        raise NearlError(f"{name} has overlapping entries, which no valid zip has; it was refused.")
    files: dict[Parts, Reader] = {}
    problems: list[Problem] = []
    for entry, path in zip(entries, _names(entries), strict=True):
        parts = tuple(path.replace("\\", "/").split("/"))
        shown = base_name("/".join(parts))
        if (parts[0] == "" and len(parts) > 1) or parts[0][1:2] == ":" or ".." in parts:
            raise NearlError(f"{name} has an entry that leads outside the zip ({shown}); it was refused.")
        parts = (*(part for part in map(_clean, parts[:-1]) if part not in ("", ".")), _clean(parts[-1]))
        if any(_hidden(part) for part in parts):
            continue
        if reason := _refusal(entry, parts):
            problems.append(Problem(shown, f"{shown} {reason} and was left out."))
            continue
        if parts[-1] and parts in files:
            problems.append(Problem(shown, f"{shown} is in the zip more than once; only the last one is used."))
        files[parts] = partial(_read_entry, archive, entry, shown)
    return list(files.items()), problems


def _overlap(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> bool:
    """Whether two entries claim the same bytes, or one claims those of the directory that follows them."""
    spans = sorted((entry.header_offset, entry.header_offset + HEADER + entry.compress_size) for entry in entries)
    following = [start for start, _ in spans[1:]] + [archive.start_dir]
    return any(end > start for (_, end), start in zip(spans, following, strict=False))


def _names(entries: list[zipfile.ZipInfo]) -> list[str]:
    """The entries' names. Many programs write UTF-8 or a national code page without saying so, which zipfile takes for
    code page 437; all such names of a zip are in one encoding."""
    raw = [None if entry.flag_bits & 0x800 else _bytes(entry) for entry in entries]
    undeclared = b"\n".join(name for name in raw if name is not None and not _is_utf8(name))
    codec = encoding_of(undeclared, dos=True)
    return [
        entry.orig_filename if name is None else name.decode("utf-8" if _is_utf8(name) else codec, errors="replace")
        for entry, name in zip(entries, raw, strict=True)
    ]


def _bytes(entry: zipfile.ZipInfo) -> bytes | None:
    """A name as it stands in the zip; None where zipfile was told its encoding by other means."""
    try:
        return entry.orig_filename.encode("cp437")
    except UnicodeError:
        return None


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _clean(part: str) -> str:
    """A part of a path in composed characters (NFC), without invisible ones."""
    return "".join(c for c in unicodedata.normalize("NFC", part) if c.isprintable())


def _refusal(entry: zipfile.ZipInfo, parts: Parts) -> str | None:
    """Why an entry must not be opened, or None."""
    if "\0" in entry.orig_filename:
        return "has a name with a forbidden character"
    if not any(parts):
        return "has no name"
    if not parts[-1]:
        return None
    if len(parts) > MAX_PARTS or len(entry.orig_filename) > MAX_NAME:
        return "has far too long a path"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a special file"
    if parts[-1].lower().endswith(_ARCHIVES) and not parts[-1].lower().endswith(".nii.gz"):
        return "is an archive inside the zip"
    if entry.flag_bits & 1:
        return "is locked with a password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # the others unpack without a limit
        return "is packed in a rare way (neither stored nor deflated)"
    if entry.file_size > MAX_BYTES or entry.file_size > max(1_000_000, MAX_RATIO * entry.compress_size):
        return "unpacks to far more than an image should"
    return None


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, shown: str, size: int | None = None) -> bytes:
    """The bytes of one entry, or its first `size`, never more than it declares. NearlError if it is damaged."""
    left = entry.file_size if size is None else min(size, entry.file_size)
    pieces = []
    try:
        with archive.open(entry) as stream:
            while left and (piece := stream.read(min(left, CHUNK))):
                pieces.append(piece)
                left -= len(piece)
        if left:
            raise EOFError
    except Exception:  # a decompressor fed with untrusted bytes
        raise NearlError(f"{shown} is damaged inside the zip; make the zip again.") from None
    return b"".join(pieces)
