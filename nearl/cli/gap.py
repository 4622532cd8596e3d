"""``nearl gap``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    backbone_of,
    log,
    method_options,
    methods_of,
    out_folder,
    prompt_options,
    prompts_of,
    say,
    set_of,
    set_options,
)


def run(args: argparse.Namespace) -> Result:
    import json
    from pathlib import Path

    from nearl.data.splits import draw_support, hold_out
    from nearl.measure.compare import HELD_OUT
    from nearl.measure.gap import study
    from nearl.measure.interaction import interaction
    from nearl.methods import Task, card, make, recipe
    from nearl.reading.words import text_notes
    from nearl.report.charts import drawing
    from nearl.report.gap import draw, lines

    names = methods_of(args)
    for name in names:
        card(name)
    train, test = set_of(args)
    if test is None:
        kept, held = hold_out(train.labels, HELD_OUT, 0)
        train, test = train.subset(kept), train.subset(held)
    prompt_set, backbone = prompts_of(args, data=train).for_classes(train.classes), backbone_of(args)
    say(text_notes(backbone, prompt_set))
    support = train.subset(draw_support(train.labels, args.shots, args.seed))
    task, fitted = Task(backbone, prompt_set, support), {}
    for name in names:
        log(f"{name}: teaching on {len(support)} images")
        fitted[name] = make(name, task)
        changes = {} if args.steps is None else {"steps": args.steps}
        for _ in fitted[name].fit(recipe(name, seed=args.seed, **changes)):
            pass
    rows = study(fitted, test.records, test.labels)
    for row in rows:
        row["interaction"] = interaction(fitted[row["name"]], test.records, support.records)
    result = {
        "set": Path(args.data).stem,
        "shots": args.shots,
        "seed": args.seed,
        "classes": list(train.classes),
        "labels": list(test.labels),
        "methods": rows,
        "files": [],
        "notice": NOTICE,
    }
    if args.out:
        out = out_folder(args.out)
        result["files"] = [str(out / "gap.json"), str(out / "gap.png")]
        with drawing():
            draw(rows, train.classes, test.labels).savefig(out / "gap.png", dpi=150)
        facts = {key: value for key, value in result.items() if key != "files"}
        (out / "gap.json").write_text(json.dumps(facts), encoding="utf-8")
    return result, [*lines(rows), *result["files"], NOTICE]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA", help="a folder or zip with train/ and test/ class folders")
    method_options(sub)
    sub.add_argument("--shots", type=int, default=16, help="images per class to teach with (default: 16)")
    sub.add_argument("--seed", type=int, default=0, help="of the draw and of the training")
    sub.add_argument("--out", metavar="DIR", help="write gap.json and gap.png here")
    set_options(sub)
    prompt_options(sub)


COMMAND = Command(
    "gap",
    "Measure how far images and prompts lie apart, and how much of an answer needs both, by method.",
    run,
    add,
)
