"""Runs on disk: status, resuming, failures, and runs of an earlier version."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import SafetensorError

from nearl.errors import NearlError
from nearl.runs import RunFolder, Step, perform, scores, start
from nearl.runs import folder as folders
from nearl.runs.status import LONGEST_CURVE
from nearl.train.memory import NO_MEMORY
from tests.support.before import RUNS, adapter_folder, run_folder
from tests.support.runs import finish, made


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


def test_a_folder_tells_all_about_its_run(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    assert run.look().state == "waiting" and run.look().total == 1 and run.outcome() is None
    assert run.job().to_plain() == made(backbone).to_plain() | {"decode_seconds": run.job().decode_seconds}
    states = []
    for _ in run.record(perform(run.job(), every=0, backbone=backbone)):
        states.append(run.look().state)
    assert list(dict.fromkeys(states)) == ["teaching", "checking"]
    status = RunFolder(tmp_path / "run").load().look()
    assert status.state == "done" and status.finished and (status.done, status.total) == (1, 1)
    assert [step for step, _ in status.losses] == list(range(1, 21)) and status.held[-1][0] == 20
    outcome = run.outcome()
    assert outcome.results["n"] == len(outcome.rows) > 0 and run.results().results == outcome.results
    assert not (tmp_path / "run" / "snapshot.safetensors").exists()
    with pytest.raises(NearlError, match="already"):
        run.create(made(backbone))
    with pytest.raises(NearlError, match="is finished"):
        start(run)
    with pytest.raises(NearlError, match="no run"):
        RunFolder(tmp_path).load()


def test_one_look_reads_one_file(backbone, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    events = run.record(perform(run.job(), backbone=backbone))
    for _ in range(7):
        next(events)
    read, locks = [], []
    real, lock = folders.Path.read_text, folders.FileLock
    monkeypatch.setattr(folders.Path, "read_text", lambda self, **how: read.append(self.name) or real(self, **how))
    monkeypatch.setattr(folders, "FileLock", lambda *some, **how: locks.append(some) or lock(*some, **how))
    assert run.look().state == "teaching"
    assert read == ["status.json"] and len(locks) == 1
    events.close()


def test_a_run_left_in_the_middle_is_interrupted_and_resumes(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    events = run.record(perform(run.job(), every=0, backbone=backbone))
    while not (step := next(events)) or not isinstance(step, Step) or step.step < 7:
        pass
    assert run.alive and run.look().state == "teaching"
    with pytest.raises(NearlError, match="another process"):
        next(RunFolder(run.path).record(iter([])))
    events.close()
    assert not run.alive and run.look().state == "interrupted"
    resumed = run.snapshot().about["run"]["step"]
    steps = [e.step for e in run.record(perform(run.job(), state=run.snapshot(), backbone=backbone))
             if isinstance(e, Step) and e.phase == "teaching"]  # fmt: skip
    assert steps == list(range(resumed + 1, 21))
    assert [step for step, _ in run.look().losses][-len(steps) :] == steps and run.look().state == "done"
    _, whole = finish(perform(made(backbone), backbone=backbone))
    assert run.outcome().adapter.version == whole.adapter.version


def test_a_comparison_keeps_its_rows_and_goes_on_where_it_was(backbone, tmp_path):
    job = made(backbone, methods=["zero-shot", "linear-probe", "nearl"], seeds=[0, 1], compared=True, shots=2, steps=2)
    run = RunFolder(tmp_path / "run").create(job)
    list(run.record(perform(run.job(), run.todo()[:2], backbone=backbone)))
    assert run.look().state == "waiting" and (run.look().done, run.look().total) == (2, 5)
    with (run.path / "rows.jsonl").open("a") as file:
        file.write('{"method": "nearl", "se')  # a process that was killed while it wrote
    assert run.todo() == [("nearl", 0), ("linear-probe", 1), ("nearl", 1)]
    (run.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run.rows))
    list(run.record(perform(run.job(), run.todo(), backbone=backbone)))
    assert run.look().state == "done" and run.todo() == [] and run.outcome() is None
    found = {line["method"]: line for line in scores(run.about, run.rows)}
    assert found["nearl"]["done"] == 2 and found["nearl"]["parameters"] > 0 and found["nearl"]["taught"] == 4
    assert found["zero-shot"]["few"] and found["zero-shot"]["done"] == 1
    assert run.adapter("nearl").meta["metrics"]["n"] == found["nearl"]["n"]
    with pytest.raises(NearlError):
        run.adapter("zero-shot")


def test_a_method_whose_process_died_has_failed_and_the_others_go_on(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone, methods=["nearl", "linear-probe"], compared=True))
    events = run.record(perform(run.job(), backbone=backbone))
    for _ in range(3):
        next(events)
    events.close()
    run.lost("Out of memory.")
    assert run.look().state == "waiting" and run.todo() == [("linear-probe", 0)]
    assert run.rows == [{"method": "nearl", "seed": 0, "error": "Out of memory."}]
    run.lost("It died before it began.")  # nothing was at work that has no row yet
    assert run.look().state == "failed" and run.look().error == "It died before it began."
    list(run.record(perform(run.job(), run.todo(), backbone=backbone)))
    assert run.look().state == "done"


def test_cancelling_a_run_that_waits(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    run.request_cancel()
    assert run.look().state == "cancelled" and run.look().finished and run.outcome() is None


def test_two_threads_may_write_at_once(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(step, "twice") for _ in range(100) for step in (run.wait, run.failed)]:
            done.result()
    assert run.look().state in ("waiting", "failed") and not list(run.path.glob(".*.partial"))


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
        yield Step("nearl", 0, "teaching", 1, 9, 1.0, 0.5, 1e-3)
        raise error

    run = RunFolder(tmp_path / "run").create(made(backbone))
    with pytest.raises(NearlError, match=says[:30]):
        list(run.record(events()))
    status = run.look()
    assert status.state == "failed" and says in status.error and "secret" not in status.error
    assert status.step == 1 and not run.alive


@pytest.mark.parametrize("name", ["job.json", "job.safetensors", "status.json"])
def test_a_damaged_run_says_which_file(backbone, tmp_path, name):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    (run.path / name).write_bytes(b'{"state": 3}')
    with pytest.raises(NearlError, match=name):
        run.look() if name == "status.json" else run.job()


def test_a_long_curve_is_thinned(backbone, tmp_path):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    list(run.record(Step("nearl", 0, "teaching", i, 1500, 1.0, 1 / i, 1e-3) for i in range(1, 1501)))
    steps = [step for step, _ in run.look().losses]
    assert len(steps) <= LONGEST_CURVE and steps == sorted(steps) and steps[-1] == 1500


# ------------------------------------------------------------------------------------------ of an earlier version


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_of_an_earlier_version_loads(portable, tmp_path, kind):
    checkpoint, _ = portable
    run = RunFolder(run_folder(kind, checkpoint, tmp_path / "run")).load()
    status = run.look()
    assert status.state == {"comparison": "done"}.get(kind, kind)
    assert run.about.alone == (kind != "comparison") and len(run.job().images) == len(run.about.labels)
    if kind == "comparison":
        assert (status.done, status.total) == (9, 9) and run.todo() == []
        for line in scores(run.about, run.rows):
            assert line["done"] and line["n"] == 4 and not line["error"]
        assert run.adapter("nearl:vision-only").meta["method"].startswith("nearl") and run.outcome() is None
    else:
        assert [step for step, _ in status.losses] == list(range(1, 17 if kind == "done" else 13))
    if kind in ("done", "cancelled"):
        outcome = run.outcome()
        assert outcome.adapter.meta["classes"] == ["one", "two"]
        assert (outcome.results is None) == (kind == "cancelled")
        assert len(outcome.rows) == (len(run.about.held) if kind == "done" else 0)


def test_a_run_of_before_knows_a_method_by_the_name_that_it_has_now(portable, backbone, tmp_path):
    run = RunFolder(run_folder("comparison", portable[0], tmp_path / "run"))
    for name in ("job.json", "rows.jsonl", "status.json"):  # as if that method had been among them
        path = run.path / name
        path.write_text(path.read_text().replace("tip-adapter-f", "alta"))
    (run.path / "adapters" / "tip-adapter-f").rename(run.path / "old")
    shutil.copytree(adapter_folder("alta"), run.path / "adapters" / "alta")
    lines = json.loads((run.path / "status.json").read_text()) | {"method": "alta"}
    (run.path / "status.json").write_text(json.dumps(lines))
    assert "alta-vision" in run.about.methods and "alta" not in run.about.methods
    assert run.todo() == [] and run.look().method == "alta-vision"
    assert run.adapter("alta-vision").meta["method"] == "alta-vision"
    plain = made(backbone, methods=["alta", "alta-vision"], compared=True)
    both = RunFolder(tmp_path / "new").create(plain)
    both.take_over(run)
    assert both.todo() == [("alta", 0)] and both.adapter("alta-vision").meta["config"]["options"]["rank"] == 4
    assert RunFolder(tmp_path / "new").about.methods == ["alta", "alta-vision"]


def test_an_interrupted_run_of_an_earlier_version_is_taught_again(portable, tmp_path):
    checkpoint, backbone = portable
    run = RunFolder(run_folder("interrupted", checkpoint, tmp_path / "run"))
    assert run.snapshot() is None and run.todo() == [("nearl", 0)]
    list(run.record(perform(run.job(), run.todo(), run.snapshot(), backbone=backbone)))
    assert run.look().state == "done" and [step for step, _ in run.look().losses] == list(range(1, 17))
    assert run.outcome().results["n"] == len(run.about.held)


def test_a_full_disk_is_a_sentence_and_leaves_no_half_file(backbone, tmp_path, monkeypatch):
    def full(tensors, path, *more):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "save_file", full)
        with pytest.raises(NearlError, match="disk may be full"):
            RunFolder(tmp_path / "run").create(made(backbone))
        assert list((tmp_path / "run").iterdir()) == []
    run = RunFolder(tmp_path / "run").create(made(backbone))

    def nothing_fits(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    def events():
        monkeypatch.setattr(folders.Path, "replace", nothing_fits)
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with pytest.raises(NearlError, match="disk is full"):
        list(run.record(events()))
    monkeypatch.undo()
    assert not list(run.path.glob(".*.partial")) and run.look().state == "interrupted"


def test_a_run_whose_folder_vanishes_is_not_being_worked_on(backbone, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    (run.path / "lock").touch()

    class Gone:
        def __init__(self, *given, **named):
            raise FileNotFoundError

    monkeypatch.setattr(folders, "FileLock", Gone)
    assert run.alive is False
