"""``nearl backbones``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result


def run(args: argparse.Namespace) -> Result:
    from nearl.backbones import REGISTRY

    rows = [entry._asdict() for entry in REGISTRY.values()]
    for row in rows:
        row["source"] = "in this repository" if row["source"].startswith("local-dir:") else row["source"]
    lines = [
        f"{r['name']:16} {'offline' if r['offline'] else 'download':9} {r['description']} ({r['licence']})"
        for r in rows
    ]
    lines += ["", "Any 'hf-hub:owner/model' in open_clip's format with a ViT works too, and 'local-dir:FOLDER'."]
    return {"backbones": rows}, lines


COMMAND = Command("backbones", "List the known backbones.", run, lambda sub: None, model=False)
