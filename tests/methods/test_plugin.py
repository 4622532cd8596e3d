"""A method that a plugin registers in one line is taught, saved, restored, read with and mapped like the others."""

import importlib
import sys

import numpy as np
import pytest

from nearl.adapters.store import load_adapter, save_adapter
from nearl.errors import NearlError
from nearl.explain import MapRequest, Scorer, Trace, available, draw
from nearl.methods import METHODS, make, restore
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier
from tests.support.methods_data import PROMPTS, shades, task_of, taught

PLUGIN = "tests.support.toy_method"


@pytest.fixture
def plugged(monkeypatch):
    """With the toy method; without it afterwards."""
    monkeypatch.setenv("NEARL_PLUGINS", PLUGIN)
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    sys.modules.pop(PLUGIN, None)
    importlib.import_module(PLUGIN)
    yield
    sys.modules.pop(PLUGIN, None)


def test_it_is_read_with_and_mapped_like_the_others(plugged, tiny, tmp_path):
    backbone, new = tiny("bert-pooler"), shades(2, seed=9).records
    method = taught(make("toy", task_of(backbone)), lr=0.1, steps=30)
    adapter = load_adapter(save_adapter(method.adapter(), tmp_path), backbone.identity)
    assert adapter.meta["method"] == "toy" and adapter.meta["recipe"]["steps_taken"] == 30
    classifier = Classifier(backbone, PROMPTS, restore(backbone, adapter))
    prediction = classifier.predict(new)
    np.testing.assert_allclose(prediction.adapted, method.predict(new), atol=1e-6)
    assert np.abs(prediction.adapted - prediction.frozen).max() > 1e-3
    classifier.set_prompts(PromptSet("three", ("a", "b", "c"), (("lung",), ("chest",), ("brain",))))
    assert classifier.predict(new).adapted.shape == (4, 3) and classifier.untaught() == ["a", "b", "c"]
    trace = Trace(Scorer(classifier), new[:1])
    keys = [card.key for card in available(classifier, True)]
    assert "gradcam" in keys and "novelty" not in keys
    assert np.isfinite(draw(trace, MapRequest("gradcam", 0))[0].values).all()


def test_without_the_plugin_its_adapter_is_refused(tiny, plugged, monkeypatch):
    adapter = taught(make("toy", task_of(tiny("clip")))).adapter()
    monkeypatch.undo()
    with pytest.raises(NearlError, match=r"the method 'toy'.*plugin"):
        restore(tiny("clip"), adapter)
