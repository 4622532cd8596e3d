"""Visitors who choose among models: each has a choice of their own, and adapters stay with the model they belong to."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import gradio as gr
import pytest

from app.chooser import actions as choosing
from app.chooser import html as chooser_views
from app.chooser import tab as chooser
from app.compare.models import actions as comparing
from app.compare.models import html as model_views
from app.context import Context
from app.engine import Engine
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.run import actions as teaching
from app.teach.shelf import actions as adapting
from app.teach.shelf import html as shelf_views
from nearl.adapters.store import zip_adapter
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from tests.support.app_work import ended, taught, visitor

PROMPTS = default_prompts(["lesion", "normal"]).to_dict()
MISSING = "hf-hub:somebody/not-here"


@pytest.fixture(scope="module")
def offering(checkpoints):
    """A page that offers three models of three kinds, and one that is not on this machine."""
    names = [f"local-dir:{checkpoints(kind)}" for kind in ("clip", "transformers-clip", "siglip")]
    engine = Engine(names[0], "cpu", offered=[*names[1:], MISSING])
    engine.start()
    engine.backbone()
    return engine


def shares(engine, workspace, images) -> list[float]:
    reading.bring(workspace, images[:1])
    reading.read(engine, workspace, PROMPTS)
    return workspace.viewing.prediction.frozen[0].tolist()


def test_each_visitor_has_a_choice_of_their_own_and_it_outlives_the_server(offering, registry, images):
    anna, ben = registry.get(None), registry.get(None)
    _, second, third, _ = offering.models.names
    before = shares(offering, anna, images)
    assert shares(offering, ben, images) == before
    choosing.choose(offering, anna, second)
    assert ben.viewing.prediction is not None and anna.viewing.prediction is None
    assert (offering.label(anna), offering.label(ben)) == ("transformers-clip", "clip")
    assert shares(offering, anna, images) != before == shares(offering, ben, images)
    choosing.choose(offering, ben, third)
    assert len({offering.backbone(one).identity["weights"] for one in (None, anna, ben)}) == 3
    again = type(anna)(None, anna.path)
    assert offering.chosen(again) == second and offering.chosen(registry.get(None)) == offering.name


def test_one_that_cannot_be_loaded_leaves_everything_as_it_was(offering, workspace, images, monkeypatch):
    shares(offering, workspace, images)
    kept, prediction = offering.chosen(workspace), workspace.viewing.prediction
    broken = offering.models.names[1]
    monkeypatch.setattr(offering.models, "get", lambda name: (_ for _ in ()).throw(NearlError("It is broken.")))
    with pytest.raises(NearlError, match="broken"):
        choosing.choose(offering, workspace, broken)
    assert offering.chosen(workspace) == kept and workspace.viewing.prediction is prediction
    workspace.choose(MISSING)  # of a server that had it
    assert offering.chosen(workspace) == kept


def test_what_is_said_of_the_models(offering, workspace):
    found = choosing.offers(offering, workspace)
    assert [offer.where for offer in found] == ["chosen", "here", "here", "away"]
    assert any("32 × 32" in fact for fact in found[0].facts)
    html = chooser_views.offers(found)
    assert html.count('data-act="use"') == 3 and "not on this machine" in html
    assert str(workspace.path) not in html and "/" not in found[0].name


def test_an_adapter_names_its_model_and_using_it_switches(offering, workspace, images, tmp_path):
    own, second = offering.models.names[:2]
    adapter = taught(offering)
    key = workspace.shelf.put(adapter)
    adapting.use(offering, workspace, key)
    assert adapting.homes(offering, workspace)[key].where == "own"
    choosing.choose(offering, workspace, second)
    assert not workspace.shelf.in_use
    home = adapting.homes(offering, workspace)[key]
    assert (home.model, home.where) == ("clip", "here")
    html = shelf_views.shelf(workspace.shelf.items(), (), adapting.homes(offering, workspace))
    assert "Switch to “clip” and use it" in html
    path = zip_adapter(adapter, tmp_path / "adapter.zip")
    added = adapting.add(offering, workspace, path)
    assert "“clip”" in adapting.take(offering, workspace, added)
    assert not workspace.shelf.in_use and offering.chosen(workspace) == second
    adapting.use(offering, workspace, key)
    assert (offering.chosen(workspace), workspace.shelf.in_use) == (own, key)
    shares(offering, workspace, images)
    assert workspace.viewing.prediction.adapted is not None


def test_an_adapter_of_a_model_that_is_not_here_says_so(offering, workspace):
    adapter = taught(offering)
    adapter.meta["backbone"] = {"name": MISSING, "config_sha256": "x", "weights": "x"}
    key = workspace.shelf.put(adapter)
    home = adapting.homes(offering, workspace)[key]
    assert (home.model, home.where) == (MISSING, "away")
    with pytest.raises(NearlError, match="not on this machine yet"):
        adapting.use(offering, workspace, key)
    adapter.meta["backbone"]["name"] = "another"
    stranger = workspace.shelf.put(adapter)
    assert adapting.homes(offering, workspace)[stranger].where == "none"


def test_a_run_that_ends_after_a_switch_is_shelved_but_not_put_to_use(offering, registry, in_threads, engine):
    workspace = visitor(registry)
    choice = teaching.Choice("quick", steps=4, early_stop=False)
    with offering.queue._turn:  # nothing starts before the switch
        run = teaching.start(offering, workspace, gathering.prompts_for(workspace).to_dict(), choice)
        assert offering.queue.models() == {offering.name}
        choosing.choose(offering, workspace, offering.models.names[1])
    key = ended(run).look().adapter_key
    assert key and not workspace.shelf.in_use
    assert adapting.homes(offering, workspace)[key].where == "here"


def test_a_run_that_ends_after_a_switch_there_and_back_is_put_to_use(
    offering, registry, in_threads, engine, monkeypatch
):
    monkeypatch.setattr("app.work.run.speaks_against", lambda results: False)
    workspace = visitor(registry)
    choice = teaching.Choice("quick", steps=4, early_stop=False)
    with offering.queue._turn:  # nothing starts before the switches
        run = teaching.start(offering, workspace, gathering.prompts_for(workspace).to_dict(), choice)
        for name in (offering.models.names[1], offering.name):
            choosing.choose(offering, workspace, name)
    key = ended(run).look().adapter_key
    assert key and workspace.shelf.in_use == key


def test_a_model_that_leaves_memory_is_let_go_and_read_with_again(checkpoints, registry, images):
    names = [f"local-dir:{checkpoints(kind)}" for kind in ("clip", "transformers-clip")]
    engine = Engine(names[0], "cpu", offered=names[1:])
    engine.models.left = registry.let_go
    engine.start()
    anna = registry.get(None)
    before = shares(engine, anna, images)
    first = weakref.ref(engine.backbone())
    engine.models.budget = engine.models.size(names[0]) + 1  # the other one is smaller
    engine.models.get(names[1])
    assert first() is None and anna.viewing.prediction is not None
    reading.read(engine, anna, default_prompts(["lesion", "healthy"]).to_dict())
    assert shares(engine, anna, images) == pytest.approx(before)


@pytest.mark.parametrize("moment", ["__init__", "predict"])
def test_a_model_that_leaves_during_a_reading_is_neither_loaded_again_by_it_nor_held(
    checkpoints, registry, images, monkeypatch, moment
):
    names = [f"local-dir:{checkpoints(kind)}" for kind in ("clip", "transformers-clip")]
    engine = Engine(names[0], "cpu", offered=names[1:])
    engine.models.left = registry.let_go
    engine.start()
    first, real = weakref.ref(engine.backbone()), getattr(Classifier, moment)
    engine.models.budget = engine.models.size(names[0]) + 1  # the other one is smaller
    anna, ben = registry.get(None), registry.get(None)

    def then_another_is_chosen(*given):
        found = real(*given)
        choosing.choose(engine, ben, names[1])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, moment, then_another_is_chosen)
        shares(engine, anna, images)
    assert engine.models.kept() == names[1:] and anna.viewing.prediction is not None
    gc.collect()
    assert first() is None
    anna.maps.keep([("a map", 1)])
    reading.read(engine, anna, default_prompts(["lesion", "healthy"]).to_dict())
    assert "a map" not in anna.maps  # of the earlier prompts


def test_one_image_is_read_by_every_model_that_is_here(offering, workspace, images, monkeypatch):
    with pytest.raises(NearlError, match="no image"):
        next(comparing.columns(offering, workspace))
    own = shares(offering, workspace, images)
    *_, first, (record, prompts, found) = comparing.columns(offering, workspace)
    assert [one.state for one in first[2]] == ["read", "read", "waits", "away"]
    assert [one.state for one in found] == ["read", "read", "read", "away"]
    assert found[0].shares == pytest.approx(own) and len({one.shares for one in found[:3]}) == 3
    assert workspace.viewing.prediction.frozen[0].tolist() == own  # nothing of the reading has changed
    assert "models are closest to" in comparing.agreement(tuple(prompts.classes), found)
    html = model_views.columns("", record.name, prompts.classes, found, "")
    assert html.count("bar-line before") == 6 and "Not on this machine" in html
    get, broken = offering.models.get, offering.models.names[1]

    def some(name):
        if name == broken:
            raise NearlError("<b>It is broken.</b>")
        return get(name)

    monkeypatch.setattr(offering.models, "get", some)
    *_, (_, _, found) = comparing.columns(offering, workspace)
    assert [one.state for one in found] == ["read", "failed", "read", "away"]
    assert "&lt;b&gt;It is broken" in model_views.columns("", "", prompts.classes, found, "")


def test_what_was_measured_of_the_embedded_model_is_said_of_that_one_alone(offering, workspace, monkeypatch):
    ctx = SimpleNamespace(engine=offering)
    assert Context.beside.fget(ctx) == {}
    monkeypatch.setattr("app.context.FALLBACK", offering.name)
    monkeypatch.setattr("app.chooser.tab.FALLBACK", offering.name)
    assert "data-unmeasured" not in chooser.header(offering, workspace)
    choosing.choose(offering, workspace, offering.models.names[1])
    assert "data-unmeasured" in chooser.header(offering, workspace)
    assert "transformers-clip" in chooser.header(offering, workspace)


def test_a_press_chooses_and_a_wrong_one_is_refused(offering, workspace, monkeypatch):
    with gr.Blocks() as page:
        ctx = SimpleNamespace(
            engine=offering, workspace=lambda key: workspace, session=gr.State(None), changed=gr.State(0)
        )
        top, button = gr.HTML(), gr.Button()
        part = chooser.build(offering)
        chooser.wire(ctx, part, top, button.click(lambda: None))
    press = next(f.fn for f in page.fns.values() if f.name == "on_press")
    own, key = offering.chosen(workspace), workspace.shelf.put(taught(offering), "mine")
    adapting.use(offering, workspace, key)
    *_, answer = press("w", SimpleNamespace(_data={"act": "use", "model": 2}))
    assert offering.chosen(workspace) == offering.models.names[2] and ctx.changed in answer
    assert "“mine” belongs to the model before" in answer[part.message]
    *_, answer = press("w", SimpleNamespace(_data={"act": "use", "aside": "1"}))
    assert answer[part.message] == "" and (offering.chosen(workspace), workspace.shelf.in_use) == (own, key)
    *_, answer = press("w", SimpleNamespace(_data={"act": "use", "aside": "1"}))
    assert "no adapter to put back" in answer[part.message] and workspace.shelf.in_use == key

    # a model that was downloaded takes its place too, and the page says so when it is there
    workspace.choose(offering.models.names[2])
    arrived = SimpleNamespace(name=offering.models.names[2], ended=True, error="")
    monkeypatch.setattr(offering.downloads, "of", lambda workspace: arrived)
    ctx.pages = SimpleNamespace(known=lambda key: workspace)
    answer = next(f.fn for f in page.fns.values() if f.name == "on_tick")("w")
    assert "“siglip” is here now" in answer[part.message] and "“mine” belongs" in answer[part.message]
    assert 'data-aside="1"' in answer[part.offers] and "“mine” was put aside" in chooser.header(offering, workspace)
    workspace.shelf.delete(key)
    assert "data-aside" not in chooser_views.offers([], choosing.aside(workspace) or "")
    for data in ({"act": "use", "model": 9}, {"act": "drop", "model": 1}):
        *_, answer = press("w", SimpleNamespace(_data=data))
        assert "no longer there" in answer[part.message]
    assert offering.chosen(workspace) == offering.models.names[2]
