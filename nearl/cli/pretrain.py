"""``nearl pretrain``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, log, there


def run(args: argparse.Namespace) -> Result:
    there(args.config, "file")

    from nearl.pretrain import pretrain

    result = pretrain(args.config, args.out, args.data_root, not args.restart, args.max_minutes, log)
    return result, [f"The backbone is in {args.out}."]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")
    sub.add_argument("--max-minutes", type=float)
    sub.add_argument("--restart", action="store_true", help="ignore a checkpoint in DIR")


COMMAND = Command("pretrain", "Train the embedded backbone from scratch.", run, add, model=False)
