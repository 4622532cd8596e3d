"""``nearl report``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from nearl import NOTICE
from nearl.cli.finetune import of_one_method, outcome_lines
from nearl.cli.options import Command, Result, out_folder, there
from nearl.errors import NearlError
from nearl.report.words import verdict

if TYPE_CHECKING:
    from PIL import Image

    from nearl.runs import RunFolder


def run(args: argparse.Namespace) -> Result:
    there(args.run_folder, "run")

    from pathlib import Path

    from nearl import report
    from nearl.runs import RunFolder

    folder = of_one_method(RunFolder(args.run_folder).load())
    outcome = folder.outcome()
    if outcome is None:
        state = folder.look().state
        raise NearlError(f"The run in '{args.run_folder}' has nothing to report yet: it is {state}.")
    content, written = report.Report.from_run(folder), [path for path in (args.html, args.pdf, args.csv) if path]
    if args.pictures:
        content.picture = _pictures(folder)
    for path in written:
        out_folder(Path(path).parent)
    if args.html:
        Path(args.html).write_text(report.html(content, names=args.names), encoding="utf-8")
    if args.pdf:
        report.pdf(content, args.pdf)
    if args.csv:
        Path(args.csv).write_text(report.csv(outcome.rows, names=args.names), encoding="utf-8-sig", newline="")
    result = {"run": args.run_folder, "files": written, "held_out": outcome.results, "seconds": outcome.seconds}
    result["verdict"] = None if outcome.stopped == "cancelled" else verdict(outcome.results)
    lines = [f"Written: {', '.join(written)}."] if written else []
    return {**result, "notice": NOTICE}, [*outcome_lines(outcome), *lines, NOTICE]


def _pictures(folder: RunFolder) -> Callable[[dict], Image.Image | None]:
    """What gives the image of a row as the model sees it. NearlError where the images were deleted."""
    from PIL import Image

    if not folder.has_images():
        raise NearlError(f"The run in '{folder.path}' has no images any more; teach with --keep-images to show them.")
    job = folder.job()

    def picture(row: dict) -> Image.Image | None:
        if "image" not in row or job.images is None:
            return None
        return Image.fromarray(job.images[job.shown(row["image"])].permute(1, 2, 0).numpy())

    return picture


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--html", metavar="FILE")
    sub.add_argument("--pdf", metavar="FILE")
    sub.add_argument("--csv", metavar="FILE", help="one line per held-out image")
    sub.add_argument("--pictures", action="store_true", help="with small pictures of the mistakes, in page and PDF")
    sub.add_argument("--names", action="store_true", help="with the images' file names, which may identify a patient")


COMMAND = Command(
    "report", "Write the results of a run as a web page, a PDF to print and a table.", run, add, model=False
)
