"""What is read from a workspace's folder: files of earlier versions, and files with anything in them."""

from __future__ import annotations

import json

import pytest

from app.visitor.registry import Registry
from app.visitor.shelf import Entry
from nearl.data.phantoms.kinds import phantom_set

KEY = "0123456789abcdef"
ENTRY = {
    "name": "mine", "classes": ["a", "b"], "created": "2026-01-01T10:00:00Z", "method": "nearl",
    "support_counts": {"a": 4, "b": 4},
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
    assert shelf_entry(workspace, json.dumps(ENTRY)).model_dump(mode="json") == {**ENTRY, "id": KEY, "in_use": False}
    assert shelf_entry(workspace, json.dumps({**ENTRY, "later": 1})).name == "mine"
    for missing in ENTRY:
        less = {name: value for name, value in ENTRY.items() if name != missing}
        assert shelf_entry(workspace, json.dumps(less)).id == KEY


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
