"""What the Teach tab does with a workspace: gather labelled images, check them, start a run, take and give adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from app import views
from app.engine import Engine
from app.examples import KIND_NAMES
from app.jobs import CHECKING, DONE, WAITING, TeachJob
from app.reading import prompt_set_from
from app.workspace import Workspace
from nearl.data.labelled import LabelledSet, from_files, resolve_splits
from nearl.data.splits import hold_out
from nearl.errors import NearlError
from nearl.prompts import PromptSet, default_prompts, ready_sets

EXAMPLE_PER_CLASS = 16
HELD_SHARE = 0.25  # of every class, kept aside to check what was learnt (our choice)
FEWEST_TO_SPLIT = 4  # images per class below which nothing is kept aside
FEW = 8  # images per class below which the page says that they are few
FEW_HELD = 20  # images kept aside below which the page says how little they tell
LOPSIDED = 4  # times as many images in one class as in another
MAX_IMAGES = 600


def gather_example(workspace: Workspace, kind: str) -> None:
    """The synthetic task of that kind, with pictures to check on that were drawn separately."""
    if kind not in KIND_NAMES:
        raise NearlError("There is no such synthetic example; choose one of those offered.")
    from nearl.data.phantoms import phantom_set

    _keep(workspace, phantom_set(kind, EXAMPLE_PER_CLASS, seed=1), phantom_set(kind, EXAMPLE_PER_CLASS, seed=2))
    workspace.teaching_set.name = f"Synthetic example, {KIND_NAMES[kind]}"
    workspace.teaching_set.prompts = PromptSet.load(ready_sets()[f"phantom_{kind}"]).to_dict()


def gather_files(workspace: Workspace, names: Sequence[str], files: Sequence[Sequence[str] | None]) -> None:
    """Images given class by class. Rows without a name and without images are passed over."""
    per_class: dict[str, list[str]] = {}
    for number, (name, paths) in enumerate(zip(names, files, strict=True), start=1):
        name = (name or "").strip()
        if not name and not paths:
            continue
        if not name:
            raise NearlError(f"Class {number} has images but no name; give it one.")
        if name in per_class:
            raise NearlError(f"The class name “{name}” is there twice; rename one of them.")
        per_class[name] = list(paths or [])
    if sum(bool(paths) for paths in per_class.values()) < 2:
        raise NearlError("Teaching needs images of at least two classes; name them and add their images.")
    _keep(workspace, from_files(per_class), None)


def gather_zip(workspace: Workspace, path: str | Path) -> None:
    """A zip with one folder per class, or with such folders under train/ and test/."""
    _keep(workspace, *resolve_splits(path))


def _keep(workspace: Workspace, train: LabelledSet, test: LabelledSet | None) -> None:
    if len(train) > MAX_IMAGES:
        raise NearlError(f"These are {len(train)} images; on this page {MAX_IMAGES} are enough. Bring fewer.")
    with workspace.lock:
        workspace.teaching_set, workspace.held_out = train, test if test is not None and len(test) else None


def forget_images(workspace: Workspace) -> None:
    with workspace.lock:
        workspace.teaching_set = workspace.held_out = None


def prompts_for(labelled: LabelledSet) -> PromptSet:
    """The prompts that came with the images, if they are for these classes; else one made from each class name."""
    try:
        return PromptSet.from_dict(labelled.prompts or {}).for_classes(labelled.classes)
    except NearlError:  # an unusable prompts.json is no reason to refuse the images
        return default_prompts(labelled.classes)


def check_html(workspace: Workspace) -> str:
    """The check before teaching: counts, what was left out, what looks thin."""
    labelled, test = workspace.teaching_set, workspace.held_out
    counts = labelled.counts()
    fewest, most = min(counts, key=counts.get), max(counts, key=counts.get)
    cautions = []
    if counts[fewest] < FEWEST_TO_SPLIT and test is None:
        cautions.append(
            f"“{fewest}” has {views.plural(counts[fewest], 'image')}: too few to keep some aside, so what was learnt "
            f"cannot be checked. Bring at least {FEWEST_TO_SPLIT} of each class."
        )
    elif counts[fewest] < FEW:
        cautions.append(f"“{fewest}” has only {views.plural(counts[fewest], 'image')}; with more it learns better.")
    if counts[most] >= LOPSIDED * counts[fewest]:
        cautions.append(f"There are many more images of “{most}” than of “{fewest}”; both will count the same.")
    problems = [*labelled.problems, *(test.problems if test else [])]
    return views.check(counts, problems, cautions, len(test) if test else None)


def start(engine: Engine, workspace: Workspace, value: dict | None, preset: str) -> TeachJob:
    """Queue a run with the gathered images and these prompts; the finished adapter goes into use by itself."""
    labelled, test = workspace.teaching_set, workspace.held_out
    if labelled is None:
        raise NearlError("There is nothing to learn from yet; bring images or take the synthetic example.")
    if workspace.busy:
        raise NearlError("A run of yours is going on; cancel it first or wait until it is done.")
    prompt_set = prompt_set_from(value)
    support = labelled
    if test is None and min(labelled.counts().values()) >= FEWEST_TO_SPLIT:
        taught, held = hold_out(labelled.labels, HELD_SHARE, seed=0)
        support, test = labelled.subset(taught), labelled.subset(held)

    def use(adapter) -> None:
        workspace.set_adapter(adapter, support.name)
        workspace.prompt_set = prompt_set

    workspace.job = TeachJob(engine, support, test, prompt_set, preset, use)
    workspace.job.start()
    return workspace.job


def job_html(job: TeachJob) -> str:
    """The run as it is now: progress, result, or why it ended."""
    if job.state == DONE:
        return views.result(_held_out(job), len(job.support), job.losses, job.steps)
    if job.error:
        return views.message(job.error, "error")
    if job.finished:
        return views.message("Teaching was cancelled; the model is as it was.")
    words = {WAITING: "Waiting for the model", CHECKING: "Checking on images kept aside"}.get(job.state, "Teaching")
    return views.progress(job.step, job.steps, words, job.seconds_left, job.losses)


def _held_out(job: TeachJob) -> dict | None:
    if job.scores is None:
        return None
    shown = {}
    for when, score in (("before", job.scores["frozen"]), ("after", job.scores["adapted"])):
        shown[when] = {"value": score["balanced_accuracy"], "interval": tuple(score["balanced_accuracy_interval"])}
    n = job.scores["n"]
    return {"n": n, "few": n < FEW_HELD, **shown}


def take_adapter(engine: Engine, workspace: Workspace, path: str | Path) -> PromptSet:
    """Use an adapter from a zip file; returns the prompts it was taught with. NearlError if it is not fit for use."""
    backbone = engine.backbone()
    from nearl.classifier import build
    from nearl.store import load_adapter

    adapter = load_adapter(path, backbone.identity)
    prompt_set = PromptSet.from_dict(adapter.meta["prompts"])
    with engine.device_lock:
        build(backbone, adapter)  # refuses tensors that do not fit their configuration
    workspace.set_adapter(adapter, Path(path).stem)
    workspace.prompt_set = prompt_set
    return prompt_set


def adapter_html(workspace: Workspace) -> str:
    """Which adapter is in use, and what it was taught with."""
    if workspace.adapter is None:
        return views.adapter_empty()
    return views.adapter(
        workspace.adapter_name, workspace.adapter.meta["support_counts"], workspace.adapter.meta["created"]
    )


def adapter_file(workspace: Workspace) -> str | None:
    """The adapter in use as a zip to download, or None."""
    if workspace.adapter is None:
        return None
    from nearl.store import zip_adapter

    return str(zip_adapter(workspace.adapter, workspace.folder / "nearl-adapter.zip"))
