"""Turns: who gets a thread next, and that waiting for a run needs none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading

import httpx
import pytest

from app.door.rules import Rules
from app.page import Settings, build_app, launch_options
from app.teach.run import actions as teaching
from app.work import lanes, watch
from app.work.lanes import Lane
from app.work.run import TEACH, RunView
from app.work.watch import Watch
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.runs.status import TEACHING, Status
from tests.support.app_server import free_port

WAITERS = 60  # more than Gradio has threads


def test_visitors_take_turns_and_hold_few_slots_each():
    order = []

    async def call(lane: Lane, visitor: str) -> None:
        async with lane.turn(visitor):
            order.append(visitor)
            await asyncio.sleep(0)

    async def main() -> None:
        lane = Lane(slots=1)
        await asyncio.gather(*(call(lane, name) for name in "aaaaaabbc"))

    asyncio.run(main())
    assert "".join(order) == "aabcabaaa"

    async def crowd() -> list[str]:
        lane, held = Lane(slots=4, each=2), []

        async def hold(visitor: str) -> None:
            async with lane.turn(visitor):
                held.append(visitor)
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(hold(name)) for name in "aaaaab"]
        await asyncio.sleep(0.01)
        found = list(held)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with lane.turn("c"), lane.turn("c"), lane.turn("d"), lane.turn("d"):  # all slots came back
            return found

    assert sorted(asyncio.run(crowd())) == ["a", "a", "b"]


def test_a_visitor_with_too_many_requests_is_told_so_and_others_are_not():
    async def call(lane: Lane, visitor: str) -> str:
        async with lane.turn(visitor):
            return visitor

    async def main() -> list:
        lane = Lane(slots=1)
        async with lane.turn("a"):
            calls = [asyncio.create_task(call(lane, name)) for name in "a" * (lanes.MOST_WAITING + 1) + "b"]
            await asyncio.sleep(0)
        return await asyncio.gather(*calls, return_exceptions=True)

    *mine, refused, other = asyncio.run(main())
    assert mine == ["a"] * lanes.MOST_WAITING and other == "b"
    assert isinstance(refused, NearlError) and "waiting already" in str(refused)


def test_everybody_who_follows_a_run_shares_one_look_at_it(monkeypatch):
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    looks, most = [], watch.MOST_FOLLOWERS

    def look() -> Status:
        looks.append(threading.active_count())
        return Status(state=TEACHING if len(looks) < 4 else "done", step=len(looks), total=1)

    async def follow(watching: Watch) -> list[int]:
        return [now.step async for now in watching.follow()]

    async def main() -> list:
        watching = Watch(look)
        followers = [asyncio.create_task(follow(watching)) for _ in range(most + 1)]
        return await asyncio.gather(*followers, return_exceptions=True)

    first, *others = asyncio.run(main())
    assert isinstance(first, NearlError)  # the oldest of too many
    assert others == [[1, 2, 3, 4]] * most and len(looks) == 4


def test_events_of_pages_that_never_open_wait_without_a_thread(page, monkeypatch):
    """A page's event may come before its opening; whoever sends such events alone holds nobody up."""
    config = httpx.get(f"{page.removesuffix('/gradio_api')}/config", timeout=60).json()
    event = next(d for d in config["dependencies"] if d["api_visibility"] == "private" and d["api_name"] == "on_cancel")
    monkeypatch.setattr("app.page.PATIENCE", 600)
    with httpx.Client(timeout=60) as client:
        for number in range(WAITERS):
            body = {"data": [None], "fn_index": event["id"], "session_hash": f"never opened {number}"}
            client.post(f"{page}/queue/join", json=body).raise_for_status()
        answer = client.post(f"{page}/call/shelf", json={"data": []}).json()["event_id"]
        assert '"adapters": []' in client.get(f"{page}/call/shelf/{answer}").text


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The page without a model, as it is served; its address."""
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path / "root")))
    page.queue(default_concurrency_limit=None)
    port = free_port()
    page.launch(server_port=port, prevent_thread_lock=True, **launch_options(Rules()))
    yield f"http://127.0.0.1:{port}/gradio_api"
    page.close()


def test_those_who_wait_for_a_run_are_in_nobodys_way(page, monkeypatch):
    started = []

    def start(engine, workspace, *_) -> RunView:
        view = RunView(workspace, TEACH, f"{len(started):016x}")
        view.path.mkdir(parents=True)
        (view.path / "status.json").write_text(json.dumps({"state": "waiting", "phase": "", "total": 1}))
        started.append(view)
        return view

    monkeypatch.setattr(teaching, "start", start)
    monkeypatch.setattr("app.teach.images.actions.bring", lambda *_, **__: None)
    body = {"data": [None, default_prompts(["a", "b"]).to_dict(), "quick"]}
    before = threading.active_count()
    with httpx.Client(timeout=60) as client:
        for _ in range(WAITERS):
            client.post(f"{page}/call/teach", json=body).raise_for_status()
        while len(started) < WAITERS:
            answer = client.post(f"{page}/call/shelf", json={"data": []}).json()["event_id"]
            assert '"adapters": []' in client.get(f"{page}/call/shelf/{answer}").text
        answer = client.post(f"{page}/call/shelf", json={"data": []}).json()["event_id"]
        assert '"adapters": []' in client.get(f"{page}/call/shelf/{answer}").text
    assert threading.active_count() < before + WAITERS
    for view in started:
        with contextlib.suppress(NearlError):
            view.cancel()
