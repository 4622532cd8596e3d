"""A run as the page sees it: what one look costs, and what is read of earlier versions and of damaged files."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from pathlib import Path

import pytest
from gradio.context import LocalContext

from app.compare.html import going_on
from app.context import Context
from app.teach.run.html import badge, cancelling, progress
from app.visitor.pages import Pages
from app.visitor.registry import Registry
from app.work.queue import Queue
from app.work.run import COMPARE, TEACH, RunView, Shown
from nearl.errors import NearlError
from nearl.runs import ZERO_GPU
from nearl.runs.status import CANCELLED, CHECKING, DONE, FAILED, TEACHING, WAITING
from tests.support.app_work import until
from tests.support.zero_gpu import request

KEY = "0123456789abcdef"
DONE_ONE = {"state": "done", "total": 1}


def left(workspace, status: object, notes: object, kind=TEACH) -> RunView:
    """The run that an earlier server left in this workspace."""
    folder = workspace.path / kind.home / KEY
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("status.json", status), ("app.json", notes)):
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    workspace.runs.keep(kind.name, RunView(workspace, kind, KEY), KEY)
    workspace.runs.forget()
    return RunView.latest(workspace, kind)


@pytest.mark.parametrize(
    ("status", "notes", "state", "key"),
    [
        (
            DONE_ONE,
            {"data": [], "test": [], "shelf": "fedcba9876543210"},
            DONE,
            "fedcba9876543210",
        ),
        (DONE_ONE, {"data": [], "test": [], "shelf": ""}, DONE, ""),
        (
            DONE_ONE,
            {"data": [], "test": []},
            CHECKING,
            "",
        ),  # its adapter is to be put on the shelf yet
        ({"state": "teaching", "step": 3, "steps": 9, "total": 1, "later": 1}, {"starts": 1}, WAITING, ""),
        ({"state": "waiting", "total": 1}, {"cancelled": True, "extra": 1}, CANCELLED, ""),
        ({"state": "waiting", "total": 1}, {"error": "No."}, FAILED, ""),
        ("{", {"shelf": 7, "data": "x"}, FAILED, ""),
        ("{}", {}, FAILED, ""),
        ("[]", {}, FAILED, ""),
        ("[" * 3000, {}, FAILED, ""),
        ({"state": "done"}, {}, FAILED, ""),  # its job is gone
        (DONE_ONE, "[]", CHECKING, ""),
    ],
)
def test_what_an_earlier_server_left(workspace, status, notes, state, key):
    now = left(workspace, status, notes).look()
    assert (now.state, now.adapter_key, now.place) == (state, key, 0)
    assert bool(now.error) == (state == FAILED)


def test_a_run_that_was_asked_to_stop_says_so_until_it_has(workspace):
    view = left(workspace, {"state": "teaching", "step": 3, "steps": 9, "total": 1}, {})
    assert not view.look().cancelling
    (view.path / "cancel").touch()
    now = view.look()
    assert now.cancelling and "cancel" in badge(now) and "Cancelling" in cancelling(learned=True)
    (view.path / "status.json").write_text(json.dumps({"state": "cancelled", "total": 1}))
    view.note(shelf={})
    assert not view.look().cancelling


def test_a_run_that_has_ended_is_not_cancelled(workspace):
    view = left(workspace, DONE_ONE, {"data": [], "test": [], "shelf": ""})
    view.cancel()
    assert RunView.latest(workspace, TEACH).look().state == DONE


def test_the_adapters_of_a_comparison_are_known_by_method(workspace):
    view = left(workspace, DONE_ONE, {"shelf": {"lora": "fedcba9876543210"}, "rows": 2}, COMPARE)
    assert view.look().state == DONE and view.notes.shelf == {"lora": "fedcba9876543210"}
    view.note(shelf={**view.notes.shelf, "nearl": KEY})
    assert RunView(workspace, COMPARE, KEY).notes.shelf == {"lora": "fedcba9876543210", "nearl": KEY}


def counting(read, reads: list):
    def counted(path, *given, **options):
        reads.append(path.name)
        return read(path, *given, **options)

    return counted


def test_a_poll_of_the_page_reads_the_status_once(workspace, monkeypatch):
    view, reads = left(workspace, {"state": "waiting", "step": 3, "steps": 9, "total": 1}, {"data": []}), []
    for name in ("read_text", "read_bytes"):
        read = getattr(Path, name)
        monkeypatch.setattr(
            Path, name, lambda path, *a, _read=read, **k: reads.append(path.name) or _read(path, *a, **k)
        )
    now = view.look()
    assert (now.state, now.phase, now.step, now.steps, now.finished) == (WAITING, WAITING, 3, 9, False)
    assert now.losses == () and now.adapter_key == "" and now.place == 0
    assert [name for name in reads if name != "progress.jsonl"] == ["status.json"]


def test_damaged_results_are_as_none(workspace):
    view = left(workspace, DONE_ONE, {"shelf": ""})
    for text in ("{", "[]", '{"results": '):
        (view.path / "results.json").write_text(text)
        (view.path / "predictions.json").write_text(text)
        assert not view.results and not view.rows


async def _followed(view: RunView) -> list[Shown]:
    return [now async for now in view.follow()]


def test_following_ends_with_the_run(workspace, monkeypatch):
    monkeypatch.setattr("app.work.watch.POLL_SECONDS", 0.001)
    view, seen = left(workspace, {"state": "waiting", "phase": "", "total": 1}, {}), []
    following = threading.Thread(target=lambda: seen.extend(asyncio.run(_followed(view))), daemon=True)
    following.start()
    view.cancel()
    following.join(60)
    assert seen[-1].state == CANCELLED and all(not now.finished for now in seen[:-1])
    assert TEACHING not in [now.state for now in seen]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyError("x")])
def test_the_queue_goes_on_after_a_run_whose_failure_cannot_even_be_noted(failure):
    done = threading.Event()

    class Work:
        def __init__(self, fails: bool):
            self.fails, self.folder = fails, self

        def work(self) -> bool:
            if self.fails:
                raise failure
            done.set()
            return False

        def note(self, **changes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def forget_images(self) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

    queue = Queue()
    for fails in (True, False):
        queue.put(Work(fails))
    assert done.wait(60)


def test_on_a_zero_gpu_space_a_run_is_done_with_its_visitors_request(workspace, engine, monkeypatch):
    """The request is in the context of the thread that does the run, which is the queue's."""
    monkeypatch.setenv(ZERO_GPU, "true")
    ctx, asked, seen = Context(engine, Pages(Registry()), None, None), request("anna"), []
    token = LocalContext.request.set(asked)
    try:
        assert ctx.programs(None).runs.request is asked  # of any event of the visitor's
    finally:
        LocalContext.request.reset(token)

    def work(folder, give_way, gpu):
        seen.append((LocalContext.request.get(None), gpu))
        raise NearlError("enough")

    monkeypatch.setattr("nearl.runs.work", work, raising=False)
    for count, given in enumerate((asked, None), start=1):  # None: after a restart, until the visitor comes back
        workspace.runs.request = given
        view = left(workspace, {"state": "waiting", "total": 1}, {})
        view.queue = queue = Queue()
        queue.put(view)
        until(lambda view=view, count=count: view.finished and len(seen) == count)
    assert seen == [(asked, True), (None, False)] and LocalContext.request.get(None) is None


def test_a_note_on_how_a_run_is_done_is_shown(workspace):
    view = left(workspace, {"state": "waiting", "total": 1, "note": "No GPU."}, {})
    assert "No GPU." in progress("", 1, 2, 3.0, [], [], view.look().note)
    assert "No GPU." in going_on(0, 1, 2, "NEARL", None, view.look().note)
