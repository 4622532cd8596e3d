"""``nearl faithfulness``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import Command, Result, adapter_options, backbone_of, log


def run(args: argparse.Namespace) -> Result:
    from nearl.explain.faithfulness import Plan, study, table

    maps = args.methods.split(",") if args.methods else None
    plan = Plan(args.kinds.split(","), args.images, args.curves, args.adapter, args.shots, maps, args.seed)
    result = study(backbone_of(args), plan, log)
    return {**result, "notice": NOTICE}, [*table(result), NOTICE]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--kinds", default="head_mri,chest_xray,ct_slice,ultrasound,smear,skin", metavar="KIND,...")
    sub.add_argument("--images", type=int, default=200, help="phantoms with a lesion, over all kinds (default: 200)")
    sub.add_argument("--curves", type=int, default=60, help="of these, for deletion, insertion and the slow maps")
    sub.add_argument(
        "--shots", type=int, default=16, help="phantoms per class and kind to teach with, without --adapter"
    )
    sub.add_argument("--methods", metavar="NAME,...", help="default: every map that the model can draw")
    sub.add_argument("--seed", type=int, default=0)
    adapter_options(sub)


COMMAND = Command(
    "faithfulness",
    "Measure on phantoms whether maps point at the lesion, against random controls.",
    run,
    add,
)
