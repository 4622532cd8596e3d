"""Adapters of every method in the classifier: whose words they follow, what they refuse, and the maps of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from app.engine import Engine
from app.explain import actions as explaining
from app.explain import choice as choosing
from app.predict import actions as reading
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from nearl.adapters.store import save_adapter, zip_adapter
from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.explain import MapRequest, Scorer, Trace, available, draw
from nearl.explain.report import write_maps
from nearl.explain.score import randomised
from nearl.explain.words import words
from nearl.methods import METHODS, card, make, restore
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier
from tests.support.methods_data import PROMPTS, shades, task_of, taught
from tests.support.reading import Counter, reader

NEW = shades(2, seed=9).records
FIXED = [name for name in METHODS if not card(name).any_classes]
OPEN = [name for name in METHODS if card(name).any_classes and not card(name).ablates]
EDITED = PromptSet("edited", ("two", "three", "One"), (("the two",), ("chest x ray",), ("lung",)))


@pytest.fixture(scope="module")
def adapters(tiny):
    """Function name -> an adapter of that method, taught once."""
    made = {}

    def adapter(name):
        if name not in made:
            made[name] = taught(make(name, task_of(tiny("biomedclip"))), lr=1e-2).adapter()
        return made[name]

    return adapter


def test_probes_and_caches_are_those_that_know_their_own_classes_alone():
    assert FIXED == ["linear-probe", "text-probe", "tip-adapter", "tip-adapter-f"]


@pytest.mark.parametrize("name", OPEN)
def test_edited_prompts_are_followed(tiny, adapters, name):
    backbone = tiny("biomedclip")
    classifier = reader(backbone, PROMPTS, adapters(name))
    before = classifier.predict(NEW).adapted
    classifier.set_prompts(EDITED)
    prediction = classifier.predict(NEW)
    assert prediction.adapted.shape == (4, 3) and classifier.untaught() == ["three"]
    fresh = reader(backbone, EDITED, adapters(name)).predict(NEW)
    np.testing.assert_allclose(prediction.adapted, fresh.adapted, atol=1e-6)
    classifier.set_prompts(PROMPTS)
    np.testing.assert_allclose(classifier.predict(NEW).adapted, before, atol=1e-6)
    if name == "zero-shot":
        np.testing.assert_allclose(fresh.adapted, fresh.frozen, atol=1e-6)


@pytest.mark.parametrize("name", FIXED)
def test_a_class_that_was_never_fitted_is_refused_and_nothing_changes(tiny, adapters, name):
    backbone = tiny("biomedclip")
    classifier = reader(backbone, PROMPTS, adapters(name))
    before = classifier.predict(NEW)
    with pytest.raises(NearlError, match=f"{card(name).title} answers only .*one, two.*“three”"):
        classifier.set_prompts(EDITED)
    assert classifier.prompt_set is PROMPTS
    np.testing.assert_array_equal(classifier.predict(NEW).adapted, before.adapted)
    plain = Classifier(backbone, EDITED)
    with pytest.raises(NearlError, match="“three”"):
        plain.set_method(restore(backbone, adapters(name)))
    assert plain.method is None and plain.predict(NEW).adapted is None

    classifier.set_prompts(PromptSet("turned", ("Two", "one"), PROMPTS.prompts[::-1]))  # the same in another order
    np.testing.assert_allclose(classifier.predict(NEW).adapted, before.adapted[:, ::-1], atol=1e-6)
    classifier.set_prompts(PromptSet("less", ("two",), (("medical image of the two",),)))
    np.testing.assert_array_equal(classifier.predict(NEW).adapted, np.ones((4, 1)))


def test_an_image_is_looked_at_once(tiny, adapters):
    backbone = tiny("biomedclip")
    passes = Counter(backbone.vision.blocks[0])
    try:
        for name in ("tip-adapter", "coop"):  # both from the frozen features
            classifier = reader(backbone, PROMPTS, adapters(name))
            classifier.predict(NEW), classifier.predict(NEW[::-1])
            assert passes.take() == 4
        classifier = reader(backbone, PROMPTS, adapters("alta"))
        inside = Counter(classifier.method.tower.vision.blocks[0])
        classifier.predict(NEW), classifier.predict(NEW[::-1])
        assert (passes.take(), inside.take()) == (4, 4)
        assert classifier.predict([]).adapted.shape == (0, 2)
    finally:
        passes.handle.remove()


def test_the_classifier_keeps_no_more_than_its_limit(tiny, monkeypatch):
    monkeypatch.setattr("nearl.reading.classifier.CACHE_ENTRIES", 4)
    backbone = tiny("biomedclip")
    classifier = Classifier(backbone, PROMPTS)
    records = shades(4).records
    classifier.predict(records)
    passes = Counter(backbone.vision.blocks[0])
    classifier.predict(records[-1:])
    assert passes.take() == 0
    classifier.predict(records[:1])
    assert passes.take() == 1
    passes.handle.remove()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("coop", lambda a: a.meta["config"]["options"].update(context=30)),
        ("lora", lambda a: a.meta["config"]["options"].update(rank=40)),
        ("maple", lambda a: a.meta["config"]["options"].update(depth=1)),
        ("maple", lambda a: a.meta["config"]["options"].update(depth=0)),
        ("clip-adapter", lambda a: a.meta["config"]["options"].update(reduction=0)),
        ("tip-adapter", lambda a: a.state.update(keys=torch.zeros(2**20, 1))),
        ("tip-adapter", lambda a: a.meta["config"]["chosen"].update(alpha=1e308)),
        ("linear-probe", lambda a: a.state.update(weight=torch.zeros(3, 32))),
        ("alta", lambda a: a.state.pop("text_serial.0.up.bias")),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_allocated(tiny, adapters, name, spoil, monkeypatch):
    adapter = taught(make(name, task_of(tiny("biomedclip")))).adapter()
    spoil(adapter)
    tried = []
    monkeypatch.setattr(METHODS[name], "load_state_dict", lambda *_: tried.append(1))
    with pytest.raises(NearlError, match="do not fit"):
        restore(tiny("biomedclip"), adapter)
    assert not tried or "alpha" in adapter.config["chosen"]


@pytest.mark.parametrize("name", ["tip-adapter", "prolip", "lora", "alta"])
def test_maps_are_of_the_adapted_model(tiny, adapters, name):
    classifier = reader(tiny("biomedclip"), PROMPTS, adapters(name))
    trace = Trace(Scorer(classifier), NEW[:2])
    with torch.no_grad():
        torch.testing.assert_close(trace.logits.detach(), classifier.method.logits(NEW[:2]), atol=1e-3, rtol=1e-4)
    cards = available(classifier, True)
    assert {"gradcam", "relevance", "occlusion"} <= {c.key for c in cards}
    for each in cards:
        if not each.slow:
            after = draw(trace, MapRequest(each.key, 0))[0]
            assert after.adapted and np.isfinite(after.values).all()
    for key in ("novelty", "evidence"):
        with pytest.raises(NearlError, match=f"{card(name).title}.*choose another map"):
            draw(trace, MapRequest(key, 0))
    with pytest.raises(NearlError, match=card(name).title):
        words(trace, 0)
    control = Trace(Scorer(randomised(classifier, 0), head_seed=0), NEW[:2])
    assert (control.logits - trace.logits).abs().max() > 1e-3


def test_where_no_map_can_be_drawn_it_is_said_and_those_before_teaching_stay(tiny, adapters, tmp_path):
    classifier = reader(tiny("biomedclip"), PROMPTS, adapters("maple"))
    assert not classifier.mapped and available(classifier, True) == []
    with pytest.raises(NearlError, match="No map can be drawn of MaPLe"):
        Scorer(classifier)
    found = write_maps(classifier, NEW[0], MapRequest.named(PROMPTS.classes, "one"), tmp_path)
    assert [m["adapted"] for m in found["maps"]] == [False] and "MaPLe" in found["left_out"][0]
    with pytest.raises(NearlError, match="No map can be drawn of MaPLe"):
        write_maps(classifier, NEW[0], MapRequest.named(PROMPTS.classes, "one", "novelty"), tmp_path)


def test_all_maps_of_another_methods_adapter_are_written(tiny, adapters, tmp_path):
    classifier = reader(tiny("biomedclip"), PROMPTS, adapters("coop"))
    found = write_maps(classifier, NEW[0], MapRequest.named(PROMPTS.classes, "one"), tmp_path)
    assert [m["adapted"] for m in found["maps"]] == [False, True, None] and found["profile"] is None
    with pytest.raises(NearlError, match="CoOp"):
        write_maps(classifier, NEW[0], MapRequest.named(PROMPTS.classes, "one", "novelty"), tmp_path)


def test_the_command_line_takes_any_adapter(tiny, adapters, checkpoints, tmp_path, capsys):
    folder, image = save_adapter(adapters("tip-adapter"), tmp_path / "tip"), tmp_path / "one.png"
    Image.fromarray(np.asarray(NEW[0].pixels)).save(image)
    common = ["--backbone", f"local-dir:{checkpoints('biomedclip')}", "--adapter", str(folder), "--json"]
    main(["predict", str(image), *common])
    found = json.loads(capsys.readouterr().out)["predictions"][0]["adapted"]
    expected = reader(tiny("biomedclip"), PROMPTS, adapters("tip-adapter")).predict(NEW[:1]).adapted[0]
    np.testing.assert_allclose(list(found.values()), expected, atol=1e-4)
    EDITED.save(tmp_path / "edited.json")
    with pytest.raises(SystemExit) as stop:
        main(["predict", str(image), "--prompts", str(tmp_path / "edited.json"), *common])
    assert stop.value.code == 2 and "Tip-Adapter answers only" in capsys.readouterr().err


def test_the_shelf_takes_any_adapter(tiny, adapters, tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "_load_one", lambda self, name: tiny("biomedclip"))
    engine = Engine("any", "cpu")
    engine.start()
    workspace = Workspace("w", tmp_path / "w")
    path = zip_adapter(adapters("lora"), tmp_path / "lora.zip")
    key = adapting.add(engine, workspace, path)
    assert workspace.shelf.entry(key).method == "lora"
    adapting.use(engine, workspace, key)
    workspace.viewing.bring(NEW[:2], [], False)
    reading.read(engine, workspace, PROMPTS.to_dict())
    assert workspace.viewing.prediction.adapted.shape == (2, 2)
    assert adapting.compare(engine, workspace, [key])[0][2] == pytest.approx(
        workspace.viewing.prediction.adapted[0], abs=1e-5
    )
    adapting.zip_file(workspace, key)
    settled = choosing.settle(workspace, choosing.Choice(when=reading.AFTER, class_name="one"))
    assert settled.when == reading.AFTER and explaining.word_shares(engine, workspace, settled) == []
    assert explaining.panels(engine, workspace, settled)[0].heatmap.adapted
    key = workspace.shelf.put(adapters("linear-probe"))
    adapting.use(engine, workspace, key)
    with pytest.raises(NearlError, match="Linear probe answers only"):
        reading.read(engine, workspace, EDITED.to_dict())
    assert workspace.viewing.prediction is None
    adapting.use(engine, workspace, workspace.shelf.put(adapters("maple")))
    reading.read(engine, workspace, PROMPTS.to_dict())
    layer, said = reading.map_layer(engine, workspace, reading.MapChoice(reading.AFTER))
    assert layer is None and "MaPLe" in said
    assert choosing.settle(workspace, choosing.Choice(when=reading.AFTER)).when == reading.BEFORE
    workspace.close()
