"""Teaching runs: measured honestly, kept on disk, worked on by a process whose end ends nothing else."""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import Split, plan
from nearl.errors import NearlError
from nearl.methods import Frozen
from nearl.prompts import default_prompts
from nearl.runs import Job, RunFolder, job, make_job, process, start, teach
from nearl.runs.folder import NO_MEMORY
from nearl.train.recipe import Recipe
from tests.support.reading import reader

CLASSES = ["one", "two"]
PATIENCE = 120  # seconds to wait for a process on a busy machine


def shades(per_class=6, seed=0, side=32):
    """Two classes that anything can tell apart."""
    rng = np.random.default_rng(seed)
    levels = [60] * per_class + [190] * per_class
    noise = rng.normal(0, 25, (len(levels), side, side, 3))
    pixels = [np.clip(level + n, 0, 255).astype(np.uint8) for level, n in zip(levels, noise, strict=True)]
    records = [ImageRecord.from_pixels(f"{i}.png", image) for i, image in enumerate(pixels)]
    return LabelledSet(list(CLASSES), records, [0] * per_class + [1] * per_class)


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


def quick(**changes):
    return Recipe(**{"steps": 20, "batch_size": 8, "augment": "none", "precision": "float32", **changes})


def made(backbone, data=None, test=None, split=None, **changes):
    data = data or shades()
    split = split or plan(data.labels, fraction=0.4, given=len(test) if test else 0)
    return make_job(backbone, data, test, default_prompts(CLASSES), split, quick(**changes))


def finish(events):
    """(events of steps, outcome)."""
    events = list(events)
    assert all("done" not in event for event in events[:-1])
    return [event for event in events if "phase" in event], events[-1]["done"]


# ------------------------------------------------------------------------------------------------------------ one run


def test_a_job_is_plain_data(backbone):
    a = made(backbone, test=shades(2, seed=1))
    assert a.images.dtype == torch.uint8 and a.images.shape == (16, 3, 32, 32) and a.test == [12, 13, 14, 15]
    b = Job.from_plain(a.images, json.loads(json.dumps(a.to_plain())))
    assert b.to_plain() == a.to_plain() and b.split == a.split and torch.equal(b.images, a.images)


def test_held_out_images_are_measured_and_never_taught(backbone):
    a = made(backbone)
    assert a.split.kind == "held-out"
    events, outcome = finish(teach(a, backbone))
    assert [e["step"] for e in events if e["phase"] == "teaching"] == list(range(1, 21))
    assert [e["step"] for e in events if e["phase"] == "checking"][-1] == 12  # all images go through the frozen model
    assert outcome.results["n"] == len(a.split.held) == len(outcome.rows) and outcome.stopped == ""
    assert [row["image"] for row in outcome.rows] == a.split.held
    assert [row["file"] for row in outcome.rows] == [a.files[i] for i in a.split.held]
    assert sum(outcome.adapter.meta["support_counts"].values()) == len(a.split.support)
    assert outcome.adapter.meta["metrics"] == outcome.results and outcome.adapter.meta["trust"]
    assert set(outcome.seconds) == {"decode", "forward", "backward", "optimiser", "evaluate"}
    assert all(value > 0 for value in outcome.seconds.values())

    noise = made(backbone)  # other held-out images: the same adapter, other figures
    noise.images[a.split.held] = torch.randint(0, 256, noise.images[a.split.held].shape, dtype=torch.uint8)
    _, other = finish(teach(noise, backbone))
    assert other.adapter.version == outcome.adapter.version and other.rows != outcome.rows


def test_figures_are_those_of_a_reading(backbone):
    """At a size that is not the model's own, from the pictures as they came."""
    data = shades(side=50)
    a = made(backbone, data)
    _, outcome = finish(teach(a, backbone))
    outcome.adapter.meta["trust"] = None
    classifier = reader(backbone, default_prompts(CLASSES), outcome.adapter)
    prediction = classifier.predict([data.records[i] for i in a.split.held])
    for row, frozen, adapted in zip(outcome.rows, prediction.frozen, prediction.adapted, strict=True):
        assert list(row["shares_before"].values()) == pytest.approx(frozen.tolist(), abs=1e-4)
        assert list(row["shares_after"].values()) == pytest.approx(adapted.tolist(), abs=1e-4)


def test_given_test_images_are_what_is_measured(backbone):
    test = shades(5, seed=1)
    test.classes, test.labels = CLASSES[::-1], [1 - label for label in test.labels]  # in another order
    a = made(backbone, test=test)
    assert a.split.kind == "given" and a.labels[-10:] == [0] * 5 + [1] * 5
    _, outcome = finish(teach(a, backbone))
    assert outcome.results["n"] == 10 and outcome.adapter.meta["support_counts"] == {"one": 6, "two": 6}
    test.classes = ["one", "three"]
    with pytest.raises(NearlError, match="“three” that is not taught"):
        made(backbone, test=test)


def test_folds_are_measured_by_models_that_never_saw_them(backbone, monkeypatch):
    data = shades(3)
    a = made(backbone, data, steps=6)
    assert a.split.kind == "folds"
    taught, frozen = [], []
    make, see = job.make, Frozen.see
    monkeypatch.setattr(job, "make", lambda name, task, **k: taught.append(task.support) or make(name, task, **k))
    monkeypatch.setattr(Frozen, "see", lambda self, x: frozen.append(len(x)) or see(self, x))
    events, outcome = finish(teach(a, backbone))
    phases = list(dict.fromkeys(event["phase"] for event in events))
    assert phases == ["teaching", "fold 1 of 3", "fold 2 of 3", "fold 3 of 3", "checking"]
    assert [len(s) for s in taught] == [6, 4, 4, 4]
    assert outcome.results["n"] == 6 and sorted(row["image"] for row in outcome.rows) == list(range(6))
    assert outcome.results["kind"] == "folds" and outcome.adapter.meta["support_counts"] == {"one": 3, "two": 3}
    assert sum(frozen) == 6  # the frozen model saw every image once
    left = [event["seconds_left"] for event in events if event["phase"] != "checking"]
    assert left[0] > left[-1] == 0


def test_nothing_held_nothing_claimed(backbone):
    a = made(backbone, split=Split("none", list(range(12)), [], [], ""), steps=6)
    _, outcome = finish(teach(a, backbone))
    assert outcome.results["n"] == 0 and outcome.results["adapted"] is None and outcome.rows == []
    assert outcome.adapter.meta["metrics"] is None


def test_cancelling_keeps_the_best_weights_so_far(backbone):
    counted = iter(range(1000))
    events, outcome = finish(teach(made(backbone), backbone, stop=lambda: next(counted) == 9))
    assert len(events) == 9 and outcome.stopped == "cancelled" and outcome.results is None
    assert 5 <= outcome.adapter.meta["recipe"]["steps_taken"] <= 9
    events, outcome = finish(teach(made(backbone), backbone, stop=lambda: True))
    assert not events and outcome.adapter is None
    folds = made(backbone, shades(3), steps=6)
    asked = iter(range(1000))
    events, outcome = finish(teach(folds, backbone, stop=lambda: next(asked) == 8))
    assert events[-1]["phase"] == "fold 1 of 3" and outcome.adapter.meta["recipe"]["steps_taken"] == 6


@pytest.mark.parametrize("per_class", [3, 6])
def test_a_run_goes_on_from_any_snapshot_to_the_same_end(backbone, per_class):
    a = made(backbone, shades(per_class), steps=6, augment="gentle")
    snapshots = [event["snapshot"] for event in teach(a, backbone, every=0) if "snapshot" in event]
    _, whole = finish(teach(a, backbone))
    for saved in snapshots[:: max(1, len(snapshots) // 3)]:
        saved = saved._replace(about=json.loads(json.dumps(saved.about)))
        _, again = finish(teach(a, backbone, state=saved))
        assert again.adapter.version == whole.adapter.version and again.rows == whole.rows


def test_nearl_without_one_of_its_parts(backbone):
    data = shades()
    words = backbone, data, None, default_prompts(CLASSES), plan(data.labels), quick(steps=2)
    _, outcome = finish(teach(make_job(*words, method="nearl:no-orthogonality"), backbone))
    assert outcome.adapter.config["orthogonal"] is False and outcome.results["n"]
    with pytest.raises(NearlError, match="'lora' cannot be taught"):
        make_job(*words, method="lora")


def test_a_model_with_other_weights_is_refused(backbone):
    a = made(backbone)
    a.backbone["fingerprint"] = "0" * 64
    with pytest.raises(NearlError, match="other weights"):
        next(teach(a))


# ------------------------------------------------------------------------------------------------------------- on disk


def test_a_folder_tells_all_about_its_run(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    assert run.status["state"] == "waiting" and run.outcome() is None and run.events == []
    assert run.job().to_plain() == made(backbone).to_plain() | {"decode_seconds": run.job().decode_seconds}
    states = []
    for _ in run.record(teach(run.job(), backbone, every=0)):
        states.append(run.status["state"])
    assert list(dict.fromkeys(states)) == ["teaching", "checking"]
    again = RunFolder(tmp_path / "run").load()
    assert again.status["state"] == "done" and again.finished and len(again.events) == len(states)
    outcome = again.outcome()
    assert outcome.results["n"] == len(outcome.rows) > 0
    assert not (tmp_path / "run" / "snapshot.safetensors").exists()
    with pytest.raises(NearlError, match="already"):
        run.create(made(backbone))
    with pytest.raises(NearlError, match="is finished"):
        start(run)
    with pytest.raises(NearlError, match="no run"):
        RunFolder(tmp_path).load()


def test_a_run_left_in_the_middle_is_interrupted_and_goes_on(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    events = run.record(teach(run.job(), backbone, every=0))
    for _ in range(7):
        next(events)
    assert run.alive and run.status["state"] == "teaching"
    with pytest.raises(NearlError, match="another process"):
        next(RunFolder(run.path).record(iter([])))
    events.close()
    assert not run.alive and run.status == run.load().status and run.status["state"] == "interrupted"
    with (run.path / "progress.jsonl").open("a") as file:
        file.write('{"half a li')
    for _ in run.record(teach(run.job(), backbone, run.snapshot())):
        pass
    steps = [event["step"] for event in run.events if event["phase"] == "teaching"]
    assert steps == list(range(1, 21)) and run.status["state"] == "done"
    _, whole = finish(teach(made(backbone), backbone))
    assert run.outcome().adapter.version == whole.adapter.version


def test_cancelling_a_run_that_waits(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    run.request_cancel()
    assert run.status["state"] == "cancelled" and run.finished and run.outcome() is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NearlError("A plain sentence."), "A plain sentence."),
        (MemoryError(), NO_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory."), NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), NO_MEMORY),
        (ZeroDivisionError("secret"), "because of a fault"),
    ],
)
def test_what_goes_wrong_becomes_one_sentence(backbone, tmp_path, error, says):
    def events():
        yield {"phase": "teaching", "step": 1, "steps": 9, "seconds_left": 1.0}
        raise error

    run = RunFolder(tmp_path / "run").create(made(backbone))
    with pytest.raises(NearlError, match=says[:30]):
        list(run.record(events()))
    assert run.status["state"] == "failed" and says in run.status["error"] and "secret" not in run.status["error"]
    assert run.status["step"] == 1 and not run.alive


@pytest.mark.parametrize("name", ["job.json", "job.safetensors"])
def test_a_damaged_run_says_which_file(backbone, tmp_path, name):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    (run.path / name).write_bytes(b"{}")
    with pytest.raises(NearlError, match="damaged"):
        run.job()


# --------------------------------------------------------------------------------------------- in a process of its own


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_teaches_crashes_alone_and_another_goes_on(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone, steps=400))
    seen = []

    def listen(event):
        seen.append(event)
        raise ValueError("a listener's fault")

    worker = start(run, listen, every=0)
    until(lambda: (run.path / "snapshot.safetensors").exists() and len(seen) > 5)
    assert worker.poll() and run.alive and run.status["state"] == "teaching"
    score = Path(f"/proc/{worker.process.pid}/oom_score_adj")
    assert not score.exists() or score.read_text().strip() == "1000"  # the first to go
    os.kill(worker.process.pid, signal.SIGKILL)  # as the system does where memory runs out
    worker.wait()
    assert run.status["state"] == "failed" and run.status["error"] == NO_MEMORY
    assert run.outcome() is None

    worker = start(run, every=0)  # it can be tried again, and goes on where it was
    until(lambda: run.status["state"] == "teaching" and run.status["phase"] == "teaching")
    worker.kill()
    assert run.status["state"] == "interrupted"
    before = run.snapshot().about["run"]["step"]
    assert before >= 5
    worker = start(run, every=1)
    until(lambda: run.status["phase"] == "teaching")
    run.request_cancel()
    worker.wait()
    assert run.status["state"] == "cancelled"
    assert run.outcome().adapter.meta["recipe"]["steps_taken"] >= 5
    steps = [event["step"] for event in run.events]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) >= before


def test_a_failure_in_the_worker_is_told_in_its_own_words(backbone, tmp_path):
    broken = made(backbone)
    broken.backbone["name"] = "nothing"
    run = RunFolder(tmp_path / "run").create(broken)
    start(run).wait()
    assert run.status["state"] == "failed" and "no backbone called 'nothing'" in run.status["error"]
    assert process._why(7).startswith("The process of this run ended unexpectedly (code 7)")


PARENT = """
import sys, time
from nearl.runs import RunFolder, start
worker = start(RunFolder(sys.argv[1]), every=0)
print(worker.process.pid, flush=True)
time.sleep(600)
"""


def test_the_worker_ends_with_a_parent_that_is_killed(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone, steps=2000))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(run.path)], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    until(lambda: (run.path / "snapshot.safetensors").exists())
    parent.kill()
    parent.wait()
    until(lambda: not run.alive)
    assert run.status["state"] == "interrupted" and run.snapshot() is not None
    until(lambda: not os.path.exists(f"/proc/{worker}"))


# ------------------------------------------------------------------------------------------------------------ ZeroGPU


def _forked(function, arguments, queue, received):
    for event in function(*arguments):
        queue.put(event)
    queue.put(None)
    received.wait(PATIENCE)  # tensors are shared with whoever takes them, as long as this process lives


def test_on_zero_gpu_the_same_events_come_from_a_process_per_call(backbone, tmp_path, monkeypatch):
    """`spaces.GPU` stands in as a decorator that runs every call in a process that shares nothing with this one."""

    def gpu(duration):
        def decorate(function):
            def call(*arguments):
                context = multiprocessing.get_context("spawn")
                queue, received = context.Queue(), context.Event()
                child = context.Process(target=_forked, args=(function, arguments, queue, received))
                child.start()
                while (event := queue.get(timeout=PATIENCE)) is not None:
                    yield event
                received.set()
                child.join()

            return call

        return decorate

    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    import nearl.runs.zero_gpu as module

    try:
        assert importlib.reload(module).call is not teach
        run = RunFolder(tmp_path / "run").create(made(backbone, steps=6))
        module.work(run)
    finally:
        monkeypatch.undo()
        importlib.reload(module)
    assert module.call is teach and not module.ON_ZERO_GPU
    assert run.status["state"] == "done", run.status["error"]
    events = run.events
    here, outcome = finish(teach(made(backbone, steps=6), backbone))
    assert [(e["phase"], e["step"]) for e in events] == [(e["phase"], e["step"]) for e in here]
    assert run.outcome().adapter.version == outcome.adapter.version
