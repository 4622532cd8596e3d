"""What a training step sees: images of every class, a few prompts, augmented views of which some patches are left."""

import numpy as np
import pytest
import torch

from nearl.train.batches import balanced_batch, class_means, draw_prompts
from nearl.train.recipe import Recipe
from nearl.train.samples import as_uint8
from nearl.train.views import MAX_VIEWS, STRENGTHS, Change, Kept, Views, some_patches
from tests.support.methods_data import shades


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


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 4, 1], [3]])
def test_means_over_the_prompts_of_each_class(counts):
    x = torch.randn(sum(counts), 5, 4)
    expected = torch.stack([part.mean(0) for part in x.split(counts)])
    torch.testing.assert_close(class_means(x, counts), expected)


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
