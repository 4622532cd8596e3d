"""NEARL's partner: it reads a support image without that image, fades where it does not help, and is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.explain import MapRequest, Scorer, Trace, draw
from nearl.explain.score import ALONE, Score
from nearl.methods import make, restore
from nearl.methods.nearl.partner import LEAST, RIDGE, Lesson
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier
from nearl.train.recipe import Recipe
from tests.support.methods_data import PROMPTS, shades, task_of, taught

LABELS = torch.tensor([0] * 6 + [1] * 4 + [2] * 5)
EDITED = PromptSet("edited", ("two", "three", "one"), (("the two",), ("chest x ray",), ("lung",)))


def clusters(spread=0.4, width=8):
    """Unit embeddings [15, 8] of three classes."""
    noise = torch.randn(len(LABELS), width, generator=torch.Generator().manual_seed(0))
    return F.normalize(torch.eye(width)[LABELS] + spread * noise, dim=-1)


def test_an_image_is_read_without_itself():
    x = clusters()
    lesson = Lesson(x, LABELS, torch.zeros(15, 3), None)
    assert lesson.weight > 0
    centre = torch.stack([x[c == LABELS].mean(0) for c in range(3)]).mean(0)
    z = (x - centre).double()
    z, size = z / z.square().sum(1).mean().sqrt(), z.square().sum(1).mean().sqrt()
    each = (5 / torch.bincount(LABELS))[LABELS].double()[:, None]
    truth = F.one_hot(LABELS).double() - 1 / 3
    seen = F.normalize(x + 0.1, dim=-1)  # the images as a step sees them
    joint = lesson.join(torch.zeros(15, 3), seen, torch.arange(15))
    for i in range(15):
        rest = torch.arange(15) != i
        a = z[rest].T @ (each[rest] * z[rest]) + RIDGE * torch.eye(8)
        w = torch.linalg.solve(a.double(), z[rest].T @ (each[rest] * truth[rest]))
        expected = lesson.weight * ((seen[i] - centre).double() / size) @ w
        np.testing.assert_allclose(joint[i], expected, atol=1e-4)


def test_it_fades_where_the_frozen_model_is_better_and_the_other_way_round():
    x, right = clusters(), 20.0 * F.one_hot(LABELS).float()
    lost = torch.randn(15, 8, generator=torch.Generator().manual_seed(1))
    images, logits = clusters(), torch.randn(15, 3, generator=torch.Generator().manual_seed(2))
    lesson = Lesson(F.normalize(lost, dim=-1), LABELS, right, None)
    assert lesson.share > 0.9 and lesson.weight < 1.0
    torch.testing.assert_close(lesson.join(logits, images, torch.arange(15)), logits, atol=0.5, rtol=0.1)
    lesson = Lesson(x, LABELS, right.roll(1, 1), None)
    assert lesson.share < 0.1 and lesson.weight > 1.0
    read = lesson.partner.join(torch.zeros(15, 3), images)
    assert (read.argmax(1) == LABELS).float().mean() > 0.9
    torch.testing.assert_close(lesson.partner.join(logits, images), LEAST * logits + read)


def test_with_one_image_of_each_class_the_frozen_model_is_weighed_against_chance():
    x, labels = torch.eye(3, 8), torch.arange(3)
    assert Lesson(x, labels, 5.0 * torch.eye(3), None).weight < 0.1
    wrong = Lesson(x, labels, -5.0 * torch.eye(3), None)
    assert wrong.weight > 7 and wrong.partner.share == LEAST
    assert wrong.partner.join(torch.zeros(3, 3), x).argmax(1).tolist() == [0, 1, 2]


def test_the_features_are_those_before_the_projection():
    projection = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    pooled = clusters()
    lesson = Lesson(pooled @ projection.T, LABELS, torch.zeros(15, 3), projection)
    plain = Lesson(pooled, LABELS, torch.zeros(15, 3), None)
    read = lesson.partner.join(torch.zeros(15, 3), pooled @ projection.T)
    torch.testing.assert_close(read, plain.partner.join(torch.zeros(15, 3), pooled), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["nearl", "nearl:image-context"])
def test_an_adapter_keeps_it(tiny, name):
    backbone = tiny("clip")
    method = taught(make(name, task_of(backbone)))
    assert method.chosen["partner"] > 0
    records = shades(2, seed=9).records
    again = restore(backbone, method.adapter())
    np.testing.assert_allclose(again.predict(records), method.predict(records), atol=1e-6)
    without = method.network.partner
    again.ask(EDITED)
    turned = again.logits(records)
    again.network.partner = None
    own = again.logits(records)
    added = without.join(torch.zeros(4, 2), again.images(records)) if name == "nearl" else None
    if added is not None:
        expected = without.share * own + torch.stack([added[:, 1], torch.zeros(4), added[:, 0]], 1)
        torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)
    plain = taught(make(name, task_of(backbone)), partner=False)
    assert not [key for key in plain.adapter().state if key.startswith("partner")]
    restore(backbone, plain.adapter())


def test_the_patches_of_the_evidence_still_add_up(tiny):
    backbone = tiny("bert-pooler")  # averages its patches
    method = taught(make("nearl", task_of(backbone)), lr=1e-2)
    assert method.network.partner.bias.abs().max() > 0
    trace = Trace(Scorer(Classifier(backbone, PROMPTS, method)), shades(1, seed=9).records)
    for score in (Score(0), Score(1, ALONE)):
        sums = [heatmap.values.sum() for heatmap in draw(trace, MapRequest("evidence", *score))]
        np.testing.assert_allclose(sums, score.of(trace.logits).detach(), rtol=1e-4, atol=1e-4)


def test_a_saved_recipe_of_before_has_none():
    assert not Recipe().partner
