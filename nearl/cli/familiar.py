"""``nearl familiar``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, log, there


def run(args: argparse.Namespace) -> Result:
    there(args.config, "file")
    there(args.folder, "folder")

    from nearl.pretrain.familiar import note_familiar

    found = note_familiar(args.config, args.folder, args.data_root, log)
    lines = [f"{args.folder} now records which kinds of image the backbone was trained on.", found.caution()]
    return {"sets": list(found.names), "far": found.far, "mistaken": found.mistaken}, lines


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")


COMMAND = Command(
    "familiar", "Record beside a pretrained backbone what its training images look like.", run, add, model=False
)
