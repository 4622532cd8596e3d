"""``nearl push``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, there


def run(args: argparse.Namespace) -> Result:
    there(args.adapter, "adapter")

    from nearl.adapters import hub
    from nearl.adapters.store import load_adapter

    url = hub.push(load_adapter(args.adapter), args.repository, hub.saved_token(), args.private)
    return {"repository": args.repository, "url": url}, [f"The adapter is at {url}."]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("adapter", metavar="ADAPTER", help="an adapter folder or zip, or a run folder")
    sub.add_argument("repository", metavar="OWNER/NAME")
    sub.add_argument("--private", action="store_true")


COMMAND = Command("push", "Put an adapter and its card on the Hub.", run, add, model=False)
