"""What one visitor and all together may hold: files on disk and decoded images in memory."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.visitor import limits
from app.visitor import workspace as workspaces
from app.visitor.disk import Root, folder_bytes
from app.visitor.registry import Registry
from app.visitor.workspace import GRACE_SECONDS, IDLE_SECONDS
from nearl.data.formats.volume import Scan
from nearl.data.images import ImageRecord
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError

SCAN = 20 * 64 * 64 * 2  # bytes


@pytest.fixture
def now():
    return [1e9]


@pytest.fixture
def registry(tmp_path, now):
    return Registry(Root(tmp_path / "root"), clock=lambda: now[0])


def scan(name: str = "scan") -> ImageRecord:
    ones = np.ones((1, 20))
    return ImageRecord.from_scan(name, Scan(np.ones((1, 20, 64, 64), np.int16), ones, ones))


def labelled(seed: int = 0):
    return phantom_set("smear", 3, seed=seed, size=64)


# ---------------------------------------------------------------------------------------------------------------- disk


def test_prompts_and_the_list_of_images_count_towards_what_a_workspace_may_hold(registry, monkeypatch):
    mine = registry.get(None)
    mine.support.keep(labelled())
    monkeypatch.setattr(workspaces, "MAX_BYTES", folder_bytes(mine.path) + 20_000)
    long = {"classes": [{"name": "a", "prompts": ["x" * 30_000]}]}
    with pytest.raises(NearlError, match="full"):
        gathering.keep_prompts(mine, long)
    monkeypatch.undo()
    gathering.keep_prompts(mine, long)
    with pytest.raises(NearlError, match="prompts are too long"):
        gathering.keep_prompts(mine, {"classes": [{"name": "a", "prompts": ["x" * 2_000_000]}]})
    assert Registry(registry.root).get(mine.id).support.data.prompts == long


def test_what_an_adapter_says_of_itself_counts_too(registry, monkeypatch, tiny):
    from nearl.adapters.store import new_adapter

    mine = registry.get(None)
    prompts = {"name": "x", "classes": [{"name": "a", "prompts": ["an image"]}]}
    adapter = new_adapter(
        {}, backbone={"name": "x", "config_sha256": "", "weights": ""}, config={"note": "y" * 50_000}, classes=["a"],
        prompts=prompts, support_counts={"a": 1},
    )  # fmt: skip
    monkeypatch.setattr(workspaces, "MAX_BYTES", 40_000)
    with pytest.raises(NearlError, match="full"):
        mine.shelf.put(adapter)


def test_all_workspaces_together_have_a_limit_and_unused_ones_make_room(registry, now, monkeypatch):
    one, two, three = (registry.get(None) for _ in range(3))
    one.support.keep(labelled())
    one.stamp(now[0])
    size = folder_bytes(one.path)
    monkeypatch.setattr(limits, "ALL_DISK", int(2.5 * size))
    registry.get(two.id).support.keep(labelled(1))
    with pytest.raises(NearlError, match="all visitors"):
        three.support.keep(labelled(2))
    assert one.path.exists() and three.support.data is None
    now[0] += IDLE_SECONDS + 1
    registry.get(two.id).stamp(now[0])
    registry.get(three.id).support.keep(labelled(2))
    assert not one.path.exists() and two.path.exists()


def test_the_sweeper_looks_at_the_size_of_each_folder(registry, monkeypatch):
    one, two = registry.get(None), registry.get(None)
    one.support.keep(labelled())
    later = Registry(registry.root)  # a server that starts with the folders of an earlier one
    later.sweep_disk()
    monkeypatch.setattr(limits, "ALL_DISK", int(1.5 * folder_bytes(one.path)))
    with pytest.raises(NearlError, match="all visitors"):
        later.get(two.id).support.keep(labelled(1))


# -------------------------------------------------------------------------------------------------------------- memory


def test_labelled_images_leave_memory_and_are_read_from_disk_again_as_they_were(registry):
    mine = registry.get(None)
    data, test = labelled(), labelled(1)
    data.records = [replace(record, name=f"Anna {i}.png") for i, record in enumerate(data.records)]
    data.groups, data.name, data.ours = [f"patient {i % 2}" for i in range(len(data))], "anna.zip", False
    mine.support.keep(data, test)
    held = mine.memory
    assert held >= sum(record.pixels.nbytes for record in data.records)
    mine.support.unload()
    assert mine.memory == 0
    again, more = mine.support.data, mine.support.held_out
    assert mine.memory == held
    assert (again.classes, again.labels, again.groups, again.name) == (
        data.classes,
        data.labels,
        data.groups,
        data.name,
    )
    for old, new in ((data, again), (test, more)):
        assert [r.name for r in new.records] == [r.name for r in old.records]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(old.records, new.records, strict=True))


def test_images_that_are_not_on_disk_any_more_stay_in_memory(registry):
    mine = registry.get(None)
    mine.support.keep(labelled())
    next(mine.path.rglob("*.png")).unlink()
    mine.support.unload()
    assert len(mine.support.data) == len(labelled())


def test_where_memory_is_short_strangers_labelled_images_go_to_disk_and_idle_visitors_images_are_put_away(
    registry, now, monkeypatch
):
    one, two, three = (registry.get(None) for _ in range(3))
    one.support.keep(labelled())
    monkeypatch.setattr(limits, "ALL_MEMORY", 2 * SCAN + 50_000)
    monkeypatch.setattr(limits, "SMALL", 0)
    for visitor in (one, two):
        visitor.check_memory(SCAN)
        visitor.viewing.bring([scan()], [])
    assert one.support.memory == 0 and one.viewing.records and one.support.data is not None
    with pytest.raises(NearlError, match="other visitors"):  # all of it is in use
        three.check_memory(SCAN)
    assert one.viewing.records and two.viewing.records
    now[0] += GRACE_SECONDS + 1
    registry.get(two.id)
    three.check_memory(SCAN)
    assert not one.viewing.records and two.viewing.records
    with pytest.raises(NearlError, match="put away"):
        reading.read(None, one, {})


def test_a_visitors_images_have_a_limit_each_and_in_all_and_those_that_are_there_stay_where_others_are_refused(
    registry, tmp_path, monkeypatch
):
    mine, files = registry.get(None), []
    for seed in range(3):
        files.append(tmp_path / f"{seed}.png")
        phantom_set("smear", 1, seed=seed, size=64).records[0].image().save(files[-1])
    reading.bring(mine, files[:1])
    monkeypatch.setattr(limits, "EACH_MEMORY", 2 * mine.memory)
    reading.bring(mine, files)
    assert [record.name for record in mine.viewing.records] == ["0.png", "1.png"]
    assert [problem.name for problem in mine.viewing.problems] == ["2.png"]
    reading.bring(mine, files[:1])
    monkeypatch.setattr(limits, "ALL_MEMORY", 2 * mine.memory)
    monkeypatch.setattr(limits, "SMALL", 0)
    other = registry.get(None)
    reading.bring(other, files[:1])
    reading.bring(other, files[1:2])  # in the place of the first
    with pytest.raises(NearlError, match="other visitors"):
        reading.bring(other, files[:2])
    assert [record.name for record in other.viewing.records] == ["1.png"]


def test_whoever_has_small_images_is_not_refused_because_others_have_large_ones(registry, monkeypatch):
    monkeypatch.setattr(limits, "ALL_MEMORY", SCAN)
    monkeypatch.setattr(limits, "SMALL", SCAN // 4)
    registry.get(None).viewing.bring([scan(), scan()], [])
    other = registry.get(None)
    other.check_memory(SCAN // 4)
    with pytest.raises(NearlError, match="other visitors"):
        other.check_memory(SCAN)


def test_what_is_being_used_is_not_put_away(registry, now):
    mine = registry.get(None)
    mine.support.keep(labelled())
    mine.viewing.bring([scan()], [])
    with mine.lock:
        for step in (mine.support.unload, mine.viewing.put_away):
            other = threading.Thread(target=step)
            other.start()
            other.join(60)
            assert not other.is_alive()
    assert mine.viewing.records and mine.support.memory
