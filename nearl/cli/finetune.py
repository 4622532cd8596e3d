"""``nearl finetune``: a resumable run that teaches an adapter."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    backbone_of,
    config_options,
    metric_lines,
    out_folder,
    prompt_options,
    prompts_of,
    say,
    set_facts,
    set_of,
    set_options,
    there,
)
from nearl.cli.progress import Bar
from nearl.errors import NearlError
from nearl.report.words import speaks_against, verdict

if TYPE_CHECKING:
    from nearl.runs import RunFolder, Step

HELD_OUT_PER_CLASS = 40  # with --shots
HELD_OUT_FRACTION = 0.25
MEASURED = {"held-out": "held-out images", "folds": "images, each held out once"}


def run(args: argparse.Namespace) -> Result:
    there(args.data, "folder or zip")

    from nearl.runs import RunFolder, Step, perform
    from nearl.runs.status import CANCELLED, DONE

    folder, backbone = RunFolder(out_folder(args.out)), None
    of_set: dict[str, list[str]] = {"left_out": [], "notes": []}
    if not (args.resume and folder.exists()):
        if args.data is None:
            raise NearlError(f"There is no run in '{args.out}' to resume; give DATA to start one.")
        backbone = backbone_of(args)
        job, of_set = _job(args, backbone)
        folder.create(job)
    of_one_method(folder)
    if folder.look().state not in (DONE, CANCELLED):
        state, stop = folder.snapshot(), folder.cancel_requested
        with ProgressBar() as bar:
            for event in folder.record(perform(folder.job(), folder.todo(), state, stop, backbone=backbone)):
                if isinstance(event, Step):
                    say([event.note] if event.note else [])
                    if event.step:
                        bar.show(event)
    outcome = folder.outcome()
    if outcome is None:
        raise NearlError(f"The run in '{args.out}' was cancelled before it had learned anything; start a new one.")
    if not args.keep_images:
        folder.forget_images()
    meta = outcome.adapter.meta
    seconds = sum(outcome.seconds[phase] for phase in ("forward", "backward", "optimiser"))
    result = {
        "adapter": args.out,
        "method": meta["method"],
        "shots": args.shots,
        "seed": folder.about.seeds[0],
        "support_counts": meta["support_counts"],
        "trainable_parameters": _trained(folder, outcome),
        "seconds": round(seconds, 2),
        "seconds_by_phase": {phase: round(value, 2) for phase, value in outcome.seconds.items()},
        "stopped": outcome.stopped,
        "held_out": meta["metrics"],
        "verdict": None if outcome.stopped == CANCELLED else verdict(outcome.results),
        "speaks_against": speaks_against(outcome.results),
        "left_out": of_set["left_out"],
        "notes": list(dict.fromkeys([*of_set["notes"], *folder.about.notes])),
        "notice": NOTICE,
    }
    count = len(folder.about.split.support)
    lines = [f"Taught with {count} images in {seconds:.0f} s; the adapter is in {args.out}."]
    first, *rest = outcome_lines(outcome)
    return result, [first, *lines, *rest, NOTICE]


def of_one_method(folder: RunFolder) -> RunFolder:
    """The folder itself. Raises NearlError for the run of a comparison, which has no single adapter."""
    if not folder.about.alone:
        raise NearlError(f"The run in '{folder.path}' is a comparison of methods; only the app's Compare tab shows it.")
    return folder


def _trained(folder, outcome) -> int:
    """The number of trained parameters; of a run that was cancelled, all that its adapter holds."""
    measured = [row["parameters"] for row in folder.rows if "parameters" in row]
    return measured[0] if measured else sum(value.numel() for value in outcome.adapter.state.values())


def outcome_lines(outcome) -> list[str]:
    """What the check supports, how a run ended and what was measured, for people."""
    if outcome.stopped == "cancelled":
        return ["It was cancelled: the best weights so far are kept, and were not measured."]
    lines = [verdict(outcome.results)]
    lines += ["The check speaks against using this adapter."] if speaks_against(outcome.results) else []
    lines += ["It stopped early, as the training loss no longer fell."] if outcome.stopped == "early" else []
    return lines + metric_lines(outcome.results, MEASURED.get(outcome.results["kind"], "images"))


def _job(args: argparse.Namespace, backbone):
    """(the job that the arguments and the images describe, what to tell of the images)."""
    from nearl.methods import card
    from nearl.reading.words import text_notes
    from nearl.runs import make_job
    from nearl.train.recipe import PATIENCE

    method, options = _method(args)
    began = time.perf_counter()
    data, test = set_of(args, findings=True, studies=card(method).volumes)  # test/ is left for `evaluate`
    reading = time.perf_counter() - began
    split = _shots(data, args) if args.shots is not None else _held_out(data, args)
    changes = {"steps": args.steps, "lr": args.lr, "augment": args.augment}
    changes = {key: value for key, value in changes.items() if value is not None}
    changes |= {"flip": True} if args.flip else {}
    changes |= {"patience": PATIENCE} if args.early_stop else {}
    how = {"methods": [method], "seeds": [args.seed], "preset": args.preset, "recipe": changes}
    prompt_set = prompts_of(args, data=data)
    say(text_notes(backbone, prompt_set))
    job = make_job(backbone, data, None, prompt_set, split, options=options, **how)
    job.decode_seconds += reading
    return job, set_facts(data, test)


def _method(args: argparse.Namespace) -> tuple[str, dict]:
    """The method and its options. Raises NearlError for a method that cannot be taught with them."""
    from nearl.methods import card

    asked: dict = {"text_context": "image"} if args.text_context == "image" else {}
    asked |= {"orthogonal": False} if args.no_orthogonal else {}
    about = card(args.method)
    if asked and "nearl" not in (about.name, about.ablates):
        raise NearlError(f"--text-context and --no-orthogonal are for NEARL, not for {about.title}; leave them out.")
    if args.method == "zero-shot":
        raise NearlError("Zero-shot learns nothing, so there is no adapter to keep; choose another --method.")
    return args.method, asked


def _shots(data, args: argparse.Namespace):
    """--shots: this many images of every class, as in few-shot benchmarks, and some of the others held out."""
    from nearl.data.sets.findings import FindingsSet
    from nearl.data.splits import Split, draw_support

    if isinstance(data, FindingsSet):
        raise NearlError("--shots draws images by class, and these have findings; use --hold-out instead of --shots.")
    if args.group_by:
        raise NearlError("--shots draws single images; leave --group-by out, or use --hold-out instead of --shots.")
    support = draw_support(data.labels, args.shots, args.seed)
    rest = sorted(set(range(len(data))) - set(support))
    drawn = draw_support([data.labels[i] for i in rest], HELD_OUT_PER_CLASS, args.seed) if rest else []
    held = [rest[i] for i in drawn]
    words = f"{args.shots} images of every class teach; up to {HELD_OUT_PER_CLASS} of the others are held out."
    return Split("held-out" if held else "none", support, held, [], words)


def _held_out(data, args: argparse.Namespace):
    """--hold-out: a fraction of every class, with no patient and no copy of an image on both sides."""
    from nearl.data.checks import check
    from nearl.data.sets.findings import FindingsSet
    from nearl.data.splits import groups_from_names, plan, plan_findings

    found = check(data)
    if found.blocking:
        raise NearlError(found.blocking)
    say(caution for caution in found.cautions if caution not in data.said())
    names = [record.name for record in data.records]
    groups = groups_from_names(names, args.group_by) if args.group_by else data.groups
    divide = plan_findings if isinstance(data, FindingsSet) else plan
    split = divide(data.labels, args.hold_out, args.seed, groups, [*found.duplicates, *found.near])
    say([split.words])
    return split


class ProgressBar(Bar):
    """The progress of a run."""

    def show(self, event: Step) -> None:
        """Show a step that is done."""
        phase = "step" if event.phase == "teaching" else f"{event.phase}:"
        what = "" if event.loss is None else f"loss {event.loss:.3f}"
        self.move(phase, event.step, event.steps, what, f"{event.seconds_left:.0f} s left")


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder or zip with train/<class>/ or just <class>/ folders, or with a CSV file,label",
    )
    sub.add_argument("--out", required=True, metavar="RUN", help="folder of the run; the adapter is in RUN/adapter")
    sub.add_argument("--resume", action="store_true", help="resume an interrupted run as it was started")
    sub.add_argument("--shots", type=int, help="images per class to teach with (default: all but the held-out ones)")
    sub.add_argument("--hold-out", type=float, default=HELD_OUT_FRACTION, help="held-out fraction without --shots")
    sub.add_argument(
        "--group-by",
        metavar="PATTERN",
        help="how file names tell patients apart, a separator such as _ or a regular expression with one group: "
        "no patient is both taught and held out",
    )
    sub.add_argument(
        "--method", default="nearl", metavar="NAME", help="such as lora or nearl:no-anchor (default: nearl)"
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--preset", default="balanced", choices=["quick", "balanced", "thorough"])
    sub.add_argument("--steps", type=int)
    sub.add_argument("--lr", type=float)
    sub.add_argument("--augment", choices=["none", "gentle", "strong"], help="default: gentle")
    sub.add_argument("--flip", action="store_true", help="also swap left and right; only where sides mean nothing")
    sub.add_argument("--early-stop", action="store_true", help="stop when the training loss no longer falls")
    sub.add_argument("--keep-images", action="store_true", help="keep the images in RUN, for `report --pictures`")
    set_options(sub)
    prompt_options(sub)
    config_options(sub)


COMMAND = Command(
    "finetune", "Teach an adapter from a folder or zip of labelled images; RUN keeps everything about it.", run, add
)
