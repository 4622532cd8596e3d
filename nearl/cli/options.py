"""The interface of a command, and what several commands share: options, what they mean, and lines for people."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from nearl.errors import NearlError

if TYPE_CHECKING:
    from pathlib import Path

    from nearl.adapters.store import Adapter
    from nearl.backbones import Backbone
    from nearl.data.images import ImageRecord
    from nearl.data.sets.labelled import LabelledSet
    from nearl.prompts import PromptSet
    from nearl.reading.classifier import Classifier

Result = tuple[dict, list[str]]  # what --json prints, and lines for people


# What options accept is named here, so that ``--help`` and wrong arguments need nothing else of the library.
PLANES = ("axial", "coronal", "sagittal")
WINDOWS = ("lung", "mediastinum", "bone", "brain", "stroke", "abdomen", "auto", "three")


class Command(NamedTuple):
    """A command. Its module imports the rest of the library only when it runs, so that ``--help`` answers at once."""

    name: str
    text: str  # one sentence for --help
    run: Callable[[argparse.Namespace], Result]
    add: Callable[[argparse.ArgumentParser], None]  # adds the command's own options
    model: bool = True  # whether it takes --backbone, --weights and --device


# --- options ---------------------------------------------------------------------------------------------------------


def model_options(sub: argparse.ArgumentParser) -> None:
    """--backbone, --weights and --device."""
    sub.add_argument("--backbone", default="embedded", help="a name from `nearl backbones` (default: embedded)")
    sub.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, auto (default: cpu)")


def prompt_options(sub: argparse.ArgumentParser) -> None:
    """--prompts."""
    sub.add_argument("--prompts", metavar="FILE", help="a prompt set, JSON or YAML")


def adapter_options(sub: argparse.ArgumentParser) -> None:
    """--adapter."""
    sub.add_argument("--adapter", metavar="DIR", help="an adapter folder or zip, or a run folder that finetune wrote")


def set_options(sub: argparse.ArgumentParser) -> None:
    """--file-column and --label-column."""
    for what in ("file", "label"):
        words = f"the column of DATA's table that holds the {what}s (default: found by its name)"
        sub.add_argument(f"--{what}-column", default="", metavar="NAME", help=words)


def config_options(sub: argparse.ArgumentParser) -> None:
    """--text-context and --no-orthogonal."""
    sub.add_argument("--text-context", default="support", choices=["support", "image"])
    sub.add_argument("--no-orthogonal", action="store_true", help="add the whole update, not only its orthogonal part")


def method_options(sub: argparse.ArgumentParser) -> None:
    """--methods and --steps."""
    sub.add_argument("--methods", default="zero-shot,linear-probe,nearl", help="method names separated by commas")
    sub.add_argument("--steps", type=int, help="of every method that trains in steps (default: its own)")


def scan_options(sub: argparse.ArgumentParser) -> None:
    """--plane, --slice and --window."""

    def window(text: str) -> str:
        if text not in WINDOWS and _numbers(text) is None:
            raise argparse.ArgumentTypeError(f"use {', '.join(WINDOWS)}, or a centre and a width as 40/400")
        return text

    sub.add_argument("--plane", choices=PLANES, help="of a volume (default: the plane it was acquired in)")
    sub.add_argument("--slice", type=int, metavar="N", help="slice or frame, from 1 (default: the middle one)")
    sub.add_argument(
        "--window",
        type=window,
        metavar="NAME",
        help=f"of a scan: {', '.join(WINDOWS)}, or CENTRE/WIDTH as 40/400 (default: its own); three: the model's "
        "own, else lung, mediastinum and bone, at once",
    )


# --- what the options mean -------------------------------------------------------------------------------------------


def backbone_of(args: argparse.Namespace) -> Backbone:
    """The backbone that ``model_options`` names."""
    from nearl.backbones import load_backbone

    return load_backbone(args.backbone, args.device, args.weights)


def classifier_of(args: argparse.Namespace, data: LabelledSet | None = None) -> Classifier:
    """The classifier that ``model_options``, ``prompt_options`` and ``adapter_options`` describe. Mistakes in these are
    told before the model is loaded, as far as possible."""
    own = prompts_of(args, data) if args.prompts or not args.adapter else None
    check_adapter(args)

    from nearl.adapters.store import load_adapter
    from nearl.methods import restore
    from nearl.reading.classifier import Classifier

    backbone = backbone_of(args)
    adapter = load_adapter(args.adapter, backbone.identity) if args.adapter else None
    method = None if adapter is None else restore(backbone, adapter)
    return Classifier(backbone, own or prompts_of(args, data, adapter), method)


def check_adapter(args: argparse.Namespace) -> None:
    """Refuse an adapter that is not there, damaged or of another backbone, as far as its description tells, before
    images and models are loaded."""
    there(args.adapter, "adapter")
    if not args.adapter:
        return

    import json

    from nearl.adapters.store import describe, other_backbone
    from nearl.backbones.catalogue import REGISTRY
    from nearl.resources import ASSETS

    taught = describe(args.adapter)["backbone"]
    name = taught.get("name")
    if args.weights != "pretrained" or not {name, args.backbone} <= set(REGISTRY):
        return  # told when the model is there
    present = json.loads((ASSETS / "backbone" / "measured.json").read_bytes())["weights"]
    if name != args.backbone or (name == "embedded" and taught.get("weights") != present):
        raise other_backbone(name, args.backbone)


def reads_volumes(args: argparse.Namespace) -> bool:
    """Whether the adapter's method reads volumes whole."""
    from nearl.adapters.store import describe
    from nearl.methods import METHODS

    name = describe(args.adapter)["method"] if args.adapter else ""
    return name in METHODS and METHODS[name].card.volumes


def prompts_of(args: argparse.Namespace, data: LabelledSet | None = None, adapter: Adapter | None = None) -> PromptSet:
    """--prompts FILE, else prompts.json in DATA, else the adapter's, else the class names through a template."""
    if not args.prompts and data is None and adapter is None:
        raise NearlError(
            "Say what to look for: give --prompts FILE, your own or one of assets/prompts/*.json, or "
            "--adapter DIR with prompts of its own."
        )

    from nearl.data.sets.findings import FindingsSet
    from nearl.prompts import FINDINGS, PromptSet, default_findings, default_prompts

    if args.prompts:
        return PromptSet.load(args.prompts)
    if data is not None and data.prompts is not None:
        found = PromptSet.from_dict(data.prompts)
        if (found.kind == FINDINGS) != isinstance(data, FindingsSet):
            raise NearlError(
                f"prompts.json is of {found.kind}, but the images are labelled with "
                f"{'classes' if found.kind == FINDINGS else 'findings'}; change one of them, or give --prompts FILE."
            )
        return found
    if adapter is not None:
        return PromptSet.from_dict(adapter.meta["prompts"])
    return default_findings(data.findings) if isinstance(data, FindingsSet) else default_prompts(data.classes)


def set_of(
    args: argparse.Namespace, findings: bool = False, studies: bool = False
) -> tuple[LabelledSet, LabelledSet | None]:
    """(train, test) of DATA, with the columns that ``set_options`` names. ``findings``: a table may mark findings.
    ``studies``: volumes are read whole.

    What was left out and how the files were understood is printed on stderr.
    """
    from nearl.data.sets.columns import Columns, ColumnsError
    from nearl.data.sets.labelled import resolve_splits

    asked = Columns(args.file_column, args.label_column)
    try:
        own = asked if asked != Columns() else None
        train, test = resolve_splits(args.data, columns=own, findings=findings, studies=studies)
    except ColumnsError as error:
        raise NearlError(f"{error} Options: --file-column and --label-column.") from None
    facts = set_facts(train, test)
    say([*facts["left_out"], *facts["notes"]])
    return train, test


def set_facts(train: LabelledSet, test: LabelledSet | None = None) -> dict:
    """What --json tells of a set besides its figures: what was left out, and how the files were understood."""
    parts = [train] if test is None else [train, test]
    return {
        "left_out": list(dict.fromkeys(problem.reason for part in parts for problem in part.problems)),
        "notes": list(dict.fromkeys(note for part in parts for note in part.said())),
    }


def methods_of(args: argparse.Namespace) -> list[str]:
    """The names in --methods, each once. Unknown ones are refused by `nearl.methods`."""
    return list(dict.fromkeys(name.strip() for name in args.methods.split(",")))


def view_of(record: ImageRecord, args: argparse.Namespace) -> ImageRecord:
    """The record in the plane, slice and window that ``scan_options`` names, if it is a scan."""
    from nearl.backbones.catalogue import three_windows
    from nearl.data.formats.windows import PRESETS, by_hand

    if record.scan is None:
        return record
    changes: dict = {}
    if args.window is not None and not record.scan.colour:
        automatic = record.scan.auto() if args.window == "auto" else three_windows(args.backbone)
        asked = _numbers(args.window)
        changes["window"] = by_hand(*asked) if asked else PRESETS.get(args.window, automatic)
    if args.plane is not None:
        if args.plane not in record.scan.planes:
            raise NearlError(f"{record.name} can be shown in these planes: {', '.join(record.scan.planes)}.")
        changes |= {"plane": args.plane, "index": record.scan.slices(args.plane) // 2}
    record = record.at(**changes) if changes else record
    number = args.slice
    if number is not None and not 1 <= number <= record.slices():
        raise NearlError(f"{record.name} has the slices 1 to {record.slices()}; there is no slice {number}.")
    return record if number is None else record.slice_at(number - 1)


def _numbers(text: str) -> tuple[float, float] | None:
    """Centre and width of a window from CENTRE/WIDTH; None where the text is something else."""
    try:
        center, width = (float(part) for part in text.split("/"))
    except ValueError:
        return None
    return (center, width) if math.isfinite(center) and 0 < width < math.inf else None


def there(path: str | None, what: str) -> None:
    """Raises NearlError where a path is given and nothing is there. ``what``: what it was expected to be."""
    if path and not os.path.exists(path):
        raise NearlError(f"There is no {what} at '{path}'; check the path.")


def out_folder(path: str | Path) -> Path:
    """The folder, made if it is missing. Raises NearlError if it cannot be made."""
    from pathlib import Path

    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearlError(f"'{path}' cannot be used as an output folder: {error.strerror}.") from error
    return folder


# --- what people read ------------------------------------------------------------------------------------------------


def log(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def say(sentences: Iterable[str]) -> None:
    """Print on stderr what a person should know besides the result."""
    for sentence in sentences:
        log(f"nearl: {sentence}")


def metric_lines(metrics: dict | None, where: str) -> list[str]:
    """Balanced accuracy before and after teaching, from the result of `nearl.measure.evaluate`'s functions; of findings
    the AUROC of each and their mean."""
    if metrics is None or not metrics["n"]:
        return ["No images were left to measure on."]
    from nearl.report.words import flattered

    return [*_figure_lines(metrics, where), *filter(None, [flattered(metrics)])]


def _figure_lines(metrics: dict, where: str) -> list[str]:
    """The lines of `metric_lines` without what to know of them."""
    if "findings" in metrics:
        return _finding_lines(metrics, where)
    from nearl.measure.evaluate import no_better_than_chance

    lines, chance = [], 1 / len(metrics["classes"])
    for name, figures in (("before teaching", metrics["frozen"]), ("after teaching", metrics["adapted"])):
        if figures is None:
            continue
        value, (low, high) = figures["balanced_accuracy"], figures["balanced_accuracy_interval"]
        said = "too few images to say" if value is None else f"{value:.1%}"
        guess = ": no better than chance" if no_better_than_chance(figures, chance) else ""
        lines.append(
            f"{name}: balanced accuracy {said} (95 % interval {low:.0%} to {high:.0%}, chance {chance:.0%}) on "
            f"{metrics['n']} {where}{guess}"
        )
    return lines


def _finding_lines(metrics: dict, where: str) -> list[str]:
    """The lines of the result of `nearl.measure.findings.study`."""

    def said(row: dict, key: str) -> str:
        return "      -" if row[key] is None else f"{row[key]:7.2f}"

    lines = []
    for name, found in (("before teaching", metrics["frozen"]), ("after teaching", metrics["adapted"])):
        if found is None:
            continue
        value = found["macro_auroc"]
        head = "no finding is both present and absent" if value is None else f"macro AUROC {value:.2f}"
        low, high = found["macro_auroc_interval"] or (0, 1)
        span = "" if value is None else f" (95 % interval {low:.2f} to {high:.2f})"
        lines.append(f"{name}: {head}{span} on {metrics['n']} {where}")
        if found["consistent"] is not None:
            lines.append(
                f"  answers that break no rule: {found['consistent']:.0%} of images; of shuffled answers "
                f"{found['consistent_shuffled']:.0%}"
            )
    if metrics["few"]:
        lines.append(f"  so few images ({metrics['n']}) say no more than a hint, whatever the intervals")
    shown = metrics["adapted"] or metrics["frozen"]
    lines.append(f"  {'finding':28} {'with it':10}{'AUROC':>13}{'sensitivity':>12}{'specificity':>12}{'threshold':>12}")
    for row in shown["per_finding"]:
        shares = "".join(f"{said(row, key):>12}" for key in ("auroc", "sensitivity", "specificity"))
        lines.append(
            f"  {row['finding'][:28]:28} {row['positives']:3} of {row['n']:<4}{shares}{row['threshold']:12.2f}"
        )
    return lines
