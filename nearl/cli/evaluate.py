"""``nearl evaluate``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    backbone_of,
    check_adapter,
    classifier_of,
    log,
    metric_lines,
    prompt_options,
    reads_volumes,
    say,
    set_facts,
    set_of,
    set_options,
    there,
)
from nearl.errors import NearlError


def run(args: argparse.Namespace) -> Result:
    if args.ready:
        return _ready(args)
    there(args.data, "folder or zip")
    check_adapter(args)

    from nearl.data.sets.findings import FindingsSet
    from nearl.measure.evaluate import measure

    train, test = set_of(args, findings=True, studies=reads_volumes(args))
    data = test or train
    classifier = classifier_of(args, data)
    say(classifier.text_notes())
    if isinstance(data, FindingsSet):
        from nearl.measure import findings

        support = train if test is not None and isinstance(train, FindingsSet) else None
        result = findings.measure(classifier, data, support)
    else:
        result = measure(classifier, data)
    where = "test images" if test else "images"
    lines = [*seen_lines(result), *metric_lines(result, where), NOTICE]
    return {**result, **set_facts(train, test), "notice": NOTICE}, lines


def _ready(args: argparse.Namespace) -> Result:
    """Every ready prompt set on the test images of its own folder in DATA: how often it is right, how many answers are
    shown without a doubt, and the calibration error without and with the temperatures."""
    from pathlib import Path

    from nearl.measure.ready import table
    from nearl.prompts import ready_sets

    sets = [name for name in ready_sets() if (Path(args.data) / name / "test").is_dir()]
    if not sets:
        raise NearlError(f"'{args.data}' has no folder called like a ready set, with a test folder inside.")
    rows = table(backbone_of(args), Path(args.data), sets, log)
    lines = [f"{'ready set':24} {'n':>5} {'right':>6} {'chance':>6} {'shown':>6} {'withheld':>8}  ECE before / after"]
    for row in rows:
        lines.append(
            f"{row['set']:24} {row['n']:5} {row['balanced_accuracy']:6.0%} {row['chance']:6.0%} {row['shown']:6} "
            f"{row['withheld']:8}  {row['ece'][0]:.2f} / {row['ece'][1]:.2f}"
        )
    return {"sets": rows, "notice": NOTICE}, [*lines, NOTICE]


def seen_lines(result: dict) -> list[str]:
    """What was left out since the adapter has seen it, of a result of `nearl.measure.evaluate.measure`."""
    taught, calibrated = result["taught"], result["calibrated"]
    if taught is None:
        return ["The adapter does not say which images it was taught with; if some are among these, it looks too good."]
    lines = [f"Left out: {_images(taught)} that the adapter was taught with."] if taught else []
    if calibrated:
        lines.append(f"Left out: {_images(calibrated)}, kept aside then, that its probabilities were calibrated with.")
    return lines


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA")
    sub.add_argument(
        "--ready", action="store_true", help="every ready prompt set on DATA/<its name>/test, before any teaching"
    )
    set_options(sub)
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command(
    "evaluate",
    "Measure on the test images of a labelled folder or zip (all images if it has no test/).",
    run,
    add,
)
