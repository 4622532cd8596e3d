"""``nearl phantoms``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, out_folder


def run(args: argparse.Namespace) -> Result:
    from nearl.data.phantoms.kinds import write_phantom_folder

    if args.kind in ("thorax", "thorax-volumes"):
        from nearl.data.phantoms.thorax.sets import write_thorax_folder, write_thorax_volumes

        wanted = write_thorax_folder if args.kind == "thorax" else write_thorax_volumes
        wanted(out_folder(args.out), args.train, args.test, args.seed)
    else:
        write_phantom_folder(out_folder(args.out), args.kind, args.train, args.test, args.seed)
    return {"folder": args.out, "kind": args.kind}, [f"Synthetic {args.kind} images are in {args.out}."]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("kind")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument(
        "--train", type=int, default=24, help="images per class, of thorax and thorax-volumes in all (default: 24)"
    )
    sub.add_argument("--test", type=int, default=24)
    sub.add_argument("--seed", type=int, default=0)


COMMAND = Command("phantoms", "Write a labelled folder of synthetic images.", run, add, model=False)
