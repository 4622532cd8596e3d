"""Fetch a backbone's files from a hub into its client's cache, in a process of its own, so that it can be ended at any
moment: ``python -m nearl.backbones.download NAME``.

The process prints a line of JSON now and then: ``{"done": bytes, "total": bytes}``, and at last ``{"error": sentence}``
where it failed. It ends when its stdin does. The weights come last, so that a model whose weights are there is whole; a
file gets its name when all of it has come.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from nearl.backbones.catalogue import HUB, WEIGHTS, entry_of, hub_cache, repository_cache, split
from nearl.errors import NearlError

ROOT = Path(__file__).resolve().parents[2]
SPARE = 10**9  # bytes of the disk that stay free
TOLD_SECONDS = 0.3


def start(name: str) -> subprocess.Popen:
    """Start the process for a backbone; its stdout has the lines. OSError if no process can be started."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    # Without Xet a file grows in the cache as it comes, by which its progress is seen.
    variables = {**os.environ, **quiet, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-m", "nearl.backbones.download", name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, text=True, start_new_session=True,
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is to be fetched."""

    repository: str
    """owner/name"""
    revision: str | None
    files: dict[str, int]
    """Bytes by name, in the order in which they are fetched."""
    open_clip: bool
    """Whether it is in open_clip's format, or one of its own architectures."""


def plan(name: str) -> Plan:
    """The files of a backbone, the weights last. Raises NearlError where the hub has none that can be read, and what
    the hub's client raises where it cannot be reached."""
    from huggingface_hub import HfApi

    from nearl.backbones import hub

    entry = entry_of(name)
    if not (entry.weights or entry.source).startswith(HUB):
        raise NearlError(f"'{name}' is not on the hub, so it cannot be downloaded here.")
    repository, revision = split(entry.weights or entry.source)
    found = HfApi().model_info(repository, revision=revision, files_metadata=True).siblings or []
    sizes = {file.rfilename: file.size or 0 for file in found}
    own = bool(entry.weights) or hub.OPEN_CLIP in sizes
    if own:
        weights = [file for file in WEIGHTS[:2] if file in sizes][:1]
        small = [hub.OPEN_CLIP] if hub.OPEN_CLIP in sizes else []
    else:
        wanted = [file for file in sizes if any(fnmatch(file, pattern) for pattern in hub.WANTED)]
        weights = [file for file in wanted if file.endswith(".safetensors")]
        small = [file for file in wanted if file not in weights]
    if not weights:
        raise NearlError(
            f"'{name}' has no weights on the hub that can be read here: safetensors, or those of open_clip."
        )
    return Plan(repository, revision, {file: sizes[file] for file in (*small, *weights)}, own)


def fetch(name: str, tell: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Fetch all that a backbone needs. ``tell`` is called from a thread with the bytes that have come and those of all.

    Raises NearlError with one sentence: no network, no such model, terms that were not accepted, no room on the disk.
    """
    from huggingface_hub.errors import GatedRepoError

    from nearl.backbones import hub

    hub.go_offline_if_unreachable()
    try:
        found = plan(name)
        _check_disk(sum(found.files.values()))
        with _telling(found, tell):
            _fetch(name, found)
    except NearlError:
        raise
    except GatedRepoError as error:
        raise NearlError(hub.gate(name, entry_of(name).source)) from error
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            raise NearlError(_no_room(name)) from error
        raise NearlError(hub.unreachable(name)) from error


def _fetch(name: str, found: Plan) -> None:
    from huggingface_hub import HfApi

    if found.open_clip:
        _open_clips_other_files(name)
    for file in found.files:
        HfApi().hf_hub_download(found.repository, file, revision=found.revision, cache_dir=hub_cache())


def _open_clips_other_files(name: str) -> None:
    """The configuration and tokenizer of a text tower, which may be in another repository."""
    import open_clip
    from open_clip.factory import get_model_config, parse_model_name

    source = entry_of(name).source
    architecture = source if parse_model_name(source)[0] else source.partition("/")[0]
    text = (get_model_config(architecture) or {}).get("text_cfg", {})
    open_clip.get_tokenizer(architecture)
    if "hf_model_name" in text:
        import transformers

        transformers.AutoConfig.from_pretrained(text["hf_model_name"])


def _check_disk(size: int) -> None:
    folder = hub_cache()
    while not folder.exists():
        folder = folder.parent
    if shutil.disk_usage(folder).free < size + SPARE:
        raise OSError(errno.ENOSPC, "No space left")


def _no_room(name: str) -> str:
    return (
        f"There is not enough room on this machine's disk for '{name}'; whoever runs this server can make some in "
        f"{hub_cache().name}, the folder of downloaded models."
    )


@contextlib.contextmanager
def _telling(found: Plan, tell: Callable[[int, int], None]):
    """Within it, ``tell`` is called regularly."""
    blobs, end = repository_cache(found.repository) / "blobs", threading.Event()
    total = sum(found.files.values())

    def size() -> int:
        sizes = 0
        for path in blobs.glob("*"):
            with contextlib.suppress(OSError):  # it has just got its name
                sizes += path.stat().st_size
        return min(sizes, total)

    def watch() -> None:
        while not end.wait(TOLD_SECONDS):
            tell(size(), total)

    tell(size(), total)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        end.set()
        watcher.join()
    tell(total, total)


def main(name: str) -> int:
    """The process; returns its exit code."""

    def end_with_stdin() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    def say(**words: object) -> None:
        print(json.dumps(words), flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no part of a file stays behind
    threading.Thread(target=end_with_stdin, daemon=True).start()
    try:
        fetch(name, lambda done, total: say(done=done, total=total))
    except NearlError as error:
        say(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
