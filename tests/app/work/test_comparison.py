"""Comparisons of methods behind the page: rows on disk, one that fails, cancelling, a process that dies, the winner."""

from __future__ import annotations

import os
import signal
import threading
from typing import ClassVar

import numpy as np
import pytest

from app.compare import actions as comparing
from app.compare.actions import OWN, Choice
from app.predict import actions as reading
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.methods import METHODS, names
from nearl.runs.comparison import ComparisonFolder, ComparisonJob, compare
from nearl.runs.scores import difference, scores
from nearl.runs.status import CANCELLED, DONE
from tests.support.app_work import processes, until, visitor

CHEAP = ("zero-shot", "linear-probe")


def begin(engine, workspace, methods, seeds=1, shots=2):
    return comparing.start(engine, workspace, Choice(OWN, methods, shots, seeds))


@pytest.fixture(scope="module")
def job(engine, tmp_path_factory):
    """What the page would queue for ten images of each class, with two steps of training."""
    from nearl.data.splits import plan
    from nearl.prompts import default_prompts
    from nearl.runs.job import make_job
    from nearl.train.recipe import Recipe

    data = phantom_set("smear", 5, size=64)
    given = make_job(engine.backbone(), data, None, default_prompts(data.classes), plan(data.labels), Recipe())
    return ComparisonJob.of(given, ["zero-shot", "linear-probe", "lora", "nearl"], 2, 2, {"steps": 2})


def test_every_method_has_the_same_images_and_none_is_measured_on_what_it_learnt_from(engine, job, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nearl.runs.comparison.measuring",
        lambda task, test, name, recipe: seen.append((task, test, name, recipe)) or iter(()),
    )
    assert all("error" in event["row"] for event in compare(job, backbone=engine.backbone()) if "row" in event)
    assert [(name, recipe.seed) for _, _, name, recipe in seen] == [
        ("zero-shot", 0), *((name, seed) for seed in (0, 1) for name in ("linear-probe", "lora", "nearl"))
    ]  # fmt: skip
    images = lambda data: {record.digest for record in data.records}  # noqa: E731
    for task, test, _, recipe in seen:
        assert len(task.support) == 4 and not images(task.support) & images(test)
        same = [t.support.labels == task.support.labels and images(t.support) == images(task.support)
                for t, _, _, r in seen if r.seed == recipe.seed]  # fmt: skip
        assert all(same)
    assert [recipe.steps for *_, name, recipe in seen if name == "lora"] == [2, 2]
    assert seen[1][3] == METHODS["linear-probe"].recipe(seed=0)  # a method on features keeps its own recipe


def test_rows_a_failure_by_name_and_what_is_left_to_do(engine, job, tmp_path, monkeypatch):
    run = ComparisonFolder(tmp_path / "run").create(job)

    def broken(self, recipe):
        raise NearlError("LoRA needs the package 'peft'.")

    monkeypatch.setattr(METHODS["lora"], "learn", broken)
    list(run.record(compare(run.job(), run.todo[:4], backbone=engine.backbone())))
    found = {line["method"]: line for line in scores(run.about, run.rows)}
    assert run.status["state"] == DONE and len(run.todo) == 3
    assert found["lora"]["error"] == "LoRA needs the package 'peft'." and not found["lora"]["done"]
    assert found["nearl"]["done"] == 1 and found["nearl"]["parameters"] > 0 and found["nearl"]["taught"] == 4
    assert found["zero-shot"]["few"] and found["zero-shot"]["balanced_accuracy"] is None  # four images say nothing
    adapter = run.adapter("nearl")
    assert adapter.meta["method"] == "nearl" and adapter.meta["metrics"]["n"] == 4 and adapter.meta["trust"]
    with pytest.raises(NearlError):
        run.adapter("lora")
    with (run.path / "rows.jsonl").open("a") as file:
        file.write('{"method": "nearl", "se')  # a server that was killed while writing
    assert len(run.rows) == 4


def row(method, seed, value, said=(0, 1), n=40):
    figures = {"n": n, "balanced_accuracy": value, "balanced_accuracy_interval": [value - 0.1, value + 0.1]}
    costs = {"fit_seconds": 1.0, "predict_ms": 2.0, "parameters": 3, "taught": 4}
    return {"method": method, "seed": seed, "metrics": {**figures, "auroc": 0.5, "ece": None}, "said": said, **costs}


def test_one_draw_has_the_images_interval_and_several_their_own():
    about = {"methods": ["zero-shot", "nearl"], "classes": ["a", "b"]}
    zero, ours = scores(about, [row("zero-shot", 0, 0.5), *(row("nearl", s, v) for s, v in enumerate((0.4, 0.6, 0.8)))])
    assert zero["interval"] == pytest.approx([0.4, 0.6]) and ours["done"] == 3
    assert ours["balanced_accuracy"] == pytest.approx(0.6) and ours["interval"] == pytest.approx(
        [0.1032, 1.0], abs=1e-3
    )
    (alike,) = scores({**about, "methods": ["nearl"]}, [row("nearl", s, 0.7) for s in range(3)])
    assert alike["interval"] is None


def test_a_difference_is_of_the_same_images():
    split = {"kind": "held-out", "held": list(range(40)), "support": []}
    about = {"classes": ["a", "b"], "labels": [0, 1] * 20, "split": split}
    right, half = np.array([0, 1] * 20), np.array([0, 0] * 20)
    gain = difference(about, [row("nearl", 0, 1.0, right), row("x", 0, 0.5, half)], "nearl", "x")
    assert gain["value"] == pytest.approx(0.5) and gain["interval"][0] > 0.3
    assert difference(about, [row("nearl", 0, 1.0, right)], "nearl", "x") is None
    both = [row(m, s, v) for m, v in (("nearl", 0.8), ("x", 0.7)) for s in range(3)]
    assert difference(about, both, "nearl", "x")["value"] == pytest.approx(0.1)


def test_refusals_are_sentences(engine, registry):
    workspace = registry.get(None)
    for choice, words in (
        (Choice(OWN, CHEAP), "no images of yours"),
        (Choice("ct_slice", ()), "tick at least one"),
        (Choice("ct_slice", ("nothing",)), "tick at least one"),
        (Choice("moon", CHEAP), "no such kind"),
        (Choice("ct_slice", names(), seeds=3), "choose at most"),
    ):
        with pytest.raises(NearlError, match=words):
            comparing.start(engine, workspace, choice)
    workspace.support.keep(phantom_set("smear", 3, size=64))
    with pytest.raises(NearlError, match="at least 4 images"):
        begin(engine, workspace, CHEAP)
    with pytest.raises(NearlError, match="not been taught yet"):
        comparing.use(engine, workspace, "nearl")
    assert comparing.current(workspace) is None and not workspace.busy


def test_every_method_has_its_card():
    shown = [card.name for _, cards in comparing.cards() for card in cards]
    assert sorted(shown) == sorted(names())
    assert set(comparing.QUESTIONS) == set(comparing.PARTS) <= set(names())


class InThread:
    """A worker that is a thread of this process: quick to start, and killed between two events."""

    done: ClassVar[list] = []

    def __init__(self, run: ComparisonFolder, backbone):
        self.killed, self.run = False, run
        self.thread = threading.Thread(target=self.work, args=(backbone,), daemon=True)
        self.thread.start()

    def work(self, backbone) -> None:
        for event in self.run.record(compare(self.run.job(), self.run.todo, self.run.cancel_requested, backbone)):
            self.done += [(self.run.path.name, event["row"]["method"])] if "row" in event else []
            if self.killed:
                return

    def wait(self, timeout: float) -> bool:
        self.thread.join(timeout)
        return self.thread.is_alive()

    def kill(self) -> None:
        self.killed = True
        self.thread.join()


def test_two_visitors_take_turns_and_a_winner_reads(engine, registry, monkeypatch):
    monkeypatch.setattr("nearl.runs.comparison.start", lambda run: InThread(run, engine.backbone()))
    monkeypatch.setattr("nearl.runs.comparison.EVERY", 0.001)
    first, second = visitor(registry), visitor(registry)
    ours = begin(engine, first, ("zero-shot", "linear-probe", "nearl"))
    with pytest.raises(NearlError, match="still running"):
        begin(engine, first, CHEAP)
    theirs = begin(engine, second, CHEAP)
    until(lambda: ours.finished and theirs.finished)
    assert (ours.look().state, theirs.look().state) == (DONE, DONE)
    turns = [name for name, _ in InThread.done]
    assert turns.index(theirs.path.name) < len(turns) - turns[::-1].index(ours.path.name) - 1  # before ours had ended
    assert not list(registry.root.path.rglob("comparisons/*/job.safetensors"))  # the images are gone

    first.runs.forget()  # as after a restart of the server
    assert all(line["done"] for line in comparing.lines(comparing.current(first)))
    comparing.use(engine, first, "linear-probe")
    comparing.use(engine, first, "linear-probe")
    (item,) = first.shelf.items()  # once, however often it is pressed
    assert item.in_use and item.method == "linear-probe" and item.name.startswith("Linear probe: ")
    reading.bring(first, [("image 1", next((first.path / "set" / "images").glob("*.png")))])
    reading.read(engine, first, first.viewing.prompts.to_dict())
    assert first.viewing.prediction.adapted is not None
    comparing.use(engine, first, "nearl")
    assert {item.method for item in first.shelf.items()} == {"linear-probe", "nearl"}
    comparing.use(engine, first, "zero-shot")
    assert first.shelf.adapter is None
    begin(engine, first, CHEAP).cancel()
    assert not list((first.path / "comparisons").glob(ours.path.name))  # the latest alone is kept
    with pytest.raises(NearlError, match="not been taught yet"):
        comparing.use(engine, first, "nearl")


def test_a_process_that_dies_takes_one_method_with_it_and_a_deaf_one_is_ended(engine, registry, monkeypatch):
    monkeypatch.setattr("nearl.runs.comparison.PATIENCE", 0.0)
    ours = begin(engine, visitor(registry), ("zero-shot", "nearl", "nearl:vision-only"))
    until(lambda: ours.look().method == "nearl")
    (worker,) = processes(str(ours.path))
    os.kill(worker, signal.SIGKILL)
    until(lambda: ours.look().method == "nearl:vision-only")
    ours.cancel()
    until(lambda: ours.finished)
    assert ours.look().state == CANCELLED and not processes(str(ours.path))
    lines = {line["method"]: line for line in comparing.lines(ours)}
    assert [name for name, line in lines.items() if line["done"]] == ["zero-shot"]
    assert "memory" in lines["nearl"]["error"]  # what the system kills for
