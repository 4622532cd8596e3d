"""Workspaces come and go, and visitors stay apart."""

from __future__ import annotations

import os
import shutil
import threading

from app.visitor import disk
from app.visitor import registry as registries
from app.visitor.disk import folder_bytes, remove_old_uploads
from app.visitor.registry import KEEP_SECONDS, Registry
from app.visitor.workspace import GRACE_SECONDS, IDLE_SECONDS
from nearl.data.phantoms.kinds import phantom_set

IMAGES = phantom_set("smear", 1, size=64).records


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


def test_whoever_has_images_is_not_evicted_by_any_number_of_empty_calls(tmp_path):
    registry = Registry(limit=3)
    one, two = registry.get(None), registry.get(None)
    one.viewing.bring(IMAGES, [])
    file = two.download("adapter.zip")
    file.touch()
    for _ in range(40):
        registry.get(None)
    assert registry.get(one.id).viewing.records == IMAGES
    assert registry.get(two.id) is two and file.exists()
    assert len(registry) <= 3


def test_an_event_that_works_in_an_empty_workspace_keeps_what_it_brings(tmp_path):
    registry = Registry(limit=1)
    mine = registry.get(None)  # the event has begun
    for _ in range(3):
        registry.get(None)
    mine.viewing.bring(IMAGES, [])  # and ends here
    key = mine.id
    del mine
    registry.get(None)
    assert registry.get(key).viewing.records == IMAGES


def test_beyond_the_limit_the_longest_unused_images_go_and_those_in_use_stay():
    now = [0.0]
    registry = Registry(limit=2, clock=lambda: now[0])
    visitors = [registry.get(None) for _ in range(4)]
    for visitor in visitors:
        visitor.viewing.bring(IMAGES, [])
    registry.get(None)
    for visitor in visitors:
        now[0] += 1
        assert registry.get(visitor.id) is visitor  # all are in use
    now[0] += GRACE_SECONDS + 1
    for visitor in visitors[2:]:
        registry.get(visitor.id)
    registry.get(None)
    found = [registry.get(visitor.id) is visitor for visitor in visitors]
    assert found == [False, False, True, True]


def test_the_folder_of_a_visitor_who_is_here_is_not_idle(tmp_path, monkeypatch):
    monkeypatch.setattr(registries, "MAX_ON_DISK", 0)
    registry = Registry(disk.Root(tmp_path / "root"), limit=1)
    mine = registry.get(None)
    mine.support.keep(phantom_set("smear", 1, size=64))
    key, path = mine.id, mine.path
    os.utime(path, (0, 0))
    del mine
    registry.get(key)  # the visitor does something, and is no longer in memory afterwards
    for _ in range(3):
        registry.get(None)
    registry.sweep_disk()
    assert registry.get(key).support.data is not None and path.is_dir()


# ---------------------------------------------------------------------------------------------------------- the sweeper


def vanishing(monkeypatch, folder):
    """Every look at the disk meets something that was removed a moment before."""
    real = os.scandir

    def scandir(path="."):
        if not isinstance(path, int) and str(path) != str(folder):  # rmtree itself looks through descriptors
            shutil.rmtree(path, ignore_errors=True)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def test_folders_that_vanish_while_they_are_looked_at_are_skipped(tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    for number in range(3):
        folder = uploads / (f"{number}" * 64) / "inside"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"1234")
    assert folder_bytes(uploads) == 12
    vanishing(monkeypatch, uploads)
    assert folder_bytes(uploads) == 0
    remove_old_uploads(uploads, float("inf"))
    shutil.rmtree(uploads)
    remove_old_uploads(uploads, float("inf"))
    assert folder_bytes(uploads) == 0


def test_one_file_that_cannot_be_deleted_does_not_keep_the_others(tmp_path, monkeypatch):
    uploads = tmp_path / "uploads"
    files = [uploads / (digit * 64) / "a.png" for digit in "123"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"1")
    real = type(files[0]).unlink

    def unlink(self, *given, **named):
        if self == files[0]:
            raise PermissionError
        real(self, *given, **named)

    monkeypatch.setattr(type(files[0]), "unlink", unlink)
    remove_old_uploads(uploads, float("inf"))
    assert [file.exists() for file in files] == [True, False, False]


def test_a_fresh_empty_folder_for_an_upload_stays_and_an_old_one_goes(tmp_path):
    uploads = tmp_path / "uploads"
    fresh, old = uploads / ("1" * 64), uploads / ("2" * 64)
    for folder in (fresh, old):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    remove_old_uploads(uploads, fresh.stat().st_mtime)
    assert fresh.exists() and not old.exists()


def test_the_sweeper_goes_on_whatever_it_meets(monkeypatch, caplog):
    caplog.set_level("ERROR")  # the command line quietens the root logger
    registry, swept = Registry(), threading.Semaphore(0)

    def sweep() -> None:
        swept.release()
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(registries, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(registry, "sweep", sweep)
    registry.sweep_regularly()
    for _ in range(4):
        assert swept.acquire(timeout=60)
    assert "RuntimeError" in caplog.text


def test_a_run_whose_files_cannot_be_read_is_not_going_on():
    class Gone:
        @property
        def finished(self) -> bool:
            raise FileNotFoundError

    registry = Registry()
    mine = registry.get(None)
    mine.runs.keep("run", Gone())
    assert not mine.busy and registry.get(mine.id) is mine


def test_a_visitor_who_comes_back_while_old_folders_are_deleted_keeps_theirs(tmp_path, monkeypatch):
    now = [1e9]
    registry = Registry(disk.Root(tmp_path / "root"), clock=lambda: now[0])
    paths = []
    for _ in range(2):
        visitor = registry.get(None)
        visitor.support.keep(phantom_set("smear", 1, size=64))
        visitor.stamp(now[0])
        paths.append((visitor.id, visitor.path))
    del visitor
    now[0] += KEEP_SECONDS + 1
    registry.sweep()
    real, others = shutil.rmtree, dict(paths)

    def rmtree(path, *given, **named):
        others.pop(next((key for key, its in others.items() if its == path), None), None)
        for key in others:
            registry.get(key)  # comes back just now
        real(path, *given, **named)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    registry.sweep_disk()
    assert [path.exists() for _, path in paths].count(True) == 1
