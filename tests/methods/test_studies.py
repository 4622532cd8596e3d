"""Studies of up to four images: what is missing is left out, the rest is read one by one and averaged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.methods import Task, make, restore
from nearl.methods.studies import ALONE, Images, Place, StudyViews, chosen
from nearl.train.recipe import Recipe
from tests.support.methods_data import PROMPTS, shades, taught

PLACES = [Place(time, view) for time in (0, 1) for view in (0, 1)]


def study_of(records, *places):
    return dict(zip(places, records, strict=True))


@pytest.fixture(scope="module")
def alta(tiny):
    """A method in which everything is far from its start."""
    method = make("alta", Task(tiny("clip"), PROMPTS), studies=1)
    with torch.no_grad():
        for p in method.parameters():
            p.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    return method


@torch.no_grad()
def test_a_study_is_the_mean_of_its_images_each_with_its_time_and_view(alta):
    records = shades(3, seed=5).records
    studies = [study_of(records[:4], *PLACES), study_of(records[4:6], ALONE, Place(1, 1)), {ALONE: records[0]}]
    p = alta.read_studies(studies)
    vision, patches, pooled = alta.adapted.vision, alta.task.frozen.patches(records), []
    for study in studies:
        each = []
        for (time, view), record in study.items():
            at = [r is record for r in records].index(True)
            x = alta.enter(patches[at : at + 1], torch.tensor([[0, 0]]))
            moved = alta.entry["time"][time] + alta.entry["view"][view] - alta.entry["time"][0] - alta.entry["view"][0]
            x = x + alta.spread * moved
            for k in range(vision.depth):
                x = vision.block(k, x)
            each.append(vision.features(x)[0])
        pooled.append(torch.stack(each).mean(0))
    logits = alta.scores(F.normalize(torch.stack(pooled) @ alta.adapted.vision.projection[0].T, dim=-1))
    np.testing.assert_allclose(p, logits.softmax(-1), atol=1e-5)
    np.testing.assert_allclose(alta.read_studies(studies[1:2]), p[1:2], atol=1e-5)  # whatever else is read with it
    np.testing.assert_allclose(alta.predict(records[:1]), p[2:], atol=1e-5)  # an image is a current frontal one
    turned = study_of(records[4:6][::-1], ALONE, Place(1, 1))
    assert abs(alta.read_studies([turned]) - p[1]).max() > 1e-4  # which is the prior one matters
    with pytest.raises(NearlError, match="no image"):
        alta.read_studies([studies[0], {}])


def test_a_change_is_learned_from_studies_and_comes_back_from_disk(tiny):
    """Bright after dark or dark after bright: no image alone tells which."""
    data = shades(8, seed=3)
    dark, bright = data.records[:8], data.records[8:]
    one = [study_of(pair, ALONE, Place(1, 0)) for pair in zip(bright, dark, strict=True)]
    two = [study_of(pair, ALONE, Place(1, 0)) for pair in zip(dark, bright, strict=True)]
    studies = [*one[:6], *two[:6]]
    support = LabelledSet(["one", "two"], [study[ALONE] for study in studies], [0] * 6 + [1] * 6)
    alta = make("alta", Task(tiny("clip"), PROMPTS, support), studies=1)
    alta.teach_studies(studies, alone=0.1)
    taught(alta, steps=20, batch_size=8, lr=1e-2)
    p = alta.read_studies([*one[6:], *two[6:]])
    assert (p.argmax(1) == [0, 0, 1, 1]).all()
    assert alta.entry["time"].detach().abs().min(1).values.min() > 0
    [phase] = alta.phases(alta.recipe(augment="none"))
    index, parts = np.array([7, 0, 3, 9]), (slice(0, 3), slice(3, 4))  # where memory is short
    whole = phase.forward(index, np.random.default_rng(1))[0]
    apart = torch.cat([phase.forward(index, np.random.default_rng(1), part)[0] for part in parts])
    torch.testing.assert_close(apart, whole, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="as many studies"):
        alta.teach_studies(studies[1:])
    again = restore(tiny("clip"), alta.adapter())
    np.testing.assert_allclose(again.read_studies([*one[6:], *two[6:]]), p, atol=1e-6)


def test_images_of_a_study_are_augmented_alike(tiny):
    records = shades(2, seed=6).records
    images = Images.of([study_of(records[:2], ALONE, Place(1, 0)), {ALONE: records[2]}], torch.device("cpu"))
    views = StudyViews(tiny("clip"), images, Recipe(views=2, keep=1.0))
    assert views.change_of(0) == views.change_of(1) != views.change_of(2)
    rng = np.random.default_rng(0)
    rows, batch = chosen(images, np.array([1, 0]), 0.0, rng)
    assert rows.tolist() == [2, 0, 1] and batch.tolist() == [0, 1, 1]
    rows, batch = chosen(images, np.array([1, 0]), 1.0, rng)
    assert rows.tolist() == [2, 0] and batch.tolist() == [0, 1]
