"""Teaching: it learns, it is deterministic, it can be stopped and gone on with, and refuses what cannot be taught."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nearl.methods.nearl.finetune import (
    FEWEST_STEPS,
    Recipe,
    Snapshot,
    balanced_batch,
    draw_prompts,
    finetune,
    learning_rate,
)

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.measure.evaluate import measure
from nearl.methods.nearl.anchor import MOST, Anchor
from nearl.methods.nearl.network import NearlCLIP, NearlConfig
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.train.curve import CURVE_IMAGES, Curve
from nearl.train.views import MAX_VIEWS, STRENGTHS, Change, Kept, Samples, Views, as_uint8, some_patches
from tests.support.methods_data import shades

CLASSES = ["one", "two"]


def last(iterator):
    *_, final = iterator
    return final


def test_it_learns_and_generalises_on_every_tower_family(backbone):
    recipe = Recipe(steps=40, batch_size=8, lr=3e-3, precision="float32", augment="none")
    progress = list(finetune(backbone, shades(), default_prompts(CLASSES), recipe=recipe))
    assert [p.step for p in progress] == list(range(1, 41))
    assert all(p.adapter is None for p in progress[:-1])
    assert progress[-1].seconds_left == 0 and progress[0].seconds_left > 0
    result = measure(Classifier(backbone, default_prompts(CLASSES), progress[-1].adapter), shades(seed=1))
    assert result["adapted"]["balanced_accuracy"] >= 0.9
    meta = progress[-1].adapter.meta
    assert meta["support_counts"] == {"one": 6, "two": 6} and meta["classes"] == CLASSES


def test_per_image_context_learns_too(tiny):
    recipe = Recipe(steps=30, batch_size=6, lr=3e-3, precision="float32", augment="none")
    config = NearlConfig(text_context="image")
    final = last(finetune(tiny("clip"), shades(), default_prompts(CLASSES), config, recipe))
    assert final.loss < 0.6


def test_a_seed_fixes_the_result_and_the_backbone_stays_as_it_was(tiny):
    backbone = tiny("clip")
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    torch.manual_seed(123)
    state = torch.get_rng_state()
    recipe = Recipe(steps=3, batch_size=4)
    first, second = (last(finetune(backbone, shades(), default_prompts(CLASSES), recipe=recipe)) for _ in range(2))
    other = last(finetune(backbone, shades(), default_prompts(CLASSES), recipe=Recipe(steps=3, batch_size=4, seed=1)))
    assert first.adapter.version == second.adapter.version != other.adapter.version
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's randomness was touched


def test_stopping_releases_the_backbone(tiny):
    backbone = tiny("clip")
    running = finetune(backbone, shades(), default_prompts(CLASSES), recipe=Recipe(steps=1000, batch_size=4))
    next(running)
    Classifier(backbone, default_prompts(CLASSES)).predict(shades().records)  # prediction goes on meanwhile
    running.close()
    assert backbone.lock.acquire(blocking=False)
    backbone.lock.release()


def test_refusals(tiny):
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    one = LabelledSet(["one"], shades().records[:3], [0, 0, 0])
    empty = LabelledSet(list(CLASSES), shades().records[:3], [0, 0, 0])
    for support, prompt_set, says in (
        (one, default_prompts(["one"]), "at least two classes"),
        (empty, prompts, "class 'two' has no image"),
        (shades(), default_prompts(CLASSES[::-1]), "same classes in the same order"),
    ):
        with pytest.raises(NearlError, match=says):
            next(finetune(backbone, support, prompt_set))
    for wrong in ({"steps": 0}, {"lr": -1.0}, {"augment": "wild"}, {"augment": "none", "flip": True}, {"patience": -1}):
        with pytest.raises(NearlError):
            Recipe(**wrong)
    with pytest.raises(NearlError, match="no preset called 'fast'"):
        Recipe.preset("fast")


def test_divergence_is_said_in_a_sentence(tiny):
    with pytest.raises(NearlError, match="Training broke down"):
        recipe = Recipe(steps=30, batch_size=4, lr=1e30, warmup=1, clip=1e30, precision="float32")
        last(finetune(tiny("clip"), shades(), default_prompts(CLASSES), recipe=recipe))


def test_schedule_warms_up_and_ends_near_zero():
    factors = [learning_rate(step, 50, 5) for step in range(50)]
    assert factors[0] == 0.2 and factors[4] == factors[5] == 1.0
    assert factors[5:] == sorted(factors[5:], reverse=True) and 0 < factors[-1] < 0.01


def test_batches_are_balanced_and_spread():
    labels = [0] * 50 + [1] * 3
    batch = balanced_batch(labels, 16, np.random.default_rng(0))
    drawn = np.asarray(labels)[batch]
    assert (drawn == 0).sum() == (drawn == 1).sum() == 8
    assert len(set(batch[drawn == 0])) == 8 and set(batch[drawn == 1]) == {50, 51, 52}


@pytest.mark.parametrize("strength", STRENGTHS)
def test_augmentation_keeps_left_and_right_unless_asked(strength):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[..., :16] = 200
    rng = np.random.default_rng(0)

    def brighter_on_the_left(flip):
        out = Change.draw((32, 32), strength, flip, rng).apply(image)
        assert out.shape == image.shape and out.dtype == torch.uint8
        return bool(out[..., :8].float().mean() > out[..., -8:].float().mean())

    assert all(brighter_on_the_left(flip=False) for _ in range(30))
    assert 5 < sum(brighter_on_the_left(flip=True) for _ in range(30)) < 25


def test_prompts_are_drawn_per_class():
    texts = [torch.arange(6)[:, None], torch.arange(10, 12)[:, None]]
    drawn = draw_prompts(texts, 4, np.random.default_rng(0))
    assert drawn.counts == [4, 2] and drawn.tokens[4:, 0].tolist() == [10, 11]
    assert len(set(drawn.tokens[:4, 0].tolist())) == 4 and drawn.tokens[:4].max() < 6


def test_views_are_embedded_once_and_are_what_the_backbone_would_embed(tiny):
    backbone, rng = tiny("clip"), np.random.default_rng(0)
    images = as_uint8(backbone, shades())
    plain = Views(backbone, shades(), Recipe(augment="none", keep=1.0))
    index = np.array([3, 0, 3])
    expected = backbone.vision.embed(backbone.normalise(images[index]))
    torch.testing.assert_close(plain.draw(index, rng), expected)
    seen = []
    counted = Kept()
    counted.get = lambda key, compute: Kept.get(counted, key, lambda: seen.append(key) or compute())
    recipe = Recipe(views=3, keep=1.0)
    views = Views(backbone, shades(), recipe, counted)
    drawn = torch.cat([views.draw(index, rng) for _ in range(40)])
    assert len(seen) == len(drawn.unique(dim=0)) == 6  # three ways of each of two images
    alone = Views(backbone, shades().subset([3]), recipe)  # in another order, beside other images
    again = torch.cat([alone.draw(np.array([0]), rng) for _ in range(40)])
    assert len(torch.cat([drawn, again]).unique(dim=0)) == 6
    many = shades(per_class=MAX_VIEWS // 4)
    assert Views(backbone, many, Recipe(views=8)).count == 2


def test_a_step_sees_a_share_of_the_patches_in_their_order(tiny):
    tokens = torch.arange(2 * 11.0).reshape(2, 11, 1)
    some = some_patches(tokens, 0.4, 1, np.random.default_rng(0))
    assert some.shape == (2, 5, 1) and torch.equal(some[:, 0], tokens[:, 0])
    assert (some.diff(dim=1) > 0).all() and not torch.equal(some[0], some[1] - 11)
    assert some_patches(tokens, 0.01, 1, np.random.default_rng(0)).shape == (2, 2, 1)
    assert some_patches(tokens, 1.0, 1, np.random.default_rng(0)) is tokens


@pytest.mark.parametrize("augment", ["none", "strong"])
def test_an_interrupted_run_goes_on_to_the_same_adapter(tiny, augment):
    """Also through JSON, and whatever else draws random numbers in between."""
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    recipe = Recipe(steps=14, batch_size=4, augment=augment, views=3, patience=13)
    whole = list(finetune(backbone, shades(), prompts, recipe=recipe, held=shades(seed=1)))
    for stop in (2, 9):
        run = finetune(backbone, shades(), prompts, recipe=recipe)
        for _ in range(stop):
            next(run)
        saved = run.snapshot()
        next(run)  # what comes after a snapshot does not change it
        torch.rand(3)
        saved = Snapshot(saved.tensors, json.loads(json.dumps(saved.about)))
        rest = list(finetune(backbone, shades(), prompts, recipe=recipe, resume=saved))
        assert [(p.step, p.loss, p.lr) for p in rest] == [(p.step, p.loss, p.lr) for p in whole[stop:]]
        assert rest[-1].adapter.version == whole[-1].adapter.version
    with pytest.raises(NearlError, match="another run"):
        finetune(backbone, shades(), prompts, recipe=Recipe(steps=15, batch_size=4), resume=saved)


def test_cancelling_keeps_the_weights_of_the_lowest_smoothed_training_loss(tiny):
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    run = finetune(backbone, shades(), prompts, recipe=Recipe(steps=30, batch_size=8, lr=0.3, augment="none"))
    smoothed = losses = None
    history = []
    for progress in run:
        losses = progress.loss
        if progress.step == run.warm + 1:  # both towers from here on: another loss
            smoothed, history = None, []
        smoothed = losses if smoothed is None else 0.9 * smoothed + 0.1 * losses
        if progress.step < FEWEST_STEPS:
            assert run.best() is None
            continue
        history.append((smoothed, progress.step))
        assert run.best().meta["recipe"]["steps_taken"] == min(history)[1]
        if progress.step == 20:
            break
    run.close()
    best = run.best()
    measure(Classifier(backbone, prompts, best), shades(seed=1))  # it is a whole adapter


def test_early_stopping_looks_at_the_training_loss_alone(tiny):
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    recipe = Recipe(steps=60, batch_size=8, lr=1e-9, warmup=1, augment="none", patience=4)  # it learns nothing
    swapped = shades(seed=1)
    swapped.labels = [1 - label for label in swapped.labels]
    runs = [list(finetune(backbone, shades(), prompts, recipe=recipe, held=held)) for held in (None, shades(), swapped)]
    last = [run[-1] for run in runs]
    assert last[0].stopped == "early" and last[0].step < 60 and last[0].seconds_left == 0
    assert len({(p.step, p.adapter.version) for p in last}) == 1
    assert last[0].adapter.meta["recipe"]["steps_taken"] == last[0].step - 4
    assert all(p.stopped == "" and p.adapter is None for p in runs[0][:-1])


def test_the_learning_curve_shows_held_out_images_and_changes_nothing(tiny):
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    recipe, held = Recipe(steps=40, batch_size=8, precision="float32", augment="none"), shades(seed=1)
    run = finetune(backbone, shades(), prompts, recipe=recipe, held=held)
    progress = list(run)
    points = {p.step: p.held_out for p in progress if p.held_out is not None}
    assert 3 <= len(points) <= 13 and max(points) == 40
    result = measure(Classifier(backbone, prompts, progress[-1].adapter), held)
    assert points[40] == pytest.approx(result["adapted"]["balanced_accuracy"])
    assert last(finetune(backbone, shades(), prompts, recipe=recipe)).adapter.version == progress[-1].adapter.version
    assert set(run.seconds) == {"forward", "backward", "optimiser", "evaluate"} and min(run.seconds.values()) > 0


def test_the_learning_curve_of_many_images_looks_at_some_of_every_class(tiny):
    backbone = tiny("clip")
    few, many = (Samples.of(backbone, shades(per_class=n)) for n in (3, CURVE_IMAGES))
    lopsided = Samples(torch.cat([few.images[:3], many.images[CURVE_IMAGES:]]), [0] * 3 + [1] * CURVE_IMAGES, CLASSES)
    curve = Curve(NearlCLIP(backbone), lopsided, [backbone.tokenize([name]) for name in CLASSES], Recipe(steps=60))
    assert len(curve.held) == CURVE_IMAGES and curve.held.counts() == {"one": 3, "two": CURVE_IMAGES - 3}
    assert [step for step in range(1, 61) if curve.due(step)] == [
        15,
        30,
        45,
        60,
    ]  # 4 x 48 images, a tenth of 60 x 2 x 16


def test_the_anchor_holds_as_far_as_the_frozen_model_reads(tiny):
    backbone = tiny("clip")
    texts, labels = [backbone.tokenize([name]) for name in CLASSES], torch.tensor([0, 1, 0, 1])
    own = Anchor(backbone, texts, torch.eye(backbone.embed_dim)[:2], torch.tensor([0, 1]), 1.0).classes
    assert Anchor(backbone, texts, own.repeat(2, 1), labels, 2.0).weight == 2 * MOST
    unsure = F.normalize(1.02 * own + own.flip(0), dim=-1).repeat(2, 1)
    anchor = Anchor(backbone, texts, unsure, labels, 2.0)
    loss = F.cross_entropy(anchor.logits(unsure), labels).item()
    assert 0 < loss < math.log(2) and anchor.weight == pytest.approx(2 * (math.log(2) / loss - 1), rel=1e-4)
    assert Anchor(backbone, texts, unsure, 1 - labels, 2.0).weight == 0.0  # worse than a guess: not followed
    assert anchor.loss(unsure, anchor.logits(unsure)).item() == pytest.approx(0.0, abs=1e-5)
    other = anchor.logits(unsure.flip(0))
    p, q = anchor.logits(unsure).softmax(-1), other.softmax(-1)
    divergence = (p * (p / q).log()).sum(-1).mean()
    assert anchor.loss(unsure, other).item() == pytest.approx((anchor.weight * divergence).item(), rel=1e-3)


def test_the_anchor_sees_every_class_however_many_there_are(tiny, monkeypatch):
    monkeypatch.setattr("nearl.methods.nearl.finetune.ANCHOR_IMAGES", 1)
    recipe = Recipe(steps=2, batch_size=2, augment="none", precision="float32")
    assert last(finetune(tiny("clip"), shades(), default_prompts(CLASSES), recipe=recipe)).step == 2


def test_the_warm_start_teaches_the_text_side_alone(tiny):
    backbone = tiny("clip")
    recipe = Recipe(steps=8, batch_size=4, warm_start=0.5, augment="none", precision="float32")
    run = finetune(backbone, shades(), default_prompts(CLASSES), recipe=recipe)
    assert run.warm == 4
    for _ in range(run.warm):
        next(run)
    assert all(oca.w_o.weight.abs().max() == 0 for oca in run.model.oca_vision.values())
    assert all(oca.w_o.weight.abs().max() > 0 for oca in run.model.oca_text.values())
    next(run)
    assert all(oca.w_o.weight.abs().max() > 0 for oca in run.model.oca_vision.values())
    sides = NearlConfig.for_backbone(backbone, text_layers=())  # nothing to teach alone: the steps through both stay
    assert last(finetune(backbone, shades(), default_prompts(CLASSES), sides, recipe)).steps == 4
