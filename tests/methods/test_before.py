"""Adapters that an earlier version wrote load and give the same probabilities, and teaching gives the same adapters."""

import numpy as np
import pytest
import torch

from nearl.adapters.store import load_adapter
from nearl.methods import Task, card, make, recipe, restore
from nearl.reading.classifier import Classifier
from tests.support.before import (
    ADAPTERS,
    BEFORE,
    EDITED,
    EXPECTED,
    NOW,
    OPTIONS,
    PROMPTS,
    RECIPE,
    adapter_folder,
    shades,
)  # fmt: skip

NEW = shades(2, seed=9).records
# Older releases of torchvision crop and scale views a little differently from the one that the fixtures were made with.
SAME = 1e-3 if torch.__version__ >= (2, 14) else 0.04


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_gives_the_same_probabilities(portable, name):
    _, backbone = portable
    adapter = load_adapter(adapter_folder(name), backbone.identity)
    classifier = Classifier(backbone, PROMPTS, restore(backbone, adapter))
    prediction = classifier.predict(NEW)
    np.testing.assert_allclose(prediction.frozen, EXPECTED[name]["frozen"], atol=1e-5)
    np.testing.assert_allclose(prediction.adapted, EXPECTED[name]["adapted"], atol=1e-5)
    assert adapter.meta["method"] == NOW.get(name, adapter.meta["method"])
    if card(NOW.get(name, name)).any_classes:
        classifier.set_prompts(EDITED)
        np.testing.assert_allclose(classifier.predict(NEW).adapted, EXPECTED[name]["edited"], atol=1e-5)


@pytest.mark.parametrize("kind", ["done", "cancelled"])
def test_the_adapter_of_a_run_gives_the_same_probabilities(portable, kind):
    _, backbone = portable
    prediction = Classifier(backbone, PROMPTS, restore(backbone, load_adapter(BEFORE / "runs" / kind))).predict(NEW)
    np.testing.assert_allclose(prediction.adapted, EXPECTED[f"runs/{kind}"]["adapted"], atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_teaching_gives_the_same_probabilities(portable, name):
    now = NOW.get(name, name)
    method = make(now, Task(portable[1], PROMPTS, shades(4, seed=0)), **OPTIONS.get(name, {}))
    for _ in method.fit(recipe(now, **RECIPE)):
        pass
    np.testing.assert_allclose(method.predict(NEW), EXPECTED[name]["adapted"], atol=SAME)
