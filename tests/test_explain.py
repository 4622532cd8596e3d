"""Grad-CAM on every tower family, where it is drawn, and that explaining changes nothing."""

import numpy as np
import pytest
import torch
from PIL import Image
from test_classifier import PROMPTS, adapter_for, record

from nearl.classifier import Classifier
from nearl.errors import NearlError
from nearl.explain import Heatmap, gradcam, heat_layer, overlay
from nearl.explain.overlay import seen_box


@pytest.mark.parametrize("adapted", [False, True])
def test_gradient_reaches_the_patches_and_depends_on_the_class(backbone, adapted):
    classifier = Classifier(backbone, PROMPTS, adapter_for(backbone))
    maps = [gradcam(classifier, record(3), c, adapted) for c in range(2)]
    for c, heatmap in enumerate(maps):
        assert heatmap.values.shape == backbone.image_size and heatmap.values.dtype == np.float32
        assert heatmap.values.min() >= 0 and heatmap.values.max() <= 1
        assert heatmap.class_name == PROMPTS.classes[c] and heatmap.adapted == adapted
    assert any(heatmap.values.std() > 0.01 for heatmap in maps)
    assert np.abs(maps[0].values - maps[1].values).max() > 0.01


def test_adaptation_changes_the_map(tiny):
    classifier = Classifier(tiny("clip"), PROMPTS, adapter_for(tiny("clip")))
    before, after = (gradcam(classifier, record(3), 0, adapted) for adapted in (False, True))
    assert np.abs(before.values - after.values).max() > 0.01
    assert gradcam(classifier, record(3), 0).adapted  # the adapted model is the default


def test_per_image_context_can_be_explained(tiny):
    classifier = Classifier(tiny("clip"), PROMPTS, adapter_for(tiny("clip"), text_context="image"))
    maps = [gradcam(classifier, record(3), c).values for c in range(2)]
    assert any(values.std() > 0.01 for values in maps) and np.abs(maps[0] - maps[1]).max() > 0.01


def test_explaining_changes_nothing_even_when_it_fails(backbone, monkeypatch):
    classifier = Classifier(backbone, PROMPTS, adapter_for(backbone))
    models = (backbone.model, classifier.model)

    def snapshot():
        return [
            [(n, v.clone()) for n, v in m.state_dict().items()]
            + [(n, p.requires_grad, p.grad is None) for n, p in m.named_parameters()]
            + [(n, x.training, len(x._forward_hooks)) for n, x in m.named_modules()]
            for m in models
        ]

    def unchanged():
        return all(
            all(torch.equal(i, j) if isinstance(i, torch.Tensor) else i == j for i, j in zip(a, b, strict=True))
            for one, two in zip(before, snapshot(), strict=True)
            for a, b in zip(one, two, strict=True)
        )

    before = snapshot()
    expected = classifier.predict([record(3)]).adapted
    gradcam(classifier, record(3), 1)
    assert unchanged()
    monkeypatch.setattr(type(backbone.vision), "pool", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        gradcam(classifier, record(3), 1)
    monkeypatch.undo()
    assert unchanged()
    np.testing.assert_array_equal(
        Classifier(backbone, PROMPTS, classifier.adapter).predict([record(3)]).adapted, expected
    )


def test_refusals(tiny):
    classifier = Classifier(tiny("clip"), PROMPTS)
    assert not gradcam(classifier, record(0), 0).adapted
    with pytest.raises(NearlError, match="no adapter yet"):
        gradcam(classifier, record(0), 0, adapted=True)
    with pytest.raises(NearlError, match="no class number 3"):
        gradcam(classifier, record(0), 2)


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("shortest", (60, 40), (10, 0, 50, 40)),  # the centre square
        ("shortest", (40, 60), (0, 10, 40, 50)),
        ("longest", (60, 40), (0, -10, 60, 50)),  # padded above and below
        ("squash", (60, 40), (0, 0, 60, 40)),
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bright_corner_is_drawn_over_that_corner(tiny, monkeypatch, mode, size, box, corner):
    """Send an image with one bright corner (of what the model sees) through the model's own preprocessing, use the
    result as the map, and look where the map is drawn."""
    backbone = tiny("clip")
    cfg = backbone.preprocess_cfg | {"resize_mode": mode}
    monkeypatch.setattr(type(backbone), "preprocess_cfg", cfg)
    assert seen_box(backbone, size) == box
    from open_clip.transform import PreprocessCfg, image_transform_v2

    left, top, right, bottom = (max(box[0], 0), max(box[1], 0), min(box[2], size[0]), min(box[3], size[1]))
    w, h = (right - left) // 4, (bottom - top) // 4
    x, y = (right - w if corner[1] else left), (bottom - h if corner[0] else top)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    seen = image_transform_v2(PreprocessCfg(**cfg | {"mean": (0,) * 3, "std": (1,) * 3}), is_train=False)(
        Image.fromarray(pixels)
    )
    alpha = np.asarray(heat_layer(Heatmap(seen[0].numpy(), box, size, "c", "m", False)).getchannel("A")).astype(float)
    assert alpha.shape == (size[1], size[0])
    inside = alpha[y : y + h, x : x + w].sum() / alpha.sum()
    assert inside > 0.75
    assert alpha[y + h // 2, x + w // 2] > 200


def test_overlay_opacity_and_size():
    image = Image.new("RGB", (50, 30), (100, 100, 100))
    heatmap = Heatmap(np.ones((8, 8), np.float32), (0, 0, 50, 30), (50, 30), "c", "m", True)
    assert np.array_equal(np.asarray(overlay(image, heatmap, 0.0)), np.asarray(image))
    full = overlay(image, heatmap, 1.0)
    assert full.size == (50, 30) and np.abs(np.asarray(full).astype(int) - 100).max() > 50
    nothing = Heatmap(np.zeros((8, 8), np.float32), (0, 0, 50, 30), (50, 30), "c", "m", True)
    assert nothing.blank and np.array_equal(np.asarray(overlay(image, nothing, 1.0)), np.asarray(image))
