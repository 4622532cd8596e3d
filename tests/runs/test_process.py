"""Runs in processes of their own, whose end ends nothing else; and in the calls of a ZeroGPU Space."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from nearl.runs import RunFolder, process, start
from nearl.runs.status import STARTING
from nearl.train.memory import NO_MEMORY
from tests.support.plugins import plugged
from tests.support.runs import PATIENCE, made, processes, until


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


def test_a_worker_teaches_crashes_alone_and_another_goes_on(backbone, tmp_path, quick_hosts):
    run = RunFolder(tmp_path / "run").create(made(backbone, steps=4000))  # more than it ever takes
    worker = start(run, every=0)
    until(lambda: (run.path / "snapshot.safetensors").exists() and run.look().step > 5)
    assert worker.wait(0) and run.alive and run.look().state == "teaching"
    score = Path(f"/proc/{worker.process.pid}/oom_score_adj")
    assert not score.exists() or score.read_text().strip() == "1000"  # the first to go
    os.kill(worker.process.pid, signal.SIGKILL)  # as the system does where memory runs out
    assert not worker.wait()
    assert run.look().state == "failed" and run.look().error == NO_MEMORY
    assert run.outcome() is None

    worker = start(run, every=0)
    until(lambda: run.look().phase == "teaching")
    if not isinstance(worker.process, subprocess.Popen):
        os.kill(worker.process.pid, signal.SIGSTOP)  # so that it cannot notice
        worker.process.host.process.kill()
        assert not worker.wait() and run.look().state == "failed"
        until(lambda: not run.alive)
    worker.kill()

    before = run.snapshot().about["run"]["step"]
    assert before >= 5
    worker = start(run, every=1)  # it can be tried again, and goes on where it was
    until(lambda: run.look().phase == "teaching")
    run.request_cancel()
    worker.wait()
    assert run.look().state == "cancelled"
    assert run.outcome().adapter.meta["recipe"]["steps_taken"] >= 5
    steps = [step for step, _ in run.look().losses]
    assert steps == sorted(steps) and steps[0] == 1 and steps[-1] >= before


@pytest.fixture
def many_files():
    """As many open files as a server with a thousand visitors has."""
    held = [os.open(os.devnull, os.O_RDONLY)]
    with contextlib.suppress(OSError):  # fewer are allowed here
        held += [os.dup(held[0]) for _ in range(1100)]
    yield
    for number in held:
        os.close(number)


@pytest.fixture
def plugin():
    """The toy plugin, in this process and in the workers of runs; without it afterwards."""
    with plugged():
        yield "toy"


def test_workers_of_one_host_are_processes_of_their_own_and_teach_a_plugins_method(
    backbone, tmp_path, many_files, plugin, monkeypatch, request
):
    monkeypatch.setenv("NEARL_TEST", "another host")  # and none that an earlier test has left
    runs = [RunFolder(tmp_path / name).create(made(backbone, methods=[plugin])) for name in ("a", "b", "c")]
    first = start(runs[0])
    assert not first.wait() and runs[0].look().state == "done"
    second = start(runs[1])
    assert second.process.host is first.process.host and second.process.pid != first.process.pid
    assert not second.wait() and runs[1].look().state == "done"
    adapter = runs[0].outcome().adapter
    assert adapter.meta["method"] == plugin and adapter.version == runs[1].outcome().adapter.version
    second.process.host.process.kill()  # while it has nothing to do
    second.process.host.process.wait()
    request.getfixturevalue("quick_hosts")
    third = start(runs[2])
    third.kill()  # while it is being started
    assert third.process.poll() is not None and not runs[2].look().finished
    assert not process.work(runs[2]) and runs[2].look().state == "done"


def test_a_cancelled_run_that_has_learned_nothing_is_not_waited_for(backbone, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run").create(made(backbone))
    looks = []

    class Busy:
        """With its imports, during which it does not notice."""

        def __init__(self, run):
            self.run = run

        def wait(self, timeout):
            looks.append(timeout)
            assert len(looks) < 9
            if len(looks) > 3:
                run.request_cancel()
            return True

        def kill(self):
            looks.append("killed")

    def begin(run):
        run.wait(STARTING)
        return Busy(run)

    monkeypatch.setattr(process, "start", begin)
    monkeypatch.setattr(process, "PATIENCE", 0.0)
    assert not process.work(run)
    assert looks[-1] == "killed" and run.look().state == "cancelled" and run.outcome() is None


def test_a_failure_in_the_worker_is_told_in_its_own_words(backbone, tmp_path, quick_hosts):
    broken = made(backbone)
    broken.backbone["name"] = "nothing"
    run = RunFolder(tmp_path / "run").create(broken)
    assert not process.work(run)
    assert run.look().state == "failed" and "no backbone called 'nothing'" in run.look().error


def test_a_comparison_gives_way_between_methods_and_outlives_a_process(backbone, tmp_path, quick_hosts):
    job = made(backbone, methods=["zero-shot", "linear-probe", "nearl"], compared=True, steps=300)
    run = RunFolder(tmp_path / "run").create(job)
    assert process.work(run, lambda: True)  # as soon as a method is finished
    assert run.look().state == "waiting" and run.rows
    left = run.todo()

    def kill_nearl():
        status = run.look()
        if status.method == "nearl" and status.step > 2:
            for pid in processes(str(run.path)):
                os.kill(pid, signal.SIGKILL)
        return False

    assert ("nearl", 0) in left and not process.work(run, kill_nearl)
    assert run.look().state == "done" and "memory" in run.rows[-1]["error"]
    assert not process.work(run)  # nothing is left to do


def _begin(run, pid):
    pid.value = start(run, every=0).process.pid
    time.sleep(PATIENCE)


def test_a_worker_that_is_not_forked_ends_with_a_parent_that_is_killed(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "FORKS", False)  # of forked ones a test of the page says so
    run = RunFolder(tmp_path / "run").create(made(backbone, steps=2000))
    fork = multiprocessing.get_context("fork")  # it need not import anything
    worker = fork.Value("i", 0)
    parent = fork.Process(target=_begin, args=(run, worker), daemon=True)
    parent.start()
    until(lambda: (run.path / "snapshot.safetensors").exists())
    parent.kill()
    parent.join()
    until(lambda: not run.alive)
    assert run.look().state == "interrupted" and run.snapshot() is not None
    until(lambda: not os.path.exists(f"/proc/{worker.value}"))
