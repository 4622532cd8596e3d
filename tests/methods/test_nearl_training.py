"""NEARL's own training: on every tower family, its warm start, and the pull towards the frozen model."""

import math

import pytest
import torch
import torch.nn.functional as F

from nearl.measure.evaluate import measure
from nearl.methods.nearl.anchor import MOST, Anchor
from nearl.prompts import default_prompts
from nearl.train.recipe import Recipe
from tests.support.methods_data import shades, started
from tests.support.reading import reader

CLASSES = ["one", "two"]


def asked(labels):
    """The one question of two classes, with these answers."""
    return [(slice(0, 2), torch.arange(len(labels)), torch.as_tensor(labels))]


def test_the_anchor_holds_as_far_as_the_frozen_model_reads(tiny):
    backbone = tiny("clip")
    texts, labels = [backbone.tokenize([name]) for name in CLASSES], torch.tensor([0, 1, 0, 1])
    own = Anchor(backbone, texts, torch.eye(backbone.embed_dim)[:2], asked([0, 1]), 1.0).classes
    assert Anchor(backbone, texts, own.repeat(2, 1), asked(labels), 2.0).weight == 2 * MOST
    unsure = F.normalize(1.02 * own + own.flip(0), dim=-1).repeat(2, 1)
    anchor = Anchor(backbone, texts, unsure, asked(labels), 2.0)
    loss = F.cross_entropy(anchor.logits(unsure), labels).item()
    assert 0 < loss < math.log(2) and anchor.weight == pytest.approx(2 * (math.log(2) / loss - 1), rel=1e-4)
    assert Anchor(backbone, texts, unsure, asked(1 - labels), 2.0).weight == 0.0  # worse than a guess: not followed
    assert anchor.loss(unsure, anchor.logits(unsure)).item() == pytest.approx(0.0, abs=1e-5)
    other = anchor.logits(unsure.flip(0))
    p, q = anchor.logits(unsure).softmax(-1), other.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    assert anchor.loss(unsure, other).item() == pytest.approx((anchor.weight * divergence).item(), rel=1e-3)


def test_the_anchor_sees_every_class_however_many_there_are(tiny, monkeypatch):
    monkeypatch.setattr("nearl.methods.nearl.method.ANCHOR_IMAGES", 1)
    recipe = Recipe(steps=2, batch_size=2, augment="none", precision="float32")
    assert len(list(started(tiny("clip"), recipe)[1])) == 2


def test_the_warm_start_teaches_the_text_side_alone(tiny):
    backbone = tiny("clip")
    recipe = Recipe(steps=8, batch_size=4, warm_start=0.5, augment="none", precision="float32")
    method, run = started(backbone, recipe)
    moved = lambda side: [adapter.w_o.weight.abs().max() > 0 for adapter in method.updates(side).values()]  # noqa: E731
    for _ in range(4):
        next(run)
    assert not any(moved("vision")) and all(moved("text"))
    next(run)
    assert all(moved("vision"))
    assert len(list(started(backbone, recipe, text_layers=())[1])) == 4  # nothing to teach alone


def test_per_image_context_learns_too(tiny):
    recipe = Recipe(steps=30, batch_size=6, lr=3e-3, precision="float32", augment="none")
    *_, last = started(tiny("clip"), recipe, text_context="image")[1]
    assert last.loss < 0.6


def test_it_learns_and_generalises_on_every_tower_family(backbone):
    recipe = Recipe(steps=40, batch_size=8, lr=3e-3, precision="float32", augment="none")
    method, run = started(backbone, recipe)
    progress = list(run)
    assert [p.step for p in progress] == list(range(1, 41))
    assert progress[-1].seconds_left == 0 and progress[0].seconds_left > 0
    result = measure(reader(backbone, default_prompts(CLASSES), method.adapter()), shades(seed=1))
    assert result["adapted"]["balanced_accuracy"] >= 0.9
    meta = method.adapter().meta
    assert meta["support_counts"] == {"one": 6, "two": 6} and meta["classes"] == CLASSES
