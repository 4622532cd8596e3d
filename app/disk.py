"""What the app keeps on disk: one folder for all workspaces, one in it for each, every file written by rename.

A workspace's folder is called after a hash of its id, so that the id itself, which opens the workspace, stands in no
path, log or list of processes. All folders are readable by the server's user alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path

from nearl.errors import NearlError

try:
    import fcntl
except ImportError:  # Windows: two servers on one folder are not noticed there
    fcntl = None

ENVIRONMENT = "NEARL_WORKSPACES"


def default_root() -> Path:
    """Where workspaces are kept unless the command line says otherwise: in the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(chosen) if chosen else cache / "nearl-clip"


class Root:
    """The folder of one server. Raises NearlError if it cannot be made, or if another server uses it.

    `path` None: a temporary folder, which goes with this object or with the process.
    """

    def __init__(self, path: Path | str | None = None):
        self._temporary = tempfile.TemporaryDirectory(prefix="nearl-") if path is None else None
        self.path = Path(path or self._temporary.name).absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.workspaces, self.uploads):
                folder.mkdir(exist_ok=True)
                folder.chmod(0o700)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise NearlError(f"The folder {self.path} cannot be written to; name another with --workspaces.") from error
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise NearlError(
                f"Another server keeps its workspaces in {self.path}; name another folder with --workspaces."
            ) from error

    @property
    def workspaces(self) -> Path:
        return self.path / "workspaces"

    @property
    def uploads(self) -> Path:
        """For Gradio's uploads and downloads, which it serves to whoever knows their long random names: nothing in it
        outlives the server or its hour."""
        return self.path / "uploads"

    def folder(self, key: str) -> Path:
        """The folder that belongs to a workspace's id; it need not exist."""
        return self.workspaces / folder_name(key)


def folder_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def write_json(path: Path, content: object) -> None:
    write_bytes(path, json.dumps(content, ensure_ascii=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Whole or not at all: a file beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def read_json(path: Path) -> dict:
    """The content, or {} where there is none or it is damaged (a workspace then goes on without it)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def remove_old_files(folder: Path, before: float) -> None:
    """Delete files last written before that time (seconds since the epoch), and folders that are left empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()
            elif path.stat().st_mtime < before:
                path.unlink()
