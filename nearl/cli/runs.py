"""Teaching on the command line: a run that can be gone on with, its report, and adapters to and from the Hub."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from nearl import NOTICE
from nearl.cli.parts import (
    backbone_of,
    config_of,
    config_options,
    metric_lines,
    out_folder,
    prompt_options,
    prompts_of,
    say,
)
from nearl.errors import NearlError

HELD_OUT_PER_CLASS = 40  # with --shots
HELD_OUT_FRACTION = 0.25
MEASURED = {"held-out": "held-out images", "folds": "images, each held out once"}


def finetune(args) -> tuple[dict, list[str]]:
    from nearl.runs.folder import CANCELLED, DONE, RunFolder
    from nearl.runs.job import teach

    run, backbone = RunFolder(out_folder(args.out)), None
    if not (args.resume and run.exists()):
        if args.data is None:
            raise NearlError(f"There is no run in '{args.out}' to go on with; give DATA to start one.")
        backbone = backbone_of(args)
        run.create(_job(args, backbone))
    if run.status["state"] not in (DONE, CANCELLED):
        with _Progress() as bar:
            for event in run.record(teach(run.job(), backbone, run.snapshot(), run.cancel_requested)):
                bar.show(event)
    outcome = run.outcome()
    if outcome is None:
        raise NearlError(f"The run in '{args.out}' was cancelled before it had learnt anything; start a new one.")
    run.forget_images()
    meta = outcome.adapter.meta
    seconds = sum(outcome.seconds[phase] for phase in ("forward", "backward", "optimiser"))
    result = {
        "adapter": args.out,
        "method": meta["method"],
        "shots": args.shots,
        "seed": meta["recipe"]["seed"],
        "support_counts": meta["support_counts"],
        "trainable_parameters": sum(value.numel() for value in outcome.adapter.state.values()),
        "seconds": round(seconds, 2),
        "seconds_by_phase": {phase: round(value, 2) for phase, value in outcome.seconds.items()},
        "stopped": outcome.stopped,
        "held_out": meta["metrics"],
        "notice": NOTICE,
    }
    count = sum(meta["support_counts"].values())
    lines = [f"Taught {count} images in {seconds:.0f} s; the adapter is in {args.out}."]
    return result, [*lines, *_said(outcome), NOTICE]


def _said(outcome) -> list[str]:
    """How the run ended and what was measured."""
    if outcome.stopped == "cancelled":
        return ["It was cancelled: what it had learnt until then is kept, and was not measured."]
    early = ["It stopped early, as the training loss no longer fell."] if outcome.stopped == "early" else []
    return early + metric_lines(outcome.results, MEASURED.get(outcome.results["kind"], "images"))


def _job(args, backbone):
    """What is to be done, from the arguments and the images."""
    from nearl.data.sets.labelled import resolve_splits
    from nearl.methods.nearl.finetune import PATIENCE, Recipe
    from nearl.runs.job import make_job

    began = time.perf_counter()
    data, _ = resolve_splits(args.data)  # test/ stays untouched, for `evaluate`
    reading = time.perf_counter() - began
    say(problem.reason for problem in data.problems)
    split = _shots(data, args) if args.shots is not None else _held_out(data, args)
    changes = {"steps": args.steps, "lr": args.lr, "augment": args.augment}
    changes = {key: value for key, value in changes.items() if value is not None}
    patience = PATIENCE if args.early_stop else 0
    recipe = Recipe.preset(args.preset, seed=args.seed, flip=args.flip, patience=patience, **changes)
    prompt_set = prompts_of(args, data=data)
    job = make_job(backbone, data, None, prompt_set, split, recipe, config=config_of(args, backbone))
    job.decode_seconds += reading
    return job


def _shots(data, args):
    """--shots: so many of every class, as in few-shot benchmarks, and some of the others held out."""
    from nearl.data.splits import Split, draw_support

    if args.group_by:
        raise NearlError("--shots draws single images; leave --group-by out, or use --hold-out instead of --shots.")
    support = draw_support(data.labels, args.shots, args.seed)
    rest = sorted(set(range(len(data))) - set(support))
    drawn = draw_support([data.labels[i] for i in rest], HELD_OUT_PER_CLASS, args.seed) if rest else []
    held = [rest[i] for i in drawn]
    words = f"{args.shots} images of every class teach; up to {HELD_OUT_PER_CLASS} of the others are held out."
    return Split("held-out" if held else "none", support, held, [], words)


def _held_out(data, args):
    """A share of every class held out, no patient and no copy on both sides."""
    from nearl.data.checks import check
    from nearl.data.splits import groups_from_names, plan

    found = check(data)
    if found.blocking:
        raise NearlError(found.blocking)
    say(found.cautions)
    names = [record.name for record in data.records]
    groups = groups_from_names(names, args.group_by) if args.group_by else data.groups
    split = plan(data.labels, args.hold_out, args.seed, groups, [*found.duplicates, *found.near])
    say([split.words])
    return split


def report(args) -> tuple[dict, list[str]]:
    from nearl import report as pages
    from nearl.runs.folder import RunFolder

    run = RunFolder(args.run_folder).load()
    outcome = run.outcome()
    if outcome is None:
        state = run.status["state"]
        raise NearlError(f"The run in '{args.run_folder}' has nothing to report yet: it is {state}.")
    content, written = pages.Report.from_run(run), []
    for path in (args.html, args.pdf, args.csv):
        if path is not None:
            out_folder(str(Path(path).parent))
    if args.html:
        Path(args.html).write_text(pages.html(content, names=args.names), encoding="utf-8")
        written.append(args.html)
    if args.pdf:
        pages.pdf(content, args.pdf)
        written.append(args.pdf)
    if args.csv:
        Path(args.csv).write_text(pages.csv(outcome.rows, names=args.names), encoding="utf-8-sig", newline="")
        written.append(args.csv)
    result = {"run": args.run_folder, "files": written, "held_out": outcome.results, "seconds": outcome.seconds}
    lines = [f"Written: {', '.join(written)}."] if written else []
    return {**result, "notice": NOTICE}, [*_said(outcome), *lines, NOTICE]


def push(args) -> tuple[dict, list[str]]:
    from nearl.adapters import hub
    from nearl.adapters.store import load_adapter

    url = hub.push(load_adapter(args.adapter), args.repository, hub.saved_token(), args.private)
    return {"repository": args.repository, "url": url}, [f"The adapter is at {url}."]


def pull(args) -> tuple[dict, list[str]]:
    from nearl.adapters import hub
    from nearl.adapters.store import save_adapter

    adapter = hub.pull(args.repository, args.revision, hub.saved_token())
    save_adapter(adapter, out_folder(args.out))
    classes = adapter.meta["classes"]
    lines = [f"The adapter for {', '.join(classes)} is in {args.out}.", NOTICE]
    return {"adapter": args.out, "classes": classes, "backbone": adapter.meta["backbone"], "notice": NOTICE}, lines


class _Progress:
    """A bar on a terminal, else a line now and then; always on stderr."""

    def __init__(self):
        self.bar = self.phase = None

    def __enter__(self) -> _Progress:
        return self

    def show(self, event: dict) -> None:
        phase, step, total, loss = (event[key] for key in ("phase", "step", "steps", "loss"))
        what = "" if loss is None else f"loss {loss:.3f}"
        if sys.stderr.isatty():
            self._draw(phase, step, total, what)
        elif step % max(total // 10, 1) == 0 or step == total:
            name = "step" if phase == "teaching" else f"{phase}:"
            left = f"{event['seconds_left']:.0f} s left"
            print("  ".join(filter(None, (f"{name} {step}/{total}", what, left))), file=sys.stderr, flush=True)

    def _draw(self, phase: str, step: int, total: int, what: str) -> None:
        from tqdm import tqdm

        if phase != self.phase:
            self.__exit__()
            self.bar, self.phase = tqdm(total=total, desc=phase, file=sys.stderr), phase
        self.bar.update(step - self.bar.n)
        self.bar.set_postfix_str(what)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()


def add(command) -> None:
    """The commands of this file. ``command(run, text, model=True)`` makes a parser with the options of all commands."""
    sub = command(finetune, "Teach an adapter from a folder or zip of labelled images; RUN keeps all about it.")
    sub.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="folder or zip with train/<class>/ or just <class>/ folders, or with a CSV file,label",
    )
    sub.add_argument("--out", required=True, metavar="RUN", help="folder of the run; the adapter is in RUN/adapter")
    sub.add_argument("--resume", action="store_true", help="go on with an interrupted run, as it began")
    sub.add_argument("--shots", type=int, help="images per class to teach with (default: all but the held-out ones)")
    sub.add_argument("--hold-out", type=float, default=HELD_OUT_FRACTION, help="held-out share without --shots")
    sub.add_argument(
        "--group-by",
        metavar="PATTERN",
        help="what tells a patient's files by their names, a separator such as _ or an expression with one group: "
        "no patient is both taught and held out",
    )
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--preset", default="balanced", choices=["quick", "balanced", "thorough"])
    sub.add_argument("--steps", type=int)
    sub.add_argument("--lr", type=float)
    sub.add_argument("--augment", choices=["none", "gentle", "strong"], help="default: gentle")
    sub.add_argument("--flip", action="store_true", help="also swap left and right; only where sides mean nothing")
    sub.add_argument("--early-stop", action="store_true", help="stop when the training loss no longer falls")
    prompt_options(sub)
    config_options(sub)

    sub = command(report, "Write what a run came to as a page, a sheet to print and a table.", model=False)
    sub.add_argument("run_folder", metavar="RUN")
    sub.add_argument("--html", metavar="FILE")
    sub.add_argument("--pdf", metavar="FILE")
    sub.add_argument("--csv", metavar="FILE", help="one line per held-out image")
    sub.add_argument("--names", action="store_true", help="with the images' file names, which may tell whose they are")

    sub = command(push, "Put an adapter and its card on the Hub.", model=False)
    sub.add_argument("adapter", metavar="ADAPTER", help="an adapter folder or zip, or what finetune wrote")
    sub.add_argument("repository", metavar="OWNER/NAME")
    sub.add_argument("--private", action="store_true")

    sub = command(pull, "Fetch an adapter from the Hub.", model=False)
    sub.add_argument("repository", metavar="OWNER/NAME")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--revision", metavar="NAME", help="branch, tag or commit")
