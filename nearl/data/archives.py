"""Where files come from: folders and zips, read in memory, with nothing unpacked to disk."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nearl.data.pictures import MAX_BYTES
from nearl.data.records import Problem, base_name
from nearl.errors import NearlError

MAX_ENTRIES = 5_000
MAX_UNPACKED = 600_000_000  # bytes of one zip
MAX_RATIO = 200  # unpacked / packed bytes of one entry larger than 1 MB
MAX_DEPTH = 8  # folders in folders, so that links cannot lead round in circles
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")
_LITTER = ("__macosx", "thumbs.db", "desktop.ini", "dicomdir")

Parts = tuple[str, ...]  # a path's parts, relative to the root; the last part is "" for a folder itself
Reader = Callable[..., "bytes | Path"]  # with size=N at least the first N bytes, or the path


def _hidden(part: str) -> bool:
    return part.startswith(".") or part.lower() in _LITTER


def folder_files(root: Path) -> tuple[list[tuple[Parts, Reader]], list[Problem], str]:
    """(files as (parts, reader), problems, name) of a folder, in sorted order. NearlError where it cannot be read."""
    name = base_name(str(root.resolve()))
    if not root.is_dir():
        raise NearlError(f"The folder {name} does not exist or is not a folder; check the path.")
    files: list[tuple[Parts, Reader]] = []

    def walk(folder: Path, parts: Parts) -> None:
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
                files.append(((*parts, entry.name, ""), partial(_path, entry)))
                if len(parts) < MAX_DEPTH:
                    walk(entry, (*parts, entry.name))
            else:
                files.append(((*parts, entry.name), partial(_path, entry)))

    walk(root, ())
    return files, [], name


def open_zip(source: Path | bytes, name: str) -> zipfile.ZipFile:
    """The archive at a path or in memory. NearlError where it is not there or not a zip."""
    try:
        return zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    except FileNotFoundError:
        raise NearlError(f"{name} does not exist; check the path.") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise NearlError(f"{name} is not a zip file, or a damaged one; make it again.") from None


def zip_files(
    archive: zipfile.ZipFile, name: str, max_entries: int, max_unpacked: int, max_ratio: int
) -> tuple[list[tuple[Parts, Reader]], list[Problem], str]:
    """The same of a zip; entries that must not be opened are problems. NearlError for a zip that was made to harm."""
    entries = archive.infolist()
    if len(entries) > max_entries:
        raise NearlError(f"{name} has {len(entries)} entries; at most {max_entries} are allowed.")
    if sum(entry.file_size for entry in entries) > max_unpacked:
        raise NearlError(f"{name} unpacks to more than {max_unpacked // 10**6} MB; send fewer or smaller images.")
    if any(entry.flag_bits & 1 for entry in entries) and all(
        entry.flag_bits & 1 or entry.is_dir() for entry in entries
    ):
        raise NearlError(f"{name} is locked with a password; make it again without one.")
    files: list[tuple[Parts, Reader]] = []
    problems: list[Problem] = []
    for entry in entries:
        parts = tuple(entry.filename.replace("\\", "/").split("/"))
        if parts[0] == "" or parts[0][1:2] == ":" or ".." in parts:
            raise NearlError(
                f"{name} has an entry that leads outside the zip ({base_name(entry.filename)}); it was refused."
            )
        parts = (*(part for part in parts[:-1] if part not in ("", ".")), parts[-1])
        if any(_hidden(part) for part in parts):
            continue
        if parts[-1] and (reason := _refusal(entry, max_ratio)):
            shown = base_name(entry.filename)
            problems.append(Problem(shown, f"{shown} {reason} and was left out."))
            continue
        files.append((parts, partial(_read_entry, archive, entry)))
    return files, problems, name


def _refusal(entry: zipfile.ZipInfo, max_ratio: int) -> str | None:
    """Why an entry must not be opened, or None."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a special file"
    if entry.filename.lower().endswith(_ARCHIVES) and not entry.filename.lower().endswith(".nii.gz"):
        return "is an archive inside the zip"
    if entry.flag_bits & 1:
        return "is locked with a password"
    if entry.file_size > MAX_BYTES or entry.file_size > max(1_000_000, max_ratio * entry.compress_size):
        return "unpacks to far more than an image should"
    return None


def _path(path: Path, size: int | None = None) -> Path:
    return path


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int | None = None) -> bytes:
    """The bytes of one entry, or its first ``size``, never more than it declares. NearlError if it is damaged."""
    try:
        with archive.open(entry) as stream:
            return stream.read(entry.file_size if size is None else min(size, entry.file_size))
    except Exception:  # four decompressors fed with untrusted bytes
        raise NearlError(f"{base_name(entry.filename)} is damaged inside the zip; make the zip again.") from None
