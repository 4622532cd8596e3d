"""``nearl space``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nearl.cli.options import Command, Result, out_folder
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.cli.space_files import Plan

ROOT = Path(__file__).resolve().parents[2]  # the checkout
OWN = "nearl/__init__.py"  # by which a Space of this project is known
MESSAGE = "The NEARL-CLIP demo"


def run(args: argparse.Namespace) -> Result:
    from huggingface_hub import SpaceHardware

    from nearl.adapters.hub import check_repo_id
    from nearl.cli.space_files import plan

    repo_id, known = check_repo_id(args.repository), [each.value for each in SpaceHardware]
    if args.hardware and args.hardware not in known:
        raise NearlError(f"The Hub has no hardware '{args.hardware}'; take one of {', '.join(known)}.")
    planned = plan(ROOT, repo_id)
    size = sum(file.bytes for file in planned.files) / 10**6
    what = f"{len(planned.files)} files, {size:.0f} MB, {sum(file.lfs for file in planned.files)} of them by LFS or Xet"
    result = {
        "space": repo_id,
        "hardware": args.hardware or "cpu-basic",
        "files": [file._asdict() for file in planned.files],
        "problems": planned.problems,
    }
    if args.dry_run:
        names = [f"{file.bytes:>10,} {'LFS' if file.lfs else '   '} {file.path}" for file in planned.files]
        return result, [*names, f"This would be sent to the Space {repo_id}: {what}."]
    if planned.problems:
        raise NearlError(" ".join(planned.problems))
    if args.folder:
        folder = out_folder(args.folder)
        if any(folder.iterdir()):
            raise NearlError(f"'{folder}' holds files already; name a new folder.")
        _write(planned, folder)
        return {**result, "folder": str(folder)}, [f"The files of the Space are in {folder}: {what}."]
    url = send(planned, repo_id, args.hardware, args.private)
    return {**result, "url": url}, [f"Sent: {what}. The Space is at {url}, and takes some minutes to start."]


def send(
    planned: Plan, repo_id: str, hardware: str | None = None, private: bool = False, endpoint: str | None = None
) -> str:
    """Send the files to a Space, made if needed; returns its address. What an earlier version had and this one has not
    is deleted there. A Space that holds something else, or is public where ``private`` is asked for, is left alone.
    ``endpoint``: another Hub than the usual one. NearlError if it fails."""
    from huggingface_hub import SpaceHardware
    from huggingface_hub.errors import RepositoryNotFoundError

    from nearl.adapters import hub

    token = hub.saved_token()
    if not token:
        raise NearlError("Sending needs your own Hub token with write access; sign in first (`hf auth login`).")
    with hub.sentences(repo_id, token, "Space"), tempfile.TemporaryDirectory() as folder:
        api = hub.client(token, endpoint)
        try:
            info = api.space_info(repo_id)
        except RepositoryNotFoundError:
            info = None
        if info is None:
            wanted = SpaceHardware(hardware) if hardware else None
            api.create_repo(
                repo_id, repo_type="space", space_sdk="gradio", space_hardware=wanted, private=private, exist_ok=True
            )
        else:
            names = {file.rfilename for file in info.siblings or []}
            if OWN not in names and not names <= hub.EMPTY:
                raise NearlError(f"The Space '{repo_id}' holds something else; choose another name.")
            if private and not info.private:
                raise NearlError(f"The Space '{repo_id}' is public; choose another name for a private one.")
        _write(planned, Path(folder))
        api.upload_folder(
            repo_id=repo_id, repo_type="space", folder_path=folder, commit_message=MESSAGE, delete_patterns="*"
        )
        if info is not None and hardware:
            api.request_space_hardware(repo_id, SpaceHardware(hardware))
        return f"{api.endpoint}/spaces/{repo_id}"


def _write(planned: Plan, folder: Path) -> None:
    """Write the files as they are sent."""
    for file in planned.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        changed = planned.changed.get(file.path)
        target.write_bytes((ROOT / file.path).read_bytes() if changed is None else changed)


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("repository", metavar="OWNER/NAME")
    sub.add_argument("--hardware", metavar="NAME", help="cpu-basic, zero-a10g, t4-small, ... (default: cpu-basic)")
    sub.add_argument("--private", action="store_true")
    sub.add_argument("--dry-run", action="store_true", help="list what would be sent and what is wrong with it")
    sub.add_argument("--folder", metavar="DIR", help="write the files there to push them by git, and send nothing")


COMMAND = Command("space", "Put the app on the Hub as a Space.", run, add, model=False)
