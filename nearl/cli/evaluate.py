"""``nearl evaluate``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    classifier_of,
    metric_lines,
    prompt_options,
    say,
    set_facts,
    set_of,
    set_options,
)


def run(args: argparse.Namespace) -> Result:
    from nearl.measure.evaluate import measure

    train, test = set_of(args)
    data = test or train
    classifier = classifier_of(args, data)
    say(classifier.text_notes())
    result = measure(classifier, data)
    where = "test images" if test else "images"
    return {**result, **set_facts(train, test), "notice": NOTICE}, [*metric_lines(result, where), NOTICE]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA")
    set_options(sub)
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command(
    "evaluate",
    "Measure on the test images of a labelled folder or zip (all images if it has no test/).",
    run,
    add,
)
