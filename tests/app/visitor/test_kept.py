"""What is read from a workspace's folder: files of earlier versions, and files with anything in them."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from app.events import sentence
from app.teach.images import actions as gathering
from app.visitor.registry import Registry
from app.visitor.shelf import Entry
from app.visitor.workspace import Workspace
from nearl.adapters.store import new_adapter
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError

KEY = "0123456789abcdef"
ENTRY = {
    "name": "mine", "classes": ["a", "b"], "created": "2026-01-01T10:00:00Z", "method": "nearl",
    "support_counts": {"a": 4, "b": 4}, "backbone": {"name": "embedded", "config_sha256": "c", "weights": "w"},
    "figures": {"n": 8, "before": {"value": 0.5, "interval": [0.2, 0.8]}, "after": {"value": 0.75, "interval": None}},
}  # fmt: skip
BROKEN = [
    "", "[]", "null", "7", "{", "{}", "\0", '"x"', "[" * 100_000,
    '{"data": 7, "name": [], "in_use": {}, "run": "../../x", "classes": null, "figures": "x", "created": 1}',
    '{"in_use": null, "comparison": "%", "data": {"classes": ["a"], "images": ["../../../x"], "labels": [0]}}',
    '{"data": {"classes": ["a"], "images": ["aa"], "labels": [9]}, "support_counts": {"a": "many"}, "id": "other"}',
    '{"data": {"classes": ["a"], "images": ["aa", "bb"], "labels": [0]}, "test": {}}',
    '{"figures": {"n": 8, "before": {"value": 7}, "after": {"value": "NaN"}}}',
    '{"figures": {"n": 8, "before": {"value": NaN}, "after": {"value": -Infinity}}, "extra": {"deep": [1]}}',
]  # fmt: skip


def shelf_entry(workspace, text: str) -> Entry | None:
    path = workspace.path / "shelf" / KEY / "entry.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return workspace.shelf.entry(KEY)


@pytest.mark.parametrize("text", BROKEN)
def test_anything_can_be_in_the_files_and_nothing_is_raised(workspace, registry, text):
    shelf_entry(workspace, text)
    for name in ("state.json", "set/set.json"):
        path = workspace.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = Registry(registry.root).get(workspace.id)
    assert all(item.id == KEY and item.figures is None for item in found.shelf.items())
    assert found.shelf.in_use == "" and found.shelf.adapter is None and found.viewing.prompts is None
    assert (found.runs.key("run"), found.runs.key("comparison")) == ("", "")
    assert found.support.data is None or len(found.support.data) == 0
    found.support.keep(phantom_set("smear", 1, size=64))
    assert len(Registry(registry.root).get(workspace.id).support.data) == 2


def test_an_entry_is_read_as_it_was_written_and_with_keys_too_many_or_too_few(workspace):
    assert shelf_entry(workspace, json.dumps(ENTRY)).model_dump(mode="json") == {
        **ENTRY,
        "form": 1,
        "several": False,
        "id": KEY,
        "in_use": False,
    }
    assert shelf_entry(workspace, json.dumps({**ENTRY, "later": 1})).name == "mine"
    for missing in ENTRY:
        less = {name: value for name, value in ENTRY.items() if name != missing}
        assert shelf_entry(workspace, json.dumps(less)).id == KEY


def adapter(name: str = "mine"):
    prompts = {"name": "x", "classes": [{"name": "a", "prompts": ["an image"]}, {"name": "b", "prompts": ["a b"]}]}
    about = {"config": {}, "classes": ["a", "b"], "prompts": prompts, "support_counts": {"a": 1, "b": 2}}
    return new_adapter({}, backbone={"name": "x", "config_sha256": "", "weights": ""}, name=name, **about)


def changes(content: dict) -> list[dict]:
    """The same with a key too many, and with each key, also inside, missing or of another type."""
    found = [{**content, "of a later version": {"deep": [1]}}]
    for name, value in content.items():
        found.append({key: kept for key, kept in content.items() if key != name})
        for wrong in (7, "x" * 5000, [{"a": 1}], None, -1e400, "\ud800", 10**40):
            if type(wrong) is not type(value):
                found.append({**content, name: wrong})
        if isinstance(value, dict):
            found += [{**content, name: changed} for changed in changes(value)]
    return found


def test_a_key_too_many_missing_or_of_another_type_is_skipped_with_a_note(workspace, registry):
    key = workspace.shelf.put(adapter())
    workspace.shelf.use(key)
    workspace.support.keep(phantom_set("smear", 1, size=64), phantom_set("smear", 1, seed=1, size=64))
    assert workspace.shelf.notes() == []
    files = [workspace.path / name for name in (f"shelf/{key}/entry.json", "state.json", "set/set.json")]
    for path in files:
        sound = path.read_text()
        for content in changes(json.loads(sound)):
            path.write_text(json.dumps(content))
            found = Workspace(workspace.id, workspace.path)  # as a server that was started again
            (item,) = found.shelf.items()
            assert item.id == key
            json.dumps(item.model_dump(), ensure_ascii=False, allow_nan=False).encode()
            data, notes = found.support.data, found.shelf.notes()
            if data is not None:
                gathering.editor_value(found)
            notes += [problem.reason for problem in (*found.support.problems, *(data.problems if data else ()))]
            if "of a later version" in content:
                assert any("of a later version" in note for note in notes)
            assert all(note.endswith(".") and len(note) < 400 for note in notes)
            if path.name == "state.json":
                assert notes or found.shelf.in_use == key or "in_use" not in content
            if path.name == "set.json" and data is None:
                assert notes or "data" not in content or content["data"] is None
        path.write_text("{")
        found = Workspace(workspace.id, workspace.path)
        found.support.keep(phantom_set("smear", 1, size=64))  # the visitor goes on
        found.shelf.use(key)
        path.write_text(sound)
    assert Workspace(workspace.id, workspace.path).shelf.notes() == []


def test_an_adapter_without_its_entry_is_shown_as_its_own_file_says(workspace):
    key = workspace.shelf.put(adapter("Monday"))
    entry = workspace.path / "shelf" / key / "entry.json"
    for damage in (lambda: entry.write_text("\0"), entry.unlink):
        damage()
        (item,) = workspace.shelf.items()
        assert (item.name, item.classes, item.support_counts) == ("Monday", ["a", "b"], {"a": 1, "b": 2})
        assert "Monday" in " ".join(workspace.shelf.notes())
    (entry.parent / "adapter.json").write_text("{")
    assert workspace.shelf.items() == [] and "damaged" in " ".join(workspace.shelf.notes())
    workspace.shelf.put(adapter())


def test_an_adapter_in_use_that_cannot_be_read_is_noted(workspace, registry):
    key = workspace.shelf.put(adapter())
    workspace.shelf.use(key)
    (workspace.path / "shelf" / key / "adapter.safetensors").write_bytes(b"")
    found = Registry(registry.root).get(workspace.id)
    assert found.shelf.adapter is None and "cannot be read" in " ".join(found.shelf.notes())
    found.shelf.use(None)
    assert found.shelf.notes() == []


def test_an_image_with_a_damaged_entry_is_named_and_the_others_stay(workspace, registry):
    data = phantom_set("smear", 2, size=64)
    workspace.support.keep(data)
    path = workspace.path / "set" / "set.json"
    content = json.loads(path.read_text())
    content["data"]["images"][1], content["data"]["labels"][2] = "../../x", "many"
    path.write_text(json.dumps(content))
    found = Registry(registry.root).get(workspace.id).support.data
    assert [record.digest for record in found.records] == [data.records[i].digest for i in (0, 3)]
    assert {"image 2", "image 3"} <= {problem.name for problem in found.problems}


# ------------------------------------------------------------------------------------------------- a disk that fails


def modes(folder: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


def test_a_folder_that_vanished_is_made_again_at_use_and_is_for_the_server_alone(registry, workspace):
    mine = registry.get(workspace.id)
    mine.support.keep(phantom_set("smear", 1, size=64))
    key = mine.shelf.put(adapter())
    mine.shelf.use(key)
    assert modes(mine.path) == {0o600, 0o700}
    for gone in (registry.root.workspaces, registry.root.path):
        shutil.rmtree(gone)
        again = registry.get(workspace.id)
        again.support.keep(phantom_set("smear", 1, size=64))
        again.shelf.use(again.shelf.put(adapter()))
        again.download("x").touch(mode=0o600)
        assert modes(registry.root.path) == {0o600, 0o700}
        assert len(Registry(registry.root).get(workspace.id).support.data) == 2
    shutil.rmtree(registry.root.path)
    registry.sweep_all()
    assert registry.root.workspaces.is_dir() and registry.root.uploads.is_dir()


def test_a_full_disk_is_a_sentence_and_what_was_there_stays(workspace, registry, monkeypatch):
    workspace.support.keep(phantom_set("smear", 1, size=64))
    key = workspace.shelf.put(adapter())
    workspace.shelf.use(key)
    before = sorted(path for path in workspace.path.rglob("*"))
    real = Path.replace

    def replace(self, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    for step in (
        lambda: workspace.support.keep(phantom_set("smear", 3, seed=1, size=64)),
        lambda: workspace.shelf.put(adapter()),
        lambda: workspace.shelf.rename(key, "other"),
        lambda: workspace.shelf.use(None),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", replace)
            with pytest.raises((OSError, NearlError)) as full:
                step()
        assert "disk is full" in sentence(full.value)
        assert sorted(path for path in workspace.path.rglob("*")) == before
    assert Path.replace is real
    found = Registry(registry.root).get(workspace.id)
    assert len(found.support.data) == 2 and found.shelf.entry(key).name == "a, b" and found.shelf.in_use == key


def test_a_set_of_an_earlier_version_tells_by_its_name_that_it_is_synthetic(workspace, registry):
    workspace.support.keep(phantom_set("smear", 1, size=64))
    path = workspace.path / "set" / "set.json"
    content = json.loads(path.read_text())
    assert content["data"].pop("synthetic") is True
    for name, synthetic in (("Synthetic example, Blood smear", True), ("your images", False)):
        content["data"]["name"] = name
        path.write_text(json.dumps(content))
        assert Registry(registry.root).get(workspace.id).support.data.synthetic is synthetic


def test_an_image_that_is_gone_is_named_and_the_others_stay(workspace, registry):
    data = phantom_set("smear", 2, size=64)
    workspace.support.keep(data)
    (workspace.path / "set" / "images" / f"{data.records[1].digest}.png").unlink()
    found = Registry(registry.root).get(workspace.id).support.data
    assert [record.digest for record in found.records] == [data.records[i].digest for i in (0, 2, 3)]
    assert [problem.name for problem in found.problems] == ["image 2"]


def test_a_workspace_that_keeps_nothing_has_no_folder(workspace):
    workspace.shelf.use(None)
    workspace.support.forget()
    assert not workspace.path.exists()
