"""The modality gap and the interaction of image and prompt, against examples worked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.measure.gap import Plane, gap_length, study
from nearl.measure.interaction import effects, interaction
from nearl.methods import METHODS, make
from tests.support.methods_data import shades, task_of, taught, write_set

HELD = shades(3, seed=9)


@pytest.fixture(scope="module")
def methods(tiny):
    """Every method, taught for a few steps on one task."""
    task = task_of(tiny("biomedclip"))
    return {name: taught(make(name, task), lr=1e-2) for name in METHODS}


# --- joint spaces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if not METHODS[name].card.ablates])
def test_embeddings_are_unit_and_give_the_logits_where_those_are_cosines(methods, name):
    method = methods[name]
    images, classes = method.embeddings(HELD.records)
    assert images.shape == (6, 32) and classes.shape == (2, 32)
    for x in (images, classes):
        assert x.dtype == torch.float32 and not x.requires_grad
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(len(x)), atol=1e-5, rtol=0)
    scale, task = method.task.backbone.logit_scale, method.task
    if name not in ("linear-probe", "text-probe", "tip-adapter", "tip-adapter-f", "nearl"):  # nearl has a partner
        with torch.no_grad():
            torch.testing.assert_close(scale * images @ classes.T, method.logits(HELD.records), atol=1e-4, rtol=1e-4)
    moved = {
        "image": {"clip-adapter", "prolip", "lora", "alta", "maple", "nearl"},
        "words": {"text-probe", "coop", "lora", "maple", "nearl"},
    }
    assert torch.allclose(images, task.images(HELD.records), atol=1e-5) == (name not in moved["image"])
    assert torch.allclose(classes, task.classes(), atol=1e-5) == (name not in moved["words"])


def test_a_text_probes_classes_are_prototype_plus_words(methods):
    probe = methods["text-probe"]
    w = probe.prototypes + probe.multipliers[:, None] * probe.task.classes()
    torch.testing.assert_close(probe.embeddings(HELD.records)[1], (w / w.norm(dim=-1, keepdim=True)).detach())


# --- the gap ----------------------------------------------------------------------------------------------------------


def test_gap_by_hand():
    images, classes = np.array([[1.0, 0, 0], [0, 1, 0]]), np.array([[0, 0, 1.0]])
    assert gap_length(images, classes) == pytest.approx(math.sqrt(0.25 + 0.25 + 1))
    assert gap_length(torch.tensor(images), torch.tensor(images)) == 0


def test_the_plane_is_sklearns_first_two_components():
    rng = np.random.default_rng(0)
    images, classes = rng.normal(size=(20, 7)) * np.arange(1, 8), rng.normal(size=(3, 7)) + 4
    both = np.concatenate([images, classes])
    plane, pca = Plane.fit(images, torch.tensor(classes)), PCA(2, svd_solver="full").fit(both)
    found, expected = plane.project(both), pca.transform(both)
    np.testing.assert_allclose(found * np.sign(found[0]), expected * np.sign(expected[0]), atol=1e-10)
    assert plane.share(both) == pytest.approx(pca.explained_variance_ratio_.sum())
    assert (np.take_along_axis(plane.axes, np.abs(plane.axes).argmax(1)[:, None], 1) > 0).all()
    with pytest.raises(NearlError, match="at least two"):
        Plane.fit(images[:1], images[:0])


def test_a_study_draws_every_method_in_the_frozen_plane(methods):
    rows = study(methods, HELD.records, HELD.labels)
    assert [row["name"] for row in rows] == list(methods) and json.loads(json.dumps(rows)) == rows
    by = {row["name"]: row for row in rows}
    task = methods["nearl"].task
    images, classes = (x.double().numpy() for x in (task.images(HELD.records), task.classes()))
    frozen = PCA(2).fit(np.concatenate([images, classes]))
    assert by["zero-shot"]["share"] == pytest.approx(frozen.explained_variance_ratio_.sum(), rel=1e-5)
    cosines = images @ classes.T
    own = np.take_along_axis(cosines, np.array(HELD.labels)[:, None], 1)
    assert by["zero-shot"]["own"] == pytest.approx(own.mean(), abs=1e-5)
    assert by["zero-shot"]["other"] == pytest.approx((cosines.sum(1, keepdims=True) - own).mean(), abs=1e-5)
    assert by["zero-shot"]["images"] == by["tip-adapter"]["images"] == by["coop"]["images"]
    assert by["prolip"]["images"] != by["zero-shot"]["images"]
    assert by["prolip"]["classes"] == by["zero-shot"]["classes"]
    assert by["nearl:image-context"] == {"name": "nearl:image-context", "error": by["nearl:image-context"]["error"]}
    assert "of its own" in by["nearl:image-context"]["error"]
    with pytest.raises(NearlError, match="no image"):
        study(methods, [], [])


# --- the interaction --------------------------------------------------------------------------------------------------


def test_a_sum_has_no_interaction_and_a_product_nothing_else():
    image, prompt = np.array([[3.0], [-1], [0.5]]), np.array([[2.0, -4, 1, 1]])
    assert effects(image + prompt)["score"] == pytest.approx(0, abs=1e-12)
    xor = np.array([[1.0], [-1]]) * np.array([[1.0, -1]])
    assert effects(xor) == {"score": 1, "interaction": 1, "image": 0, "prompt": 0}
    assert effects(np.ones((2, 3)))["score"] == 0


def test_two_by_two_by_hand():
    """v() = 1/2, v(image) = 1 or 0, v(prompt) = 1 or 0: every effect is 1/2 in size."""
    assert effects([[2, 0], [0, 0]]) == {"score": pytest.approx(1 / 3), "interaction": 0.5, "image": 0.5, "prompt": 0.5}


def test_a_background_of_its_own_by_hand():
    """One image with logits 4, 0 before a background that gives 1, 1: v() = 1, v(image) = 2, v(prompt) = 1."""
    found = effects([[4, 0]], [[1, 1], [1, 1]])
    assert found == {"score": pytest.approx(2 / 3), "interaction": 2.0, "image": 1.0, "prompt": 0.0}


def test_interaction_of_every_method(methods):
    for name, method in methods.items():
        found = interaction(method, HELD.records)
        assert 0 <= found["score"] <= 1 and found["interaction"] > 0, name
    method = methods["zero-shot"]
    f, t = (x.double().numpy() for x in method.embeddings(HELD.records))
    both = float(method.task.backbone.logit_scale) * (f - f.mean(0)) @ (t - t.mean(0)).T
    assert interaction(method, HELD.records)["interaction"] == pytest.approx(np.abs(both).mean(), rel=1e-4)
    support = method.task.support.records
    shifted, own = interaction(method, HELD.records, support), interaction(method, HELD.records)
    assert abs(shifted["prompt"] - own["prompt"]) > 1e-6
    with pytest.raises(NearlError, match="no image"):
        interaction(method, [])


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_numbers_and_a_figure(checkpoints, tmp_path, capsys):
    data, name = write_set(tmp_path / "shades"), f"local-dir:{checkpoints('biomedclip')}"
    command = ["gap", data, "--backbone", name, "--shots", "2", "--steps", "2"]
    chosen = ["--methods", "zero-shot, prolip,nearl:image-context"]
    main([*command, *chosen, "--out", str(tmp_path / "out"), "--json"])
    result = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in result["methods"]] == ["zero-shot", "prolip", "nearl:image-context"]
    assert result["classes"] == ["one", "two"] and len(result["labels"]) == len(result["methods"][0]["images"]) == 6
    assert all(0 <= row["interaction"]["score"] <= 1 for row in result["methods"])
    assert [row["error"] == "" for row in result["methods"]] == [True, True, False]
    files = result.pop("files")
    assert json.loads((tmp_path / "out" / "gap.json").read_text()) == result
    assert (tmp_path / "out" / "gap.png").read_bytes()[:4] == b"\x89PNG" and len(files) == 2
    main([*command, "--methods", "zero-shot"])
    said = capsys.readouterr().out
    assert f"{result['methods'][0]['gap']:.3f}" in said and "Not for diagnosis." in said
    with pytest.raises(SystemExit) as stop:
        main([*command, "--methods", "tip"])
    assert stop.value.code == 2 and "no method called 'tip'" in capsys.readouterr().err
