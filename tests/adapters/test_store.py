"""Adapters on disk: round trips, and one sentence for everything that is wrong with a file."""

import io
import json
import re
import zipfile

import pytest
import torch
import yaml
from safetensors.torch import save

from nearl.adapters.card import CARD, card
from nearl.adapters.store import (
    LIMITS,
    META,
    TENSORS,
    adapter_files,
    load_adapter,
    new_adapter,
    save_adapter,
    zip_adapter,
)
from nearl.backbones import load_backbone
from nearl.errors import NearlError

IDENTITY = {"name": "somemodel", "config_sha256": "c" * 64, "weights": "w" * 64}


# of embedded backbones that are no longer shipped
EARLIER_EMBEDDED = {
    "first": "bf1f8c9c56e5d495c0d3b37af2787035961a041fd64c2685a6584181ec17904a",
    "second": "2f8ab26a7dff325183d91ee28949e4c45a26df9537f6234ae04a03679f323ba5",
    "third": "a3e6f0cc91bb69633e1785871ea840fce87718088f9d009c811f914899f84630",
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
    assert sorted(path.name for path in folder.iterdir()) == [CARD, META, TENSORS]
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


def test_no_path_of_this_machine_travels_with_an_adapter(adapter, tmp_path):
    identity = IDENTITY | {"name": "local-dir:/home/ann/secret project/model"}
    known = {key: adapter.meta[key] for key in ("config", "classes", "prompts", "support_counts")}
    folder = save_adapter(new_adapter(adapter.state, backbone=identity, **known), tmp_path)
    for path in folder.iterdir():
        assert b"secret" not in path.read_bytes()
    assert load_adapter(folder, identity).meta["backbone"]["name"] == "local-dir:model"
    with pytest.raises(NearlError, match="another version of 'local-dir:model'"):
        load_adapter(folder, identity | {"weights": "x"})


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


@pytest.mark.parametrize("version", EARLIER_EMBEDDED)
def test_an_adapter_of_an_earlier_embedded_backbone_is_refused_by_the_one_in_use(adapter, version):
    now = load_backbone("embedded").identity
    adapter.meta["backbone"] = now | {"weights": EARLIER_EMBEDDED[version]}
    with pytest.raises(NearlError, match="another version of 'embedded'"):
        adapter.check_backbone(now)


def card_of(adapter, **changes):
    adapter.meta |= changes
    return card(adapter.meta)


def test_old_files_without_name_trust_and_card_still_load(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path)
    meta = json.loads((folder / META).read_text())
    (folder / META).write_text(json.dumps({k: v for k, v in meta.items() if k not in ("name", "trust")}))
    (folder / CARD).unlink()
    assert load_adapter(folder, IDENTITY).version == adapter.version
    save_adapter(load_adapter(folder), tmp_path / "again")
    assert same(load_adapter(tmp_path / "again"), load_adapter(folder))


def test_name_and_trust_travel_and_a_changed_card_does_no_harm(adapter, tmp_path):
    made = new_adapter(
        adapter.state,
        **{k: adapter.meta[k] for k in ("backbone", "config", "classes", "prompts", "support_counts")},
        trust={"temperature": 1.5},
        name="  my\nadapter " + "x" * 200,
    )
    folder = save_adapter(made, tmp_path)
    (folder / CARD).write_bytes(b"\xff\xfe not a card")
    loaded = load_adapter(folder)
    assert loaded.meta["trust"] == {"temperature": 1.5}
    assert loaded.meta["name"].startswith("my adapter x") and len(loaded.meta["name"]) == 100


def test_the_folder_of_a_run_is_as_good_as_the_adapter_in_it(adapter, tmp_path):
    save_adapter(adapter, tmp_path / "run" / "adapter")
    assert same(load_adapter(tmp_path / "run"), adapter)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": 3}, "'name'"),
        ({"name": "x" * 101}, "'name'"),
        ({"trust": [1]}, "'trust'"),
        ({"metrics": "good"}, "'metrics'"),
        ({"classes": []}, "'classes'"),
        ({"classes": ["one", 2]}, "'classes'"),
        ({"support_counts": {"one": "many"}}, "'support_counts'"),
        ({"support_counts": {"one": -1}}, "'support_counts'"),
        ({"prompts": {"classes": []}}, "prompts in adapter.json .* has no class"),
        ({"prompts": {"classes": [{"name": "one", "prompts": []}]}}, "prompts in adapter.json .* empty prompt"),
    ],
)
def test_what_the_program_relies_on_is_checked_when_loading(adapter, tmp_path, changes, says):
    folder = save_adapter(adapter, tmp_path)
    rewrite(folder, **changes)
    with pytest.raises(NearlError, match=says):
        load_adapter(folder)


def test_json_that_breaks_readers_is_refused(adapter, tmp_path):
    folder = save_adapter(adapter, tmp_path)
    whole = (folder / META).read_text()
    for text in ("[" * 100_000, '{"a":' * 100_000, whole.replace('"one"', '"\\ud800"'), "9" * 10_000, "\ufeff{"):
        (folder / META).write_text(text)
        with pytest.raises(NearlError, match="not readable JSON"):
            load_adapter(folder)
    (folder / META).write_text(" " * (LIMITS[META] + 1))
    with pytest.raises(NearlError, match="too large"):
        load_adapter(folder)


def zipped(files, **options):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", **options) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return data.getvalue()


def test_hostile_zips_are_refused(adapter, tmp_path):
    files = list(adapter_files(adapter).items())
    two = [(f"{folder}/{name}", data) for folder in ("a", "b") for name, data in files]
    with pytest.raises(NearlError, match="more than one adapter"):
        load_adapter(zipped(two))
    for kind in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        with pytest.raises(NearlError, match="unusual way"):
            load_adapter(zipped(files, compression=kind))
    packed = bytearray(zipped(files, compression=zipfile.ZIP_DEFLATED))
    for at in range(40, len(packed) - 200, 7):  # damage anywhere is a sentence, never another error
        broken = bytes(packed[:at]) + bytes([packed[at] ^ 0xFF]) + bytes(packed[at + 1 :])
        try:
            load_adapter(broken)
        except NearlError as error:
            assert "\n" not in str(error)
    bomb = [(TENSORS, b"0" * (LIMITS[TENSORS] + 1)), (META, b"{}")]
    with pytest.raises(NearlError, match="unpacks to more"):
        load_adapter(zipped(bomb, compression=zipfile.ZIP_DEFLATED))
    archive = zipped([(META, b" " * 2**22 + b"{}"), files[0]], compression=zipfile.ZIP_DEFLATED)
    size = (2**22 + 2).to_bytes(4, "little")
    assert archive.count(size) == 2
    with pytest.raises(NearlError):  # a directory that understates a size
        load_adapter(archive.replace(size, (2).to_bytes(4, "little")))


FIGURES = {
    "n": 60, "balanced_accuracy": 0.746, "balanced_accuracy_interval": [0.62, 0.84], "accuracy": 0.75, "auroc": 0.912,
    "auroc_interval": [0.85, 0.96], "ece": 0.08,
    "recall": [{"class": "one", "right": 14, "n": 20, "recall": 0.7, "interval": [0.48, 0.86]}],
}  # fmt: skip


def test_the_card_says_what_a_reader_needs(adapter):
    frozen = {**FIGURES, "balanced_accuracy": 0.41, "balanced_accuracy_interval": [0.31, 0.52], "auroc": None}
    gain = {"value": 0.336, "interval": [-0.02, 0.5]}
    metrics = {"n": 60, "kind": "held-out", "few": True, "frozen": frozen, "adapted": FIGURES, "gain": gain}
    text = card_of(adapter, metrics=metrics, name="Lungs", trust={"temperature": 1.4, "conformal": {"0.9": 0.5}})
    for words in (
        "**For teaching and research. Not for diagnosis.**",
        "taught with 7 labelled images to tell 2 classes apart",
        "- `one` (3 images): `ü`",
        "kept aside and not taught (60 images)",
        "| balanced accuracy | 41 % (31 % to 52 %) | 75 % (62 % to 84 %) |",
        "| AUROC | too few images to say (0.85 to 0.96) | 0.91 (0.85 to 0.96) |",
        "balanced accuracy by +34 percentage points (−2 to +50)",
        "- `one`: 14 of 20 recognised after teaching, 70 % (48 % to 86 %)",
        "few images to measure with",
        "Guessing gives a balanced accuracy of 50 %",
        "temperature of 1.40",
        "90 % of images",
        "not the probability of a disease",
        "Not intended for any decision about a person",
        "inherits the terms of the model",
        "`somemodel`",
    ):
        assert words in text, words
    assert "not taught with it. The adapter" in card_of(adapter, metrics=metrics | {"kind": "folds"}).replace(
        "was ", ""
    )
    assert "Not measured" in card_of(adapter, metrics=None)


HOSTILE = [
    "<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](https://evil.example/a.png)", "https://evil.example",
    "a | b", "`", "``a``", "---\nlicense: mit\n---", "# heading", "@someone #12", "\u202egnp.exe", "&lt;b&gt;", "\\`",
    "a\r\n\r\n<img src=x onerror=alert(1)>", "*/{{7*7}}${7*7}", "\x00\x1b[31m", "```\n```", "x" * 5000, "\u2028y",
]  # fmt: skip


def outside_code(text):
    """The card's body without its code spans, read as CommonMark reads them, and without our own markup."""
    return re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", text.split("---\n", 2)[2])


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_from_the_file_is_markup_in_the_card(adapter, hostile):
    plain = card_of(adapter)
    recall = [{"class": hostile, "right": 1, "n": 2, "recall": 0.5, "interval": [hostile, 1]}]
    text = card_of(
        adapter,
        name=hostile,
        classes=[hostile, "two"],
        method=hostile,
        licence=hostile,
        created=hostile,
        recipe={hostile: hostile},
        backbone={"name": hostile, "weights": hostile, "config_sha256": hostile},
        support_counts={hostile: 3},
        prompts={"classes": [{"name": hostile, "prompts": [hostile] * 9}], "templates": [hostile]},
        metrics={"kind": hostile, "n": hostile, "too_few": hostile, "frozen": {"ece": hostile, "recall": recall},
                 "adapted": {"recall": recall, "auroc": float("nan"), "accuracy": 7}},
        trust={"temperature": hostile, "conformal": {hostile: 1}, "far": hostile},
    )  # fmt: skip
    assert text.split("---\n")[1] == plain.split("---\n")[1]  # the front matter is ours alone
    body = outside_code(text)
    assert "`" not in body and "<" not in body and "evil" not in body and "](" not in body and "alert" not in body
    assert not set("\u202e\x00\x1b\r\u2028") & set(text)
    assert all(line[:2] in ("", "- ", "# ", "##", "| ", "**") or line[0].isalpha() for line in body.splitlines())


def test_the_front_matter_is_yaml_and_holds_what_the_hub_reads(adapter):
    fields = yaml.safe_load(card(adapter.meta, "owner/model").split("---\n")[1])
    assert fields["library_name"] == "nearl-clip" and fields["base_model"] == "owner/model"
    assert "not-for-diagnosis" in fields["tags"] and fields["license"] == "other"


@pytest.mark.parametrize("value", [None, 3, "x", [], [1], {}, {"a": {}}, [[]], True, float("inf"), {"classes": [3]}])
def test_no_shape_of_adapter_json_breaks_the_card(adapter, value):
    for key in list(adapter.meta):
        assert "Not for diagnosis" in card(adapter.meta | {key: value})
    assert card({})
    assert card({"metrics": {"adapted": {"recall": value, "auroc": value}, "frozen": value}, "trust": {"far": value}})
