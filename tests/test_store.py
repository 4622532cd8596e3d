"""Adapters on disk: round trips, and one sentence for everything that is wrong with a file."""

import io
import json
import zipfile

import pytest
import torch
from safetensors.torch import save

from nearl.backbones import load_backbone
from nearl.errors import NearlError
from nearl.store import META, TENSORS, load_adapter, new_adapter, save_adapter, zip_adapter

IDENTITY = {"name": "somemodel", "config_sha256": "c" * 64, "weights": "w" * 64}


# of the first embedded backbone, which is no longer shipped
FIRST_EMBEDDED = {
    "name": "embedded",
    "config_sha256": "321331369725e26c060669a9515a518fbe68a392bca8baa0521d3d596f708ece",
    "weights": "bf1f8c9c56e5d495c0d3b37af2787035961a041fd64c2685a6584181ec17904a",
}


@pytest.fixture
def adapter():
    return new_adapter(
        {"a.weight": torch.randn(3, 4), "gate": torch.tensor(0.5)},
        backbone=IDENTITY,
        config={"rank": 3, "vision_layers": (0, 2)},
        classes=["one", "two"],
        prompts={"name": "p", "classes": [{"name": "one", "prompts": ["ü"]}, {"name": "two", "prompts": ["b"]}]},
        support_counts={"one": 3, "two": 4},
    )


def same(a, b):
    return (
        a.meta == b.meta
        and a.state.keys() == b.state.keys()
        and all(torch.equal(a.state[k], b.state[k]) for k in a.state)
        and a.version == b.version
    )


def test_round_trip_through_folder_zip_and_bytes(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path / "deep" / "folder")
    assert sorted(path.name for path in folder.iterdir()) == [META, TENSORS]
    assert same(load_adapter(folder, IDENTITY), adapter)
    path = zip_adapter(adapter, tmp_path / "adapter.zip")
    assert same(load_adapter(path, IDENTITY), adapter)
    assert same(load_adapter(path.read_bytes()), adapter)
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:  # a folder zipped by hand
        for file in folder.iterdir():
            archive.write(file, f"my adapter/{file.name}")
    assert same(load_adapter(tmp_path / "nested.zip"), adapter)


def test_saving_twice_replaces_the_first(adapter, tmp_path):
    save_adapter(adapter, tmp_path)
    adapter.state["gate"] += 1
    save_adapter(adapter, tmp_path)
    assert load_adapter(tmp_path).state["gate"] == 1.5


def test_what_is_written_says_what_it_is_for(adapter, tmp_path):
    meta = json.loads((save_adapter(adapter, tmp_path) / META).read_text())
    assert meta["notice"] == "For teaching and research. Not for diagnosis."
    assert {"format_version", "licence", "created", "support_counts", "backbone", "metrics"} <= meta.keys()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "other", "weights": "x"}, "taught on the model 'somemodel', not on the 'other'"),
        ({"weights": "x"}, "another version of 'somemodel'"),
        ({"config_sha256": "x"}, "another version of 'somemodel'"),
    ],
)
def test_another_backbone_is_refused(adapter, tmp_path, change, says):
    folder = save_adapter(adapter, tmp_path)
    with pytest.raises(NearlError, match=says):
        load_adapter(folder, IDENTITY | change)


def test_a_backbone_may_be_called_by_another_name(adapter, tmp_path):
    load_adapter(save_adapter(adapter, tmp_path), IDENTITY | {"name": "local-dir:copy"})


def rewrite(folder, **changes):
    meta = json.loads((folder / META).read_text()) | changes
    (folder / META).write_text(json.dumps(meta))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"a.weight": torch.zeros(3, 4)}, "not the ones that its adapter.json lists"),
        ({"a.weight": torch.zeros(4, 3), "gate": torch.tensor(0.0)}, "not the ones that its adapter.json lists"),
        ({"a.weight": torch.zeros(3, 4).half(), "gate": torch.tensor(0.0)}, "not float32"),
        ({"a.weight": torch.full((3, 4), torch.nan), "gate": torch.tensor(0.0)}, "not finite"),
    ],
)
def test_wrong_tensors_are_refused(adapter, tmp_path, tensors, says):
    folder = save_adapter(adapter, tmp_path)
    (folder / TENSORS).write_bytes(save(tensors))
    with pytest.raises(NearlError, match=says):
        load_adapter(folder)


def test_damaged_files_are_refused(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path)
    data = (folder / TENSORS).read_bytes()
    for broken in (b"", b"nonsense", data[:-5], b"\xff" * 8 + data[8:]):
        (folder / TENSORS).write_bytes(broken)
        with pytest.raises(NearlError, match="damaged or not a safetensors file"):
            load_adapter(folder)
    (folder / TENSORS).write_bytes(data)
    rewrite(folder, format_version=99)
    with pytest.raises(NearlError, match="format version 99; this program reads version 1"):
        load_adapter(folder)
    (folder / META).write_text("{")
    with pytest.raises(NearlError, match="not readable JSON"):
        load_adapter(folder)
    (folder / META).write_text('{"format_version": 1}')
    with pytest.raises(NearlError, match="lacks a proper 'method'"):
        load_adapter(folder)


@pytest.mark.parametrize(
    "changes", [{"tensors": [1]}, {"tensors": {"gate": 3}}, {"backbone": "x"}, {"classes": 5}, {"config": None}]
)
def test_adapter_json_of_the_wrong_shape_is_refused(adapter, tmp_path, changes):
    folder = save_adapter(adapter, tmp_path)
    rewrite(folder, **changes)
    with pytest.raises(NearlError):
        load_adapter(folder, IDENTITY)


def test_things_that_are_no_adapter_are_refused(tmp_path):
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("readme.txt", "hello")
    for source in (tmp_path, tmp_path / "image.png", tmp_path / "missing", b"nonsense", archive.getvalue()):
        with pytest.raises(NearlError) as error:
            load_adapter(source)
        assert "\n" not in str(error.value)


def test_an_adapter_of_the_first_embedded_backbone_is_refused_by_the_one_in_use(adapter):
    adapter.meta["backbone"] = FIRST_EMBEDDED
    with pytest.raises(NearlError, match="another version of 'embedded'"):
        adapter.check_backbone(load_backbone("embedded").identity)
