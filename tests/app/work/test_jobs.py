"""Teaching runs behind the page: the queue, cancelling, a worker that dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

import nearl.runs.teaching
from app.engine import Engine
from app.events import Act, Press
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from app.work.run import RunView
from nearl.adapters.store import Adapter
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.report.words import speaks_against
from nearl.runs.status import CANCELLED, DONE, FAILED, TEACHING, WAITING
from nearl.train.recipe import Recipe
from tests.support.app_work import PATIENCE, Threads, ended, until, visitor
from tests.support.methods_data import teach
from tests.support.runs import processes

pytestmark = pytest.mark.timeout(3 * PATIENCE)


def begin(engine: Engine, workspace: Workspace, steps: int) -> RunView:
    choice = teaching.Choice("quick", steps=steps, early_stop=False)
    return teaching.start(engine, workspace, gathering.prompts_for(workspace).to_dict(), choice)


def taught(engine: Engine) -> Adapter:
    """An adapter made in this process, in no time."""
    data = phantom_set("smear", 2, size=64)
    recipe = Recipe(steps=2, batch_size=2, augment="none")
    return teach(engine.backbone(), data, default_prompts(data.classes), recipe)


def test_runs_wait_in_line_and_a_cancelled_one_keeps_its_best(engine, registry, in_threads):
    first, second, third = (visitor(registry) for _ in range(3))
    runs = [begin(engine, first, 5000), begin(engine, second, 20), begin(engine, third, 20)]
    with pytest.raises(NearlError, match="still running"):
        begin(engine, first, 20)
    until(lambda: runs[0].look().place == 0)
    assert [run.look().place for run in runs] == [0, 1, 2]
    assert [run.look().state for run in runs[1:]] == [WAITING, WAITING]
    runs[1].cancel()
    assert (runs[1].look().state, runs[2].look().place) == (CANCELLED, 1)

    until(lambda: runs[0].look().step > 6)
    assert runs[0].look().state == TEACHING and runs[0].look().seconds_left > 0
    runs[0].cancel()
    assert ended(runs[0]).look().state == CANCELLED
    assert runs[0].look().stopped == CANCELLED and runs[0].look().step < 5000
    assert runs[0].look().losses[-1][0] == runs[0].look().step
    kept = first.shelf.items()
    assert [item.id for item in kept] == [runs[0].look().adapter_key]  # on the shelf, not in use
    assert first.shelf.adapter is None and not kept[0].in_use
    adapting.use(engine, first, kept[0].id)
    assert first.shelf.adapter is not None

    assert ended(runs[2]).look().state == DONE
    assert third.shelf.items()[0].in_use is not speaks_against(runs[2].results)
    assert runs[2].results["n"] == len(runs[2].rows) > 0
    assert (runs[1].look().step, second.shelf.items(), second.shelf.adapter) == (0, [], None)
    assert not list(registry.root.path.rglob("job.safetensors"))  # no images but those of the sets themselves


@pytest.mark.parametrize("worse", [False, True])
def test_an_adapter_that_the_check_speaks_against_is_only_offered(engine, registry, in_threads, monkeypatch, worse):
    def study(before, after, labels, classes, kind):
        right = np.eye(len(classes))[labels]
        return measured(*((right, 1 - right) if worse else (1 - right, right)), labels, classes, kind)

    measured = nearl.runs.teaching.study
    monkeypatch.setattr("nearl.runs.teaching.study", study)
    workspace = visitor(registry)
    run = ended(begin(engine, workspace, 5))
    (kept,) = workspace.shelf.items()
    assert kept.in_use is not worse and run.look().adapter_key == kept.id
    pressed = Press(Act.USE, {"run": run.key, "item": kept.id})
    teaching.use(engine, workspace, teaching.pressed_result(workspace, pressed)[1])
    assert workspace.shelf.items()[0].in_use and workspace.shelf.adapter is not None
    adapting.delete(workspace, kept.id)
    with pytest.raises(NearlError, match="no longer there"):
        teaching.use(engine, workspace, teaching.pressed_result(workspace, pressed)[1])


def test_a_worker_that_dies_ends_its_run_alone_and_the_old_adapter_reads_on(engine, registry, monkeypatch, quick_hosts):
    workspace, next_one = visitor(registry), visitor(registry)
    old = workspace.shelf.put(taught(engine))
    adapting.use(engine, workspace, old)
    run, waiting = begin(engine, workspace, 5000), begin(engine, next_one, 10)
    until(lambda: run.look().step > 0)
    reading.bring(workspace, [("image 1", _png(workspace))])
    reading.read(engine, workspace, workspace.viewing.prompts.to_dict())
    assert run.look().state == TEACHING
    assert workspace.viewing.prediction.adapted is not None and workspace.shelf.in_use == old

    Threads(monkeypatch, engine)  # for what is next
    (worker,) = processes(str(run.path))
    os.kill(worker, signal.SIGKILL)
    assert ended(run).look().state == FAILED
    assert "memory" in run.look().error and run.look().error.count(".") == 1  # what the system kills for
    assert workspace.shelf.in_use == old and len(workspace.shelf.items()) == 1
    assert ended(waiting).look().state == DONE
    assert not workspace.busy


def _png(workspace: Workspace) -> Path:
    return next((workspace.path / "set" / "images").glob("*.png"))


def test_a_run_that_takes_every_server_down_is_given_up(engine, registry, monkeypatch):
    monkeypatch.setattr("app.work.run.MAX_STARTS", 0)
    run = ended(begin(engine, visitor(registry), 20))
    assert run.look().state == FAILED
    assert "again and again" in run.look().error
