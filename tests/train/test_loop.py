"""The training loop: deterministic for a seed, resumable, stopped at any step, and it refuses what cannot be taught."""

import json

import numpy as np
import pytest
import torch

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.measure.evaluate import measure
from nearl.methods import Task, make
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from nearl.train.curve import Curve
from nearl.train.loop import FEWEST_STEPS, learning_rate
from nearl.train.recipe import Recipe, Snapshot
from nearl.train.samples import Samples
from tests.support.methods_data import PROMPTS, shades, started, task_of
from tests.support.reading import reader

CLASSES = ["one", "two"]


def version(method):
    """Of its adapter."""
    return method.adapter().version


def finished(*args, **options):
    """(method, its progress) of a whole run."""
    method, run = started(*args, **options)
    return method, list(run)


def test_a_seed_fixes_the_result_and_the_backbone_stays_as_it_was(tiny):
    backbone = tiny("clip")
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    torch.manual_seed(123)
    state = torch.get_rng_state()
    recipe = Recipe(steps=3, batch_size=4)
    first, second, other = (finished(backbone, r)[0] for r in (recipe, recipe, Recipe(steps=3, batch_size=4, seed=1)))
    assert version(first) == version(second) != version(other)
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's randomness was touched


def test_stopping_releases_the_backbone(tiny):
    backbone = tiny("clip")
    _, running = started(backbone, Recipe(steps=1000, batch_size=4))
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
            make("nearl", Task(backbone, prompt_set, support)).fit()
    for wrong in ({"steps": 0}, {"lr": -1.0}, {"augment": "wild"}, {"augment": "none", "flip": True}, {"patience": -1}):
        with pytest.raises(NearlError):
            Recipe(**wrong)
    with pytest.raises(NearlError, match="no preset called 'fast'"):
        Recipe.preset("fast")


def test_divergence_is_said_in_a_sentence(tiny):
    with pytest.raises(NearlError, match="Training broke down"):
        recipe = Recipe(steps=30, batch_size=4, lr=1e30, warmup=1, clip=1e30, precision="float32")
        finished(tiny("clip"), recipe)


def test_schedule_warms_up_and_ends_near_zero():
    factors = [learning_rate(step, 50, 5) for step in range(50)]
    assert factors[0] == 0.2 and factors[4] == factors[5] == 1.0
    assert factors[5:] == sorted(factors[5:], reverse=True) and 0 < factors[-1] < 0.01


@pytest.mark.parametrize(
    ("name", "augment"),
    [("nearl", "none"), ("nearl", "strong"), ("nearl:image-context", "strong"), ("lora", "strong"), ("coop", "none"),
     ("tip-adapter-f", "none"), ("tip-adapter-f", "strong")],
)  # fmt: skip
def test_a_resumed_run_ends_with_the_same_adapter(tiny, name, augment):
    """Also through JSON, and whatever else draws random numbers in between."""
    backbone = tiny("clip")
    recipe = Recipe(steps=14, batch_size=4, augment=augment, views=3, patience=13)
    method, whole = finished(backbone, recipe, name=name, held=shades(seed=1))
    for stop in (2, 2 * len(whole) // 3):
        _, run = started(backbone, recipe, name=name)
        for _ in range(stop):
            next(run)
        saved = run.snapshot()
        next(run)  # what comes after a snapshot does not change it
        torch.rand(3)
        saved = Snapshot(saved.tensors, json.loads(json.dumps(saved.about)))
        again, rest = finished(backbone, recipe, name=name, resume=saved)
        assert [(p.step, p.loss, p.lr) for p in rest] == [(p.step, p.loss, p.lr) for p in whole[stop:]]
        assert version(again) == version(method)
    with pytest.raises(NearlError, match="another run"):
        started(backbone, Recipe(steps=15, batch_size=4), name=name, resume=saved)


@pytest.mark.parametrize("name", ["nearl", "prolip"])
def test_cancelling_keeps_the_weights_of_the_lowest_smoothed_training_loss(tiny, name):
    recipe = Recipe(steps=30, batch_size=8, lr=0.3, augment="none")
    method, run = started(tiny("clip"), recipe, name=name)
    phases = [phase.steps for phase in method.phases(recipe)]
    losses, smoothed, history, states = [], 0.0, [], {}
    for progress in run:
        if progress.step == sum(phases[:-1]) + 1:  # the loss of another phase
            losses, history = [], []
        losses.append(progress.loss)
        smoothed = np.mean(losses) if len(losses) <= 10 else 0.9 * smoothed + 0.1 * progress.loss
        states[progress.step] = version(method)
        if len(losses) >= FEWEST_STEPS:
            history.append((smoothed, progress.step))
        elif progress.step == 1:
            assert not run.keep_best()
        if progress.step == 25:
            break
    run.close()
    assert run.keep_best()
    best = min(history)[1]
    assert version(method) == states[best] and method.adapter().meta["recipe"]["steps_taken"] == best


def test_one_easy_batch_at_the_start_of_a_phase_does_not_stop_a_run_early(tiny, monkeypatch):
    """The loss falls from there on, though never again to that of the easy batch."""
    recipe = Recipe(steps=40, batch_size=4, lr=1e-9, augment="none", patience=20)
    penalties = iter([4.0] + [5.0 - step / 25 for step in range(40)])

    def phases(method, recipe):
        (phase,) = known(method, recipe)
        return [phase._replace(forward=lambda *drawn: (phase.forward(*drawn)[0], next(penalties)))]

    known = type(make("clip-adapter", task_of(tiny("clip")))).phases
    monkeypatch.setattr("nearl.methods.clip_adapter.ClipAdapter.phases", phases)
    _, progress = finished(tiny("clip"), recipe, name="clip-adapter")
    assert progress[-1].step == 40 and progress[-1].stopped == ""


def test_early_stopping_looks_at_the_training_loss_alone(tiny):
    recipe = Recipe(steps=60, batch_size=8, lr=1e-9, warmup=1, augment="none", patience=4)  # it learns nothing
    swapped = shades(seed=1)
    swapped.labels = [1 - label for label in swapped.labels]
    runs = [finished(tiny("clip"), recipe, name="clip-adapter", held=held) for held in (None, shades(), swapped)]
    last = runs[0][1][-1]
    assert last.stopped == "early" and last.step < 60 and last.seconds_left == 0
    assert len({(progress[-1].step, version(method)) for method, progress in runs}) == 1
    assert runs[0][0].adapter().meta["recipe"]["steps_taken"] == last.step - 4
    assert all(p.stopped == "" for p in runs[0][1][:-1])


@pytest.mark.parametrize("name", ["nearl", "nearl:image-context", "clip-adapter", "alta-vision"])
def test_the_learning_curve_shows_held_out_images_and_changes_nothing(tiny, name):
    backbone, prompts = tiny("clip"), default_prompts(CLASSES)
    recipe, held = Recipe(steps=40, batch_size=8, precision="float32", augment="none"), shades(seed=1)
    method, run = started(backbone, recipe, name=name, held=held)
    progress = list(run)
    points = {p.step: p.held_out for p in progress if p.held_out is not None}
    assert 2 <= len(points) <= 13 and max(points) == progress[-1].step
    result = measure(reader(backbone, prompts, method.adapter()), held)
    assert points[max(points)] == pytest.approx(result["adapted"]["balanced_accuracy"])
    assert version(finished(backbone, recipe, name=name)[0]) == version(method)
    assert set(run.seconds) == {"forward", "backward", "optimiser", "evaluate"} and min(run.seconds.values()) > 0


def test_the_learning_curve_is_of_all_images_and_ends_with_the_weights_that_are_kept(tiny):
    backbone, held = tiny("clip"), shades(seed=1)
    curve = Curve(make("nearl", task_of(backbone)), Samples.of(backbone, shades(per_class=60)), 60, 16)
    assert len(curve.held) == 120 and [step for step in range(1, 61) if curve.due(step)] == [30, 60]
    recipe = Recipe(steps=300, lr=0.5, patience=8, precision="float32", augment="none")
    method, progress = finished(backbone, recipe, name="clip-adapter", held=held)
    result = measure(reader(backbone, default_prompts(CLASSES), method.adapter()), held)
    assert progress[-1].stopped == "early"
    assert progress[-1].held_out == pytest.approx(result["adapted"]["balanced_accuracy"])


def test_the_last_point_of_the_learning_curve_has_the_precision_of_the_result(tiny, monkeypatch):
    """In bf16, borderline images may be read otherwise."""
    monkeypatch.setattr("nearl.train.loop.has_fast_bf16", lambda backbone: True)
    mixed, measured = [], Curve.measure

    def spied(curve, *given, **named):
        mixed.append(torch.is_autocast_enabled("cpu"))
        return measured(curve, *given, **named)

    monkeypatch.setattr(Curve, "measure", spied)
    finished(tiny("clip"), Recipe(steps=40, batch_size=8, augment="none", patience=0), held=shades(seed=1))
    assert mixed[0] and not mixed[-1]


def test_a_method_without_steps_learns_at_once_and_has_no_recipe(tiny):
    method, progress = finished(tiny("clip"), Recipe(), name="linear-probe", held=shades(seed=1))
    assert progress == [] and method.adapter().meta["recipe"] is None and not np.allclose(method.bias.detach(), 0)
    run = make("linear-probe", task_of(tiny("clip"))).fit()
    assert run.snapshot().about["step"] == 0 and not run.keep_best() and run.seconds == {}


def test_a_method_without_labelled_images_cannot_be_taught(tiny):
    with pytest.raises(NearlError, match="no labelled images"):
        make("coop", Task(tiny("clip"), PROMPTS)).fit()
