"""``nearl evaluate``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import Command, Result, adapter_options, classifier_of, metric_lines, prompt_options, say


def run(args: argparse.Namespace) -> Result:
    from nearl.data.sets.labelled import resolve_splits
    from nearl.measure.evaluate import measure

    train, test = resolve_splits(args.data)
    data = test or train
    say(problem.reason for problem in data.problems)
    result = measure(classifier_of(args, data), data)
    where = "test images" if test else "images"
    return {**result, "notice": NOTICE}, [*metric_lines(result, where), NOTICE]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA")
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command(
    "evaluate",
    "Measure on the test images of a labelled folder or zip (all images if it has no test/).",
    run,
    add,
)
