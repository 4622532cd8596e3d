"""``nearl pull``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import Command, Result, out_folder


def run(args: argparse.Namespace) -> Result:
    from nearl.adapters import hub
    from nearl.adapters.store import save_adapter

    adapter = hub.pull(args.repository, args.revision, hub.saved_token())
    save_adapter(adapter, out_folder(args.out))
    classes = adapter.meta["classes"]
    lines = [f"The adapter for {', '.join(classes)} is in {args.out}.", NOTICE]
    return {"adapter": args.out, "classes": classes, "backbone": adapter.meta["backbone"], "notice": NOTICE}, lines


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("repository", metavar="OWNER/NAME")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--revision", metavar="NAME", help="branch, tag or commit")


COMMAND = Command("pull", "Fetch an adapter from the Hub.", run, add, model=False)
