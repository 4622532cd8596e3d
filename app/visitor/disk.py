"""The app's folder on disk: one folder in it for each workspace; every file is written by rename.

A workspace's folder is named by a hash of its id, so that the id itself, which opens the workspace, is in no path, log
or list of processes. All folders are readable by the server's user alone.

Old folders are deleted, so the server works only in a folder that carries its marker, and deletes only what has a name
that it makes itself. A folder with somebody else's files is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

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
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.workspaces, self.uploads):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)
            (self.path / MARKER).write_text(MARK, encoding="utf-8")
            self._lock = FileLock(self.path / LOCK, blocking=False, thread_local=False)
            self._lock.acquire()  # until this object or the process ends, however it ends
        except Timeout as error:
            raise NearlError(
                f"Another server keeps its workspaces in {self.path}; name another folder with --workspaces."
            ) from error
        except OSError as error:
            raise NearlError(f"The folder {self.path} cannot be written to; name another with --workspaces.") from error

    def _refuse_foreign(self) -> None:
        for path in (self.path, self.workspaces, self.uploads, self.path / MARKER):
            if path.is_symlink():
                raise NearlError(
                    f"{path} is a link, and old files are deleted from the folder for workspaces; "
                    "name the folder itself with --workspaces."
                )
        try:
            ours = self._is_ours()
        except OSError as error:
            raise NearlError(f"The folder {self.path} cannot be read; name another with --workspaces.") from error
        if not ours:
            raise NearlError(
                f"The folder {self.path} holds files that are not this app's, and old files are deleted from the "
                "folder for workspaces; name a new or an empty one with --workspaces."
            )

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


def folder_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def write_json(path: Path, content: object) -> None:
    write_bytes(path, json.dumps(content, ensure_ascii=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write the whole file or nothing: a file beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def read_json(path: Path) -> dict:
    """The content; {} where there is none or it is damaged, and the workspace does without it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model | None:
    """The content of a JSON file as a model. Keys that it does not know are ignored, and fields that are damaged have
    their defaults. None where there is no such file, or it lacks a field without a default."""
    content = read_json(path)
    if not content:
        return None
    try:
        return model.model_validate(content)
    except ValidationError as error:
        damaged = {place["loc"][0] for place in error.errors() if place["loc"]}
    try:
        return model.model_validate({name: value for name, value in content.items() if name not in damaged})
    except ValidationError:
        return None


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder; 0 if there is no folder."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def made_here(folder: Path) -> Iterator[Path]:
    """The folders in `workspaces` or `uploads` whose names the server makes; links never count."""
    for path in folder.iterdir():
        if NAMES[folder.name].fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _loose(folder: Path) -> Iterator[Path]:
    """The files in `uploads` that uploads, complete or broken off, have left there."""
    for path in folder.iterdir() if folder.name == UPLOADS else ():
        if LOOSE.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            yield path


def remove_old_uploads(uploads: Path, before: float) -> None:
    """Delete uploads and downloads last written before that time (seconds since the epoch), and empty folders as old.
    Files and folders with other names, and what another thread removes meanwhile, are skipped."""
    with contextlib.suppress(OSError):
        for file in list(_loose(uploads)):
            if _last_written(file) < before:
                file.unlink(missing_ok=True)
        for folder in list(made_here(uploads)):
            found = [(Path(path), files) for path, _, files in os.walk(folder, topdown=False)]
            written = {path: _last_written(path) for path, _ in found}  # deleting from a folder counts as writing to it
            for path, files in found:
                for file in (path / name for name in files):
                    if _last_written(file) < before:
                        file.unlink(missing_ok=True)
                if written[path] < before:
                    with contextlib.suppress(OSError):
                        path.rmdir()


def _last_written(path: Path) -> float:
    """Seconds since the epoch; infinity for a file that is gone."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return float("inf")
