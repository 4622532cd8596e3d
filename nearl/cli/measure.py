"""``nearl measure``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, log, there


def run(args: argparse.Namespace) -> Result:
    there(args.config, "file")
    there(args.folder, "folder")

    from nearl.pretrain.measured import note_measured, table

    found = note_measured(args.config, args.folder, args.data_root, args.cache, log)
    lines = [*table(found), f"{args.folder} now records what the backbone's untaught answers are worth."]
    return found.model_dump(mode="json"), lines


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")
    sub.add_argument("--cache", metavar="DIR", help="for embeddings (default: the user's cache)")


COMMAND = Command(
    "measure",
    "Measure the ready prompt sets with a pretrained backbone, calibrate it, and record both beside it.",
    run,
    add,
    model=False,
)
