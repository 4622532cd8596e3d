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
    lines = [*seen_lines(result), *metric_lines(result, where), NOTICE]
    return {**result, **set_facts(train, test), "notice": NOTICE}, lines


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
    set_options(sub)
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command(
    "evaluate",
    "Measure on the test images of a labelled folder or zip (all images if it has no test/).",
    run,
    add,
)
