"""``nearl backbones``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result


def run(args: argparse.Namespace) -> Result:
    from nearl.backbones.catalogue import REGISTRY, cached

    rows, lines = [], []
    for entry in REGISTRY.values():
        here = cached(entry)
        source = "in this repository" if entry.offline else entry.source
        windows = [dict(zip(("name", "center", "width"), window, strict=True)) for window in entry.ct_windows]
        rows.append({**entry._asdict(), "source": source, "ct_windows": windows, "cached": here})
        state = "offline" if entry.offline else "cached" if here else "download"
        lines.append(f"{entry.name:16} {state:9} {entry.description} ({entry.licence})")
        lines.append(f"{'':26} {entry.size} px, {entry.memory} MB; {entry.citation}")
        if entry.gate:
            lines.append(f"{'':26} Accept its terms at {entry.gate} first, and sign in with `hf auth login`.")
    lines += [
        "",
        "Any 'hf-hub:owner/model' with a ViT works too, in open_clip's format or a CLIP or SigLIP in transformers',",
        "and 'local-dir:FOLDER'. cached: the weights are on this machine; MB: of the weights in memory.",
    ]
    return {"backbones": rows}, lines


COMMAND = Command("backbones", "List the known backbones.", run, lambda sub: None, model=False)
