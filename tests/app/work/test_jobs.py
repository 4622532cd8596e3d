"""Teaching runs behind the page: the queue, cancelling, a worker that dies, a server that is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from gradio_client import Client, handle_file

from app.engine import Engine
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from app.work.run import RunView
from nearl.adapters.store import Adapter, zip_adapter
from nearl.data.phantoms.kinds import phantom_set, write_phantom_folder
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.runs import RunFolder
from nearl.runs.status import CANCELLED, DONE, FAILED, INTERRUPTED, TEACHING, WAITING
from nearl.train.loop import FEWEST_STEPS
from nearl.train.recipe import Recipe
from tests.support.app_server import open_page, serve
from tests.support.app_work import PATIENCE, ended, processes, until, visitor
from tests.support.methods_data import teach

pytestmark = pytest.mark.timeout(3 * PATIENCE)


def begin(engine: Engine, workspace: Workspace, steps: int) -> RunView:
    choice = teaching.Choice("quick", steps=steps, early_stop=False)
    return teaching.start(engine, workspace, gathering.prompts_for(workspace).to_dict(), choice)


def taught(engine: Engine) -> Adapter:
    """An adapter made in this process, in no time."""
    data = phantom_set("smear", 2, size=64)
    recipe = Recipe(steps=2, batch_size=2, augment="none")
    return teach(engine.backbone(), data, default_prompts(data.classes), recipe)


def test_runs_wait_in_line_and_a_cancelled_one_keeps_its_best(engine, registry):
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
    assert len(runs[0].look().losses) == runs[0].look().step
    kept = first.shelf.items()
    assert [item.id for item in kept] == [runs[0].look().adapter_key]  # on the shelf, not in use
    assert first.shelf.adapter is None and not kept[0].in_use
    adapting.use(engine, first, kept[0].id)
    assert first.shelf.adapter is not None

    assert ended(runs[2]).look().state == DONE
    assert third.shelf.adapter is not None and third.shelf.items()[0].in_use
    assert runs[2].results["n"] == len(runs[2].rows) > 0
    assert (runs[1].look().step, second.shelf.items(), second.shelf.adapter) == (0, [], None)
    assert not list(registry.root.path.rglob("job.safetensors"))  # no images but those of the sets themselves


def test_a_worker_that_dies_ends_its_run_alone_and_the_old_adapter_reads_on(engine, registry):
    workspace, next_one = visitor(registry), visitor(registry)
    old = workspace.shelf.put(taught(engine))
    adapting.use(engine, workspace, old)
    run, waiting = begin(engine, workspace, 5000), begin(engine, next_one, 10)
    until(lambda: run.look().step > 0)
    reading.bring(workspace, [("image 1", _png(workspace))])
    reading.read(engine, workspace, workspace.viewing.prompts.to_dict())
    assert run.look().state == TEACHING
    assert workspace.viewing.prediction.adapted is not None and workspace.shelf.in_use == old

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


def test_a_killed_server_resumes_and_loses_nothing(engine, checkpoints, tmp_path):
    task = write_phantom_folder(tmp_path / "head", "head_mri", train=6, test=4, size=64)
    archive = handle_file(shutil.make_archive(str(task), "zip", task))
    picture = handle_file(next((task / "test").glob("*/*.png")))
    adapter = handle_file(zip_adapter(taught(engine), tmp_path / "adapter.zip"))
    backbone, kept = f"local-dir:{checkpoints('clip')}", tmp_path / "workspaces"
    with serve(backbone, tmp_path / "first.log") as server:
        client = Client(server.url, verbose=False)
        key = open_page(server, client.session_hash)
        client.predict(adapter, api_name="/use_adapter")
        going_on = client.submit(archive, None, "thorough", api_name="/teach")
        until(lambda: any(update["step"] for update in going_on.outputs()))
        server.process.kill()
        server.process.wait(60)
        until(lambda: not processes(str(kept)))  # the worker has noticed
    (run,) = kept.glob("workspaces/*/runs/*")
    until(lambda: RunFolder(run).look().state == INTERRUPTED)
    before = len(RunFolder(run).look().losses)
    assert not list(kept.rglob("*.zip")) and key not in str(list(kept.rglob("*")))

    with serve(backbone, tmp_path / "second.log") as server:
        client = Client(server.url, verbose=False)
        assert open_page(server, client.session_hash, key) == key
        shares = client.predict([picture], None, api_name="/predict")["predictions"][0]
        assert shares["adapted"] is not None  # by the adapter of before
        until(lambda: len(RunFolder(run).look().losses) > before + FEWEST_STEPS)  # it goes on, whichever step it was at
        client.predict(api_name="/cancel")
        until(lambda: client.predict(api_name="/run")["state"] in (CANCELLED, DONE))
        assert len(client.predict(api_name="/shelf")["adapters"]) == 2
        stranger = Client(server.url, verbose=False)
        assert open_page(server, stranger.session_hash) != key
        assert stranger.predict(api_name="/run") == {"state": None}
        assert "Traceback" not in server.console() and key not in server.console()
    assert len(list(kept.glob("workspaces/*/set/images/*.png"))) == 20
