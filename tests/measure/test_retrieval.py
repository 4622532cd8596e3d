"""Precision and recall of what is found, against examples worked by hand, and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.measure.intervals import share, wilson
from nearl.measure.retrieval import figures, study
from nearl.methods import make
from nearl.reading.gallery import Entry, Gallery, Seer
from tests.support.methods_data import PROMPTS, shades, task_of, write_set


def test_figures_by_hand():
    """Two queries of one kind before 12 images: the first finds 3 of 3 at once, the second its only one in place 5."""
    order = -np.tile(np.arange(12.0), (2, 1))
    relevant = np.zeros((2, 12), bool)
    relevant[0, :3] = relevant[1, 4] = True
    found = figures(order, relevant)
    assert found["n"] == 2 and found["chance"] == pytest.approx((3 / 12 + 1 / 12) / 2)
    value = lambda what, k: found[what][str(k)]["value"]  # noqa: E731
    assert [value("precision", k) for k in (1, 5, 10)] == pytest.approx([0.5, (3 / 5 + 1 / 5) / 2, 0.2])
    assert [value("recall", k) for k in (1, 5, 10)] == pytest.approx([(1 / 3 + 0) / 2, 1, 1])
    assert found["precision"]["1"]["interval"] == pytest.approx(wilson(1, 2))
    low, high = found["recall"]["5"]["interval"]
    assert low < 0.7 and high == 1  # no point where every query was answered


def test_kinds_count_equally_and_what_is_not_allowed_is_not_found():
    similarity = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1]])
    relevant = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], bool)
    assert figures(similarity, relevant, kinds=["a", "a", "b"])["precision"]["1"]["value"] == pytest.approx(0.5)
    allowed = np.array([[0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    found = figures(similarity, relevant, allowed)
    assert found["n"] == 2  # the first has nothing left that could be found
    assert found["precision"]["5"]["value"] == pytest.approx(1 / 3)  # of the three that are there
    with pytest.raises(NearlError, match="could be found"):
        figures(similarity, np.zeros((3, 3)))
    assert share(0.5, 10) == pytest.approx(wilson(5, 10))


@pytest.fixture(scope="module")
def seer(tiny):
    return Seer(make("zero-shot", task_of(tiny("clip"))))


def _gallery(seer, part=lambda i: "", group=lambda i: "", text=lambda i: ""):
    data = shades(6, seed=4)
    names = [data.classes[label] for label in data.labels]
    entries = [Entry(f"{i}.png", name.upper(), part(i), group(i), text(i)) for i, name in enumerate(names)]
    return Gallery(entries, seer.images(data.records))


def test_a_study_asks_with_test_images_prompts_and_captions(seer):
    alone = study(seer, _gallery(seer))
    assert alone.keys() == {"images"} and alone["images"]["queries"] == alone["images"]["among"] == 12
    assert alone["images"]["before"]["precision"]["1"]["value"] > 0.9 and alone["images"]["after"] is None
    assert alone["images"]["before"]["chance"] == pytest.approx(5 / 11)
    with pytest.raises(NearlError, match="could be found"):  # a patient's images do not find each other
        study(seer, _gallery(seer, group=lambda i: str(i // 6)))
    with pytest.raises(NearlError, match="nothing to measure with"):
        study(seer, Gallery([Entry("a.png")], seer.images(shades(1).records[:1])))

    test = lambda i: "test" if i % 6 < 2 else "train"  # noqa: E731
    found = study(seer, _gallery(seer, test, text=lambda i: f"number {i}" if i < 2 or i == 8 else ""), PROMPTS)
    assert (found["images"]["queries"], found["images"]["among"], found["images"]["split"]) == (4, 8, True)
    assert (found["sentences"]["queries"], found["sentences"]["among"]) == (3, 4)
    assert found["pairs_to_images"]["images"] == found["pairs_to_texts"]["texts"] == 2  # the test images with a text
    image, text = _gallery(seer).places.frozen[:2], seer.texts(["number 0", "number 1"]).frozen
    right = torch.equal((text @ image.T).argmax(1), torch.arange(2))
    assert (found["pairs_to_images"]["before"]["recall"]["1"]["value"] == 1) == right


def test_the_command_finds_evaluates_and_refuses(checkpoints, tmp_path, capsys):
    data, model = write_set(tmp_path / "shades", per_class=12), ["--backbone", f"local-dir:{checkpoints('clip')}"]
    common = ["retrieve", data, *model, "--index", str(tmp_path / "index.sqlite")]
    (tmp_path / "shades" / "captions.csv").write_text("file,text\ntest/one/0.png,a dark square\n")
    (tmp_path / "shades" / "test" / "one" / "bad.png").write_bytes(b"no image")
    teach = ["finetune", data, *model, "--shots", "4", "--steps", "2", "--out", str(tmp_path / "run"), "--json"]
    main(teach)
    capsys.readouterr()

    def run(*words):
        main([*common, *words, "--json"])
        return json.loads(capsys.readouterr().out)

    image = str(tmp_path / "shades" / "test" / "one" / "0.png")
    found = run("--image", image, "--k", "3")
    assert found["results"][0]["file"] == "test/one/0.png" and found["results"][0]["score"] == pytest.approx(
        1, abs=1e-4
    )
    assert [row["label"] for row in found["results"]] == ["one"] * 3 and "before" not in found
    assert found["gallery"] == {"images": 30, "indexed": 30, "classes": {"one": 15, "two": 15}}
    assert found["texts"] == [{"text": "a dark square", "score": found["texts"][0]["score"]}]
    assert len(found["left_out"]) == 1 and "test/one/bad.png" in found["left_out"][0] and found["refused"] == ""

    taught = run("--text", "a dark square", "--adapter", str(tmp_path / "run"))
    assert len(taught["results"]) == len(taught["before"]) == 10 and taught["gallery"]["indexed"] == 30
    assert [row["score"] for row in taught["results"]] == sorted((r["score"] for r in taught["results"]), reverse=True)
    measured = run("--evaluate", "--adapter", str(tmp_path / "run"))["evaluation"]
    assert measured.keys() == {"images", "sentences", "pairs_to_images", "pairs_to_texts"}
    assert all(row["after"]["precision"]["10"]["value"] <= 1 for row in measured.values())

    rng = np.random.default_rng(0)
    odd = tmp_path / "odd.png"
    Image.fromarray(np.kron(rng.integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255, np.ones((8, 8, 1), np.uint8))).save(
        odd
    )
    refused = run("--image", str(odd))
    assert refused["results"] == [] and "unlike all 30 images" in refused["refused"]
    assert len(run("--image", str(odd), "--anyway", "--k", "2")["results"]) == 2
    main([*common, "--image", str(odd)])
    assert "--anyway" in capsys.readouterr().out
    main([*common, "--text", "a dark square", "--adapter", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "before teaching" in said and "after teaching" in said and "Not for diagnosis." in said
    for words, reason in (
        (["--text", "x", "--evaluate"], "one of --text"),
        (["--image", "nowhere.png"], "no image at 'nowhere.png'"),
        (["--text", "x", "--k", "0"], "1 or more"),
        (["--text", "x", "--captions", "nowhere.csv"], "no table of texts"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*common, *words])
        assert stop.value.code == 2 and reason in capsys.readouterr().err
