"""Workspaces come and go, and visitors stay apart."""

from __future__ import annotations

from app.visitor.registry import Registry
from app.visitor.workspace import GRACE_SECONDS, IDLE_SECONDS


def test_unknown_ids_get_a_new_workspace_and_visitors_stay_apart():
    registry = Registry()
    first, second = registry.get(None), registry.get("guess")
    assert first is not second
    assert second.id != "guess"
    assert registry.get(first.id) is first
    assert len({first.id, second.id, registry.get(None).id}) == 3


def test_workspaces_expire_and_take_their_files_along():
    now = [0.0]
    registry = Registry(clock=lambda: now[0])
    idle, left = registry.get(None), registry.get(None)
    folder = idle.download("x").parent
    registry.leave(left.id)
    now[0] = GRACE_SECONDS + 1
    registry.sweep()
    assert registry.get(left.id) is not left
    assert registry.get(idle.id) is idle
    now[0] += IDLE_SECONDS + 1
    registry.sweep()
    assert not folder.exists()
    assert registry.get(idle.id) is not idle


def test_a_workspace_that_is_teaching_is_kept():
    class Run:
        finished = False

        def cancel(self):
            raise AssertionError("must go on")

    now = [0.0]
    registry = Registry(limit=1, clock=lambda: now[0])
    busy = registry.get(None)
    busy.runs.keep("run", Run())
    now[0] = 10 * IDLE_SECONDS
    registry.get(None)
    assert registry.get(busy.id) is busy


def test_there_are_never_more_workspaces_than_allowed():
    registry = Registry(limit=3)
    for _ in range(10):
        registry.get(None)
    assert len(registry) <= 3
