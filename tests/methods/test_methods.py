"""The methods on cached features against their definitions, and what all methods have in common."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.adapters.store import load_adapter, save_adapter
from nearl.backbones.towers.huggingface import SiglipVision
from nearl.errors import NearlError
from nearl.methods import METHODS, Frozen, Task, card, make, names, restore
from nearl.methods.clip_adapter import ClipAdapter
from nearl.methods.linear_probe import LinearProbe
from nearl.methods.prolip import ProLIP
from nearl.methods.selection import ALONE, STRENGTHS, choose_strength
from nearl.methods.text_probe import TextProbe, solve
from nearl.methods.tip_adapter import TipAdapter, TipAdapterF
from nearl.methods.zero_shot import ZeroShot
from nearl.reading.classifier import Classifier
from tests.support.methods_data import PROMPTS, shades, task_of, taught
from tests.support.reading import reader

OWN = [name for name in names() if not card(name).ablates]
OTHERS = [
    name for name in OWN if not card(name).features and name != "alta-vision"
]  # what goes into towers; it is a part of alta
FAMILIES = ["clip", "biomedclip", "transformers-siglip"]
NEW = shades(3, seed=9).records


@pytest.fixture(params=FAMILIES)
def task(request, tiny):
    return task_of(tiny(request.param))


# --- what all have in common ------------------------------------------------------------------------------------------


def test_every_method_has_a_card():
    assert names()[: len(OWN)] == OWN and set(names()) == set(METHODS)
    assert all(name.startswith("nearl:") == (card(name).ablates == "nearl") for name in names())
    for name in names():
        found = card(name)
        assert found.name == name and found.title and found.trained
        assert name == "zero-shot" or found.paper.count("arXiv") == 1
        assert found.idea.count(". ") >= 1 or name.startswith("nearl:")
    with pytest.raises(NearlError, match="no method called 'tip'"):
        make("tip", None)


@pytest.mark.parametrize(
    ("task", "name"), [(f, n) for f in FAMILIES for n in (names() if f == "clip" else OTHERS)], indirect=["task"]
)
def test_state_comes_back_from_disk_and_a_seed_fixes_it(task, name, tmp_path):
    backbone, before = task.backbone, {k: v.clone() for k, v in task.backbone.model.state_dict().items()}
    modules = dict(backbone.model.named_modules())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    method, twin = taught(make(name, task)), taught(make(name, task_of(backbone)))
    p = method.predict(NEW)
    assert p.shape == (6, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert np.array_equal(p, twin.predict(NEW))
    # Those two have no chance in them, and Adam's steps of a single number hardly depend on the gradient.
    if method.trainable > 1 and name not in ("linear-probe", "text-probe"):
        other, first = taught(make(name, task), seed=1).adapter().state, method.adapter().state
        assert not all(torch.equal(first[key], other[key]) for key in first)
    assert method.adapter().meta["method"] == name
    adapter = load_adapter(save_adapter(method.adapter(), tmp_path), backbone.identity)
    again = restore(backbone, adapter)
    np.testing.assert_allclose(again.predict(NEW), p, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([again.predict(NEW[:1]), again.predict(NEW[1:])]), p, atol=1e-5)
    assert again.predict([]).shape == (0, 2)
    np.testing.assert_allclose(reader(backbone, PROMPTS, adapter).predict(NEW).adapted, p, atol=1e-5)
    after = backbone.model.state_dict()
    assert list(after) == list(before) and all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(backbone.model.named_modules()) == modules
    assert not any(p.requires_grad or p.grad is not None for p in backbone.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in modules.values())


def test_after_caching_no_pass_of_the_image_tower(task):
    calls = []
    handle = task.backbone.vision.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        recipe = {"seed": 0}
        task.images(NEW), taught(make("tip-adapter", task), **recipe)  # fills what is shared
        seen = len(calls)
        for name in [name for name in OWN if card(name).features] + ["coop"]:
            taught(make(name, task), **recipe).predict(NEW)
        assert len(calls) == seen > 0
        task.frozen.forget(NEW)
        task.images(NEW)
        assert len(calls) == seen + 1
    finally:
        handle.remove()


def test_time_does_not_depend_on_who_came_first(tiny):
    frozen = Frozen(tiny("clip"))
    task = Task(tiny("clip"), PROMPTS, shades(), frozen)
    frozen.start_clock()
    task.features()
    first = frozen.alone(0.5)
    frozen.start_clock()
    task.features()
    assert first == pytest.approx(0.5, abs=1e-6)
    assert frozen.alone(0.25) > 0.25  # what was there already is counted in
    frozen.start_clock()
    assert frozen.alone(0.25) == 0.25


def test_an_images_views_do_not_depend_on_its_neighbours(tiny):
    recipe, data = ZeroShot.recipe(views=2), shades()
    together = Frozen(tiny("clip")).views(data.records, recipe)
    alone = Frozen(tiny("clip")).views(data.records[3:4], recipe)
    torch.testing.assert_close(together[:, 3:4], alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3
    plain = Frozen(tiny("clip")).views(data.records, ZeroShot.recipe(augment="none"))
    assert torch.equal(plain[0], Frozen(tiny("clip")).pooled(data.records))


def test_refusals(tiny):
    backbone = tiny("clip")
    with pytest.raises(NearlError, match="same classes"):
        Task(backbone, PROMPTS, shades().__class__(["two", "one"], shades().records, shades().labels))
    adapter = taught(make("coop", task_of(backbone))).adapter()
    with pytest.raises(NearlError, match="taught on"):
        restore(tiny("siglip"), adapter)
    for config in ({}, {"options": {"context": 10**9}, "chosen": {}}, {"options": {"wrong": 1}, "chosen": {}}):
        adapter.meta["config"] = config
        with pytest.raises(NearlError, match="do not fit"):
            restore(backbone, adapter)
    tip = taught(make("tip-adapter", task_of(backbone))).adapter()
    tip.meta["config"]["chosen"] = {"alpha": "much"}
    with pytest.raises(NearlError, match="do not fit"):
        restore(backbone, tip)


def test_stopping_leaves_a_method_that_predicts(tiny):
    method = make("prolip", task_of(tiny("clip")))
    running = method.fit(method.recipe(steps=100, batch_size=4, views=1))
    next(running)
    running.close()
    assert method.predict(NEW).shape == (6, 2)
    assert tiny("clip").lock.acquire(blocking=False)
    tiny("clip").lock.release()


# --- each against its definition --------------------------------------------------------------------------------------


def test_zero_shot_is_the_classifier_without_an_adapter(task):
    expected = Classifier(task.backbone, PROMPTS).predict(NEW).frozen
    np.testing.assert_allclose(make("zero-shot", task).predict(NEW), expected, atol=1e-5)


def test_linear_probe_is_at_the_minimum_of_its_loss(task):
    probe = taught(LinearProbe(task))
    x, y, strength = task.features().double(), task.labels, probe.chosen["strength"]
    diff, offset = (p.detach().double()[1] - p.detach().double()[0] for p in (probe.weight, probe.bias))
    diff.requires_grad_(), offset.requires_grad_()
    loss = 0.5 * diff.square().sum() + strength * F.softplus(-(2 * y - 1) * (x @ diff + offset)).sum()
    gradients = torch.autograd.grad(loss, (diff, offset))
    assert all(g.abs().max() < 1e-5 * strength * len(y) for g in gradients)
    assert strength in STRENGTHS
    assert probe.trainable == 2 * (task.backbone.embed_dim + 1)


def test_text_probe_is_at_the_minimum_and_begins_at_zero_shot(task):
    x, t = task.features().double(), task.classes().double()
    scale = float(task.backbone.logit_scale)
    w, a = (torch.tensor(v, requires_grad=True) for v in solve(x.numpy(), task.labels.numpy(), t.numpy(), scale, 10.0))
    logits = x @ w.T + a * (x @ t.T)
    loss = 0.5 * w.square().sum() + 0.5 * (a - scale).square().sum()
    loss = loss + 10.0 * F.cross_entropy(logits, task.labels, reduction="sum")  # balanced classes: every weight is one
    assert all(g.abs().max() < 1e-3 for g in torch.autograd.grad(loss, (w, a)))
    untaught = TextProbe(task)
    np.testing.assert_allclose(untaught.predict(NEW), make("zero-shot", task).predict(NEW), atol=1e-5)
    assert untaught.trainable == 2 * task.backbone.embed_dim + 2
    w, a = solve(x.numpy(), task.labels.numpy(), t.numpy(), scale, 1e-9)
    assert abs(w).max() < 1e-6 and abs(a - scale).max() < 1e-6


def test_the_strength_is_chosen_on_images_kept_aside():
    """The fit with strength 100 alone knows the answer; none is ever asked about an image that it was given."""
    labels = np.array([0, 0, 0, 1, 1, 1])

    def fit(index, strength):
        def predict(held):
            assert not set(index) & set(held)
            sure = 0.9 if strength == 100.0 else 0.5
            return np.where(labels[held][:, None] == [0, 1], sure, 1 - sure)

        return predict

    assert choose_strength(labels, fit, 0) == 100.0
    assert choose_strength(np.array([0, 1, 1]), None, 0) == ALONE


def test_tip_adapter_by_hand():
    """Two keys, one per class, a query at 60 degrees from the first and 30 from the second."""
    tip = TipAdapter.__new__(TipAdapter)
    torch.nn.Module.__init__(tip)
    backbone = SimpleNamespace(logit_scale=torch.tensor(10.0))
    tip.task = SimpleNamespace(backbone=backbone, classes=lambda: torch.eye(2))
    tip.rows = slice(None)
    tip.keys, tip.values, tip.chosen = torch.eye(2), torch.eye(2), {"alpha": 2.0, "beta": 3.0}
    cos = np.array([0.5, 3**0.5 / 2])
    expected = 10 * cos + 2 * np.exp(-3 * (1 - cos))
    f = torch.tensor(cos, dtype=torch.float32)[None]
    np.testing.assert_allclose(tip.scores(f)[0], expected, rtol=1e-5)


def test_tip_adapter_chooses_without_an_images_own_key(tiny):
    one = taught(TipAdapter(task_of(tiny("clip"), per_class=1)))
    assert one.chosen == {"alpha": 1.0, "beta": 5.5}
    task = task_of(tiny("clip"))
    tip = taught(TipAdapter(task), augment="none")
    torch.testing.assert_close(tip.keys, task.features(), atol=1e-6, rtol=0)
    assert tip.trainable == 0

    def loss(alpha, beta):
        total = 0.0
        for i in range(8):
            others = [j for j in range(8) if j != i]
            near = task.features()[others] @ task.features()[i]
            vote = torch.exp(-beta * (1 - near)) @ F.one_hot(task.labels, 2)[others].float()
            logits = tip.task.backbone.logit_scale * task.classes() @ task.features()[i] + alpha * vote
            total += F.cross_entropy(logits, task.labels[i]).item()
        return total

    best = min(((a, b) for a in (0.3, 1.0, 3.0, 10.0) for b in (1.0, 3.0, 5.5, 10.0, 20.0)), key=lambda p: loss(*p))
    assert tuple(tip.chosen.values()) == best


def test_tip_adapter_f_begins_as_tip_adapter_and_moves_its_keys_alone(task):
    tip, trained = taught(TipAdapter(task)), TipAdapterF(task)
    trained.start(trained.recipe(views=2))
    np.testing.assert_allclose(trained.predict(NEW), tip.predict(NEW), atol=1e-6)
    taught(trained)
    assert [name for name, _ in trained.named_parameters()] == ["keys"]
    assert trained.trainable == len(task.support) * task.backbone.embed_dim
    assert (trained.keys - tip.keys).abs().max() > 1e-4 and torch.equal(trained.values, tip.values)


def test_clip_adapter_is_the_papers_formula_and_the_identity_without_its_second_matrix(task):
    adapter = ClipAdapter(task)
    np.testing.assert_allclose(adapter.predict(NEW), make("zero-shot", task).predict(NEW), atol=1e-5)
    taught(adapter)
    f, width = task.images(NEW), task.backbone.embed_dim
    raw = 7.3 * f  # features as they come, not normalised
    mixed = 0.2 * (raw @ adapter.down.T).relu().matmul(adapter.up.T).relu() + 0.8 * raw
    torch.testing.assert_close(adapter.adapt(f), F.normalize(mixed, dim=-1), atol=1e-5, rtol=1e-4)
    assert adapter.trainable == 2 * width * (width // 4)


def test_prolip_begins_as_the_frozen_model_and_is_pulled_back(task):
    prolip = ProLIP(task)
    np.testing.assert_allclose(prolip.predict(NEW), make("zero-shot", task).predict(NEW), atol=1e-5)
    taught(prolip, lr=1e-2)
    moved = prolip.weight.detach() - prolip.frozen_weight
    assert prolip.penalty().item() == pytest.approx(float(torch.linalg.matrix_norm(moved) ** 2) / 4, rel=1e-4)
    assert moved.abs().max() > 1e-3
    assert prolip.trainable == prolip.frozen_weight.numel()
    vision, pixels = task.backbone.vision, task.frozen.pixels(NEW)
    direct = F.normalize(task.backbone.model.encode_image(pixels), dim=-1)
    torch.testing.assert_close(task.images(NEW), direct, atol=1e-5, rtol=1e-4)
    assert (vision.projection is None) == isinstance(vision, SiglipVision)
