"""The modality gap and the interaction of image and prompt, against examples worked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neural_network import MLPClassifier

from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.measure.gap import Plane, gap_length, study
from nearl.measure.interaction import effects, interaction, intershap
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
    # of the rest some have a part beside the cosine, and some learn another scale
    if name in ("zero-shot", "clip-adapter", "coop", "prolip", "lora", "alta-vision", "maple"):
        with torch.no_grad():
            torch.testing.assert_close(scale * images @ classes.T, method.logits(HELD.records), atol=1e-4, rtol=1e-4)
    moved = {
        "image": {"clip-adapter", "prolip", "lora", "alta", "alta-vision", "maple", "bridge", "nearl"},
        "words": {"text-probe", "coop", "lora", "alta", "maple", "bridge", "nearl"},
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


def test_intershap_of_four_answers_by_hand():
    """v(both) = 4, v(image) = 1, v(prompt) = 2, v() = 0: half the interaction is 1/2, the main effects are 1 and 2."""
    assert intershap([[4.0]], [[1.0]], [[2.0]], 0.0) == pytest.approx(0.5 / 3.5)
    assert intershap([[4.0], [0.0]], [[1.0], [0.0]], [[2.0], [0.0]], 0.0) == pytest.approx(0.5 / 3.5 / 2)


def _bits(count, seed):
    return np.random.default_rng(seed).integers(0, 2, (count, 2))


def test_intershap_reproduces_the_published_exclusive_or_where_its_function_is_known():
    """Wenderoth et al., their row "XOR": the exclusive or of two bits, one in each modality (synergy, 99.7), or both in
    the same one (uniqueness, 0 and 0.2). A modality is hidden by other samples there, and the answers averaged."""
    ours, others = _bits(200, 0), _bits(50_000, 1)
    chance = (others[:, 0] ^ others[:, 1]).mean()
    alone = [np.array([(bit ^ others[:, 1 - side]).mean() for bit in ours[:, side]]) for side in (0, 1)]
    both = ours[:, 0] ^ ours[:, 1]
    assert 0.95 < intershap(both, *alone, chance) < 1
    for one, other in ((both, np.full(200, chance)), (np.full(200, chance), both)):
        assert intershap(both, one, other, chance) == pytest.approx(0, abs=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_intershap_puts_redundancy_and_chance_between_one_modality_and_both():
    """The published order: uniqueness, redundancy (38.6), random labels (57.8), synergy. Theirs are networks and data
    of their own, so that only the order can be expected of small ones; a modality is hidden by its mean."""
    rng, found = np.random.default_rng(0), {}
    noisy = lambda bits: np.repeat(2.0 * bits - 1, 4 // bits.shape[1], 1) + rng.normal(0, 0.3, (len(bits), 4))  # noqa: E731
    for kind in ("uniqueness", "redundancy", "random", "synergy"):
        bits, nothing = _bits(900, 2), rng.normal(0, 1, (900, 4))
        first = noisy(bits[:, :1] if kind in ("synergy", "random") else bits)
        second = nothing if kind == "uniqueness" else noisy(bits if kind == "redundancy" else bits[:, 1:])
        label = rng.integers(0, 2, 900) if kind == "random" else bits[:, 0] ^ bits[:, 1]
        model = MLPClassifier((16, 16), max_iter=60, learning_rate_init=0.01, random_state=0)
        model.fit(np.concatenate([first, second], 1)[:600], label[:600])
        hidden = [np.broadcast_to(part[:600].mean(0), (300, 4)) for part in (first, second)]
        answer = lambda a, b: model.predict_proba(np.concatenate([a, b], 1))  # noqa: B023, E731
        shown = first[600:], second[600:]
        alone = answer(shown[0], hidden[1]), answer(hidden[0], shown[1])
        found[kind] = intershap(answer(*shown), *alone, answer(*hidden))
    assert sorted(found, key=found.get) == ["uniqueness", "redundancy", "random", "synergy"], found


def test_interaction_of_every_method(methods):
    for name, method in methods.items():
        found = interaction(method, HELD.records)
        assert 0 <= found["score"] <= 1 and 0 <= found["intershap"] <= 1 and found["interaction"] > 0, name
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
