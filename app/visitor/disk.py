"""The app's folder on disk: one folder in it for each workspace; every file is written by rename.

A workspace's folder is named by a hash of its id, so that the id itself, which opens the workspace, is in no path, log
or list of processes. All folders are readable by the server's user alone.

Old folders are deleted, so the server works only in a folder that carries its marker, and deletes only what has a name
that it makes itself. A folder with somebody else's files is refused.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from nearl.data.records import base_name
from nearl.errors import NearlError

ENVIRONMENT = "NEARL_WORKSPACES"
MARKER = ".nearl-clip"
MARK = "The NEARL-CLIP app keeps its visitors' workspaces in this folder and deletes old ones.\n"
LOCK, WORKSPACES, UPLOADS = ".lock", "workspaces", "uploads"
NAMES = {WORKSPACES: re.compile(r"[0-9a-f]{40}"), UPLOADS: re.compile(r"[0-9a-f]{64}|out-[0-9a-f]{32}")}
"""The names of the folders that the server makes: `folder_name`, Gradio's digests and `Workspace.folder`."""
LOOSE = re.compile(r"tmp[a-z0-9_]{8}")  # files in `uploads` that Gradio writes while an upload arrives


def default_root() -> Path:
    """The folder for workspaces unless the command line names one: in the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "nearl-clip"


class Root:
    """The folder of one server: a new one, an empty one, or one that carries the marker of an earlier server.

    `path` None: a temporary folder, deleted with this object or with the process. Raises NearlError if the folder
    cannot be made, if another server uses it, or if it may hold somebody else's files: a link, or a folder without a
    marker that is not empty.
    """

    def __init__(self, path: Path | str | None = None):
        self._temporary = tempfile.TemporaryDirectory(prefix="nearl-") if path is None else None
        self.path = Path(path or self._temporary.name).absolute()
        self._making = threading.Lock()
        self._lock: FileLock | None = None
        self._make()

    def ensure(self) -> None:
        """Make again what somebody has removed of the folder while the server runs. NearlError as when it starts."""
        with self._making:
            if not all(path.exists() for path in (self.workspaces, self.uploads, self.path / MARKER, self.path / LOCK)):
                self._make()

    def _make(self) -> None:
        self._refuse_foreign()
        try:
            for folder in (self.path, self.workspaces, self.uploads):
                make_folder(folder)
            for folder in (self.workspaces, self.uploads):
                folder.chmod(0o700)
            write_bytes(self.path / MARKER, MARK.encode())
            if not self._held:
                if self._lock is not None:
                    self._lock.release()  # of the file that is gone
                self._lock = FileLock(self.path / LOCK, blocking=False, thread_local=False, mode=0o600)
                self._lock.acquire()  # until this object or the process ends, however it ends
        except Timeout as error:
            raise NearlError(
                f"Another server keeps its workspaces in {self.path}; name another folder with --workspaces."
            ) from error
        except OSError as error:
            raise NearlError(f"The folder {self.path} cannot be written to; name another with --workspaces.") from error

    def _refuse_foreign(self) -> None:
        """NearlError for a link, and for a folder that holds somebody else's files."""
        for path in (self.path, self.workspaces, self.uploads, self.path / MARKER):
            if path.is_symlink():
                raise NearlError(
                    f"{path} is a link, and old files are deleted from the folder for workspaces; "
                    "name the folder itself with --workspaces."
                )
        try:
            ours = self._held or self._is_ours()
        except OSError as error:
            raise NearlError(f"The folder {self.path} cannot be read; name another with --workspaces.") from error
        if not ours:
            raise NearlError(
                f"The folder {self.path} holds files that are not this app's, and old files are deleted from the "
                "folder for workspaces; name a new or an empty one with --workspaces."
            )

    @property
    def _held(self) -> bool:
        """Whether this server has the folder already."""
        return self._lock is not None and (self.path / LOCK).exists()

    def _is_ours(self) -> bool:
        """Whether the folder is missing, empty or marked. A folder of a version that wrote no marker is recognised by
        the names in it: it holds no others."""
        if not self.path.exists() or (self.path / MARKER).is_file():
            return True
        if any(entry.name not in (LOCK, WORKSPACES, UPLOADS) for entry in self.path.iterdir()):
            return False
        folders = [path for path in (self.workspaces, self.uploads) if path.exists()]
        return all({*path.iterdir()} == {*made_here(path), *_loose(path)} for path in folders)

    @property
    def lasts(self) -> bool:
        """Whether what is kept here outlives a restart of the server. A Space's own disk does not, only storage that is
        mounted into it."""
        if self._temporary is not None:
            return False
        mount = self.path.resolve()
        while not os.path.ismount(mount):
            mount = mount.parent
        return not os.environ.get("SPACE_ID") or mount != Path(mount.anchor)

    @property
    def workspaces(self) -> Path:
        return self.path / WORKSPACES

    @property
    def uploads(self) -> Path:
        """For Gradio's uploads and downloads, which it serves to anybody who knows their long random names. Everything
        in it is deleted after an hour, or when a server starts."""
        return self.path / UPLOADS

    def folder(self, key: str) -> Path:
        """The folder that belongs to a workspace's id; it need not exist."""
        return self.workspaces / folder_name(key)


DISK_FULL = "The server's disk is full, so nothing was kept; try again later, or tell whoever runs it."


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that caused it, says that the disk is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left" in str(error):  # as safetensors says it
            return True
        error = error.__cause__ or error.__context__
    return False


def folder_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for the server's user alone."""
    for attempt in range(3):  # another thread may be deleting empty folders
        try:
            for folder in (*reversed(path.parents), path):
                if not folder.is_dir():
                    with contextlib.suppress(FileExistsError):
                        folder.mkdir(mode=0o700)
            return
        except FileNotFoundError:
            if attempt == 2:
                raise


def json_bytes(content: object) -> bytes:
    """JSON; what cannot be written, half of a character, becomes "?"."""
    return json.dumps(content, ensure_ascii=False).encode(errors="replace")


def write_json(path: Path, content: object) -> None:
    write_bytes(path, json_bytes(content))


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or nothing, for the server's user alone: a file beside it, then a rename."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
        partial.replace(path)
    except OSError:  # such as a full disk
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


def _content(path: Path) -> object:
    """The JSON in a file; None where there is no file, and False where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sound = json.dumps(content, ensure_ascii=False).encode(errors="replace")  # no answer can hold lone surrogates
        return json.loads(sound, parse_constant=str)  # nor NaN
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return False


Model = TypeVar("Model", bound=BaseModel)


WHOLE = "everything"
MOST_SKIPPED = 100  # values of a file that are left out one by one
MOST_LISTED = 5


def listed(skipped: Sequence[str]) -> str:
    """The keys that were left out, for a sentence; they may be anything."""
    words = [f"“{base_name(key)[-40:]}”" for key in skipped[:MOST_LISTED] if key != WHOLE]
    rest = len(skipped) - len(words)
    return (", ".join(words) + (f" and {rest} more" if rest else "")) if words else WHOLE


def read_model(path: Path, model: type[Model]) -> Model | None:
    """The content of a JSON file as a model. Keys that it does not know are ignored, and fields that are damaged have
    their defaults. None where there is no such file, or it lacks a field without a default."""
    return look_into(path, model)[0]


def look_into(path: Path, model: type[Model]) -> tuple[Model | None, tuple[str, ...]]:
    """The same, and which keys were left out, as "data.prompts": those that the model does not know, and damaged ones,
    which have their defaults. `WHOLE` for a file that cannot be used at all."""
    content = _content(path)
    if content is None:
        return None, ()
    if not isinstance(content, dict) or not content:
        return None, (WHOLE,)
    skipped: list[str] = []
    for _ in range(MOST_SKIPPED):
        try:
            found = model.model_validate(content)
            return found, tuple(dict.fromkeys([*skipped, *_unknown(content, model)]))
        except ValidationError as error:
            places = {_droppable(content, place["loc"]) for place in error.errors()}
        for place in sorted(places, key=len, reverse=True):
            if not place:
                return None, (WHOLE,)
            inside: Any = content
            for key in place[:-1]:
                inside = inside.get(key, {})
            inside.pop(place[-1], None)
            skipped.append(".".join(place))
    return None, (WHOLE,)


def _droppable(content: dict, place: tuple) -> tuple[str, ...]:
    """The keys down to the innermost value that can be left out because of an error at this place; () for all."""
    path: list[str] = []
    inside: Any = content
    for key in place:
        if not isinstance(inside, dict) or key not in inside:
            break
        path.append(key)
        inside = inside[key]
    return tuple(path)


def _unknown(content: dict, model: type[BaseModel], before: str = "") -> Iterator[str]:
    for key, value in content.items():
        field = model.model_fields.get(key)
        if field is None:
            yield f"{before}{key}"
            continue
        for kind in getattr(field.annotation, "__args__", (field.annotation,)):
            known = isinstance(kind, type) and get_origin(kind) is None  # in Python 3.10 list[str] is a type too
            if known and issubclass(kind, BaseModel) and isinstance(value, dict):
                yield from _unknown(value, kind, f"{before}{key}.")


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder; 0 if there is no folder. What another thread removes meanwhile is skipped."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


def made_here(folder: Path) -> Iterator[Path]:
    """The folders in `workspaces` or `uploads` whose names the server makes; links never count."""
    for path in _entries(folder):
        if NAMES[folder.name].fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it cannot be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _loose(folder: Path) -> Iterator[Path]:
    """The files in `uploads` that uploads, complete or broken off, have left there."""
    for path in _entries(folder) if folder.name == UPLOADS else ():
        if LOOSE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            yield path


def remove_old_uploads(uploads: Path, before: float) -> None:
    """Delete uploads and downloads last written before that time (seconds since the epoch), and empty folders as old.
    Files and folders with other names, and what another thread removes meanwhile, are skipped."""
    for file in _loose(uploads):
        _remove_if_old(file, before)
    for folder in made_here(uploads):
        found = [(Path(path), files) for path, _, files in os.walk(folder, topdown=False)]
        written = {path: _last_written(path) for path, _ in found}  # deleting from a folder counts as writing to it
        for path, files in found:
            for name in files:
                _remove_if_old(path / name, before)
            if written[path] < before:
                with contextlib.suppress(OSError):
                    path.rmdir()


def _remove_if_old(file: Path, before: float) -> None:
    if _last_written(file) < before:
        with contextlib.suppress(OSError):
            file.unlink()


def _last_written(path: Path) -> float:
    """Seconds since the epoch; infinity for a file that is gone."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")
