"""Predictions before and after, what is cached, and which classes were never taught."""

import numpy as np
import pytest
import torch

from nearl.adapters.store import Adapter
from nearl.backbones import load_backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import restore
from nearl.prompts import PromptSet, default_prompts
from nearl.reading.classifier import Classifier
from nearl.reading.trust import Trust
from tests.support.reading import PROMPTS, Counter, adapter_for, reader, record


def test_probabilities_before_and_after(backbone):
    records = [record(i) for i in range(3)]
    before = Classifier(backbone, PROMPTS).predict(records)
    assert before.adapted is None and before.classes == ["glioma", "normal"] and before.files[1] == "image-1.png"
    after = reader(backbone, PROMPTS, adapter_for(backbone)).predict(records)
    for p in (after.frozen, after.adapted):
        assert p.shape == (3, 2) and p.dtype == np.float32
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(after.frozen, before.frozen, atol=1e-5)
    assert np.abs(after.adapted - after.frozen).max() > 1e-4


def test_cached_prediction_equals_the_models_own_forward(backbone):
    adapter = adapter_for(backbone)
    classifier = reader(backbone, PROMPTS, adapter)
    records = [record(i) for i in range(3)]
    with torch.no_grad():
        network, prompts = classifier.method.network, classifier.method.task.tokens()
        expected = network(classifier.pixels(records), prompts).softmax(-1).numpy()
    first, second = classifier.predict(records), classifier.predict(records)
    np.testing.assert_allclose(first.adapted, expected, atol=1e-4)
    np.testing.assert_array_equal(first.adapted, second.adapted)


def test_per_image_context_predicts_too(tiny):
    backbone = tiny("clip")
    classifier = reader(backbone, PROMPTS, adapter_for(backbone, text_context="image"))
    records = [record(i) for i in range(20)]  # more than one batch
    prediction = classifier.predict(records)
    assert prediction.adapted.shape == (20, 2)
    np.testing.assert_allclose(classifier.predict(records[3:4]).adapted[0], prediction.adapted[3], atol=1e-4)


def test_editing_a_prompt_encodes_that_prompt_and_no_image(tiny):
    backbone = tiny("custom-text")
    images, texts = Counter(backbone.vision.blocks[0]), Counter(backbone.text.blocks[0])
    classifier = reader(backbone, PROMPTS, adapter_for(backbone))
    records = [record(i) for i in range(3)]
    first = classifier.predict(records)
    assert images.take() == 2 * 3  # frozen and adapted
    assert texts.take() == 2 * 3
    classifier.predict(records[::-1])
    assert (images.take(), texts.take()) == (0, 0)
    classifier.set_prompts(PromptSet("test", PROMPTS.classes, (PROMPTS.prompts[0], ("no sign of a tumor",))))
    edited = classifier.predict(records)
    assert (images.take(), texts.take()) == (0, 2)
    assert np.abs(edited.adapted - first.adapted).max() > 1e-5
    renamed = ImageRecord.from_pixels("other name.png", records[0].pixels)
    classifier.predict([renamed])
    assert images.take() == 0  # cached by content, not by name
    classifier.set_method(None)
    assert classifier.predict(records).adapted is None
    assert images.take() == 0


def test_order_and_repeats_do_not_matter(tiny):
    classifier = Classifier(tiny("clip"), PROMPTS)
    a, b = record(1), record(2)
    prediction = classifier.predict([a, b, a])
    np.testing.assert_array_equal(prediction.frozen[0], prediction.frozen[2])
    assert np.abs(prediction.frozen[0] - prediction.frozen[1]).max() > 0
    assert classifier.predict([]).frozen.shape == (0, 2)


def test_classes_that_were_never_taught_are_named(tiny):
    backbone = tiny("clip")
    classifier = Classifier(backbone, PROMPTS)
    assert classifier.untaught() == []
    classifier.set_method(restore(backbone, adapter_for(backbone)))
    assert classifier.untaught() == []
    classifier.set_prompts(default_prompts(["Glioma", "meningioma", "normal"]))
    assert classifier.untaught() == ["meningioma"]
    assert classifier.predict([record(0)]).adapted.shape == (1, 3)  # still open-vocabulary


def test_adapters_that_do_not_fit_are_refused_and_the_old_one_stays(tiny):
    backbone = tiny("clip")
    good = adapter_for(backbone)
    classifier = reader(backbone, PROMPTS, good)
    foreign = adapter_for(tiny("siglip"))
    lying = adapter_for(backbone)
    lying.meta["config"] = lying.config | {"rank": 4}
    unknown = adapter_for(backbone)
    unknown.meta["config"] = unknown.config | {"colour": "blue"}
    for adapter, says in ((foreign, "taught on"), (lying, "do not fit"), (unknown, "do not fit")):
        with pytest.raises(NearlError, match=says):
            classifier.set_method(restore(backbone, adapter))
        assert classifier.method.source is good


@pytest.mark.parametrize(
    "config",
    [
        {"rank": 10**7}, {"width": 10**6}, {"queries": 10**12}, {"blocks": 10**6}, {"mlp_ratio": 1e308},
        {"mlp_ratio": float("nan")}, {"vision_layers": ["a"]}, {"support_tokens": 10**9}, {"heads": "4"}, {"rank": 4},
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_before_they_are_allocated(tiny, config):
    backbone = tiny("clip")
    adapter = adapter_for(backbone)
    adapter.meta["config"] = adapter.config | config
    with pytest.raises(NearlError, match="do not fit"):
        reader(backbone, PROMPTS, adapter)


def test_an_adapter_is_read_as_what_it_says_it_is(tiny):
    backbone = tiny("clip")
    adapter = adapter_for(backbone)
    for method, says in (("cocoop", "the method 'cocoop'"), ("lora", "do not fit")):
        adapter.meta["method"] = method
        with pytest.raises(NearlError, match=says):
            reader(backbone, PROMPTS, adapter)


def test_the_embedded_model_names_the_words_it_was_never_trained_on():
    backbone = load_backbone("embedded")
    prompts = PromptSet("x", ("a", "b"), (("a brain MRI of a glioma",), ("a zebra on a brain MRI", "Zebra glioma")))
    assert Classifier(backbone, prompts).unknown_words() == ["Zebra"]
    assert backbone.knows("Meningioma") and not backbone.knows("quetzalcoatl")


def test_a_model_trained_at_large_knows_every_word(backbone):
    assert backbone.knows("zebra")


def trusting(backbone, **changes):
    adapter = adapter_for(backbone)
    centroids = [[1.0] + [0.0] * (backbone.embed_dim - 1)]
    trust = Trust(PROMPTS.digest, 4.0, {"0.9": 0.5}, centroids, 0.001, {})
    adapter.meta["trust"] = trust.to_dict() | changes
    return adapter


def test_trust_that_comes_with_an_adapter_is_applied_until_the_prompts_are_edited(tiny):
    backbone = tiny("clip")
    records = [record(i) for i in range(3)]
    adapter = trusting(backbone)
    bare = reader(backbone, PROMPTS, Adapter(adapter.state, adapter.meta | {"trust": None})).predict(records)
    assert bare.trust is None
    classifier = reader(backbone, PROMPTS, adapter)
    said = classifier.predict(records)
    cooled = bare.adapted ** (1 / 4)
    np.testing.assert_allclose(said.adapted, cooled / cooled.sum(1, keepdims=True), atol=1e-4)
    np.testing.assert_array_equal(said.frozen, bare.frozen)
    assert said.trust["calibrated"] and said.trust["unlike"] == [True] * 3 and said.trust["notes"] == []
    for names, shares in zip(said.trust["sets"], bare.adapted, strict=True):  # from the shares before calibration
        assert set(names) == {c for c, p in zip(PROMPTS.classes, shares, strict=True) if p >= 0.5}
    classifier.set_prompts(default_prompts(PROMPTS.classes))
    edited = classifier.predict(records).trust
    assert not edited["calibrated"] and edited["sets"] is None and edited["unlike"] == [True] * 3
    assert "edited" in edited["notes"][0]
    classifier.set_prompts(PROMPTS)
    assert classifier.predict(records).trust["calibrated"]
    assert classifier.predict([]).trust["sets"] == []
    classifier.set_method(None)
    assert classifier.predict(records).trust is None


def test_an_adapter_with_unusable_trust_is_refused_and_the_old_one_stays(tiny):
    backbone = tiny("clip")
    good = trusting(backbone)
    classifier = reader(backbone, PROMPTS, good)
    for bad, says in (({"temperature": "hot"}, "cannot be used"), ({"centroids": [[0.5]]}, "another model")):
        with pytest.raises(NearlError, match=says):
            classifier.set_method(restore(backbone, trusting(backbone, **bad)))
        assert classifier.method.source is good and classifier.predict([record(0)]).trust["calibrated"]
