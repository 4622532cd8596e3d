"""The Explain tab without a browser: what is asked of the model, what is kept, and what the page is told."""

import asyncio
import html
import inspect
import json
import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from app import api
from app.engine import DeviceLock
from app.explain import actions as explaining
from app.explain import choice as choosing
from app.explain import drawing
from app.explain import html as map_views
from app.explain import tab as explain
from app.explain.choice import CLASSES, COMPARE, IMAGES, ONE, Choice
from app.predict import actions as reading
from app.predict.actions import AFTER, BEFORE
from app.visitor.workspace import Workspace
from nearl.errors import NearlError
from nearl.explain import MAPS
from nearl.prompts import default_findings
from nearl.reading.classifier import Classifier
from nearl.resources import ASSETS
from tests.support.reading import PROMPTS, Counter, adapter_for, reader, record

HOSTILE = "<script>alert(1)</script>"
ENGINE = SimpleNamespace(device_lock=DeviceLock(), models=SimpleNamespace(several=True))
LOOK = {"colours": "viridis", "smooth": False, "contour": 0.9}


@pytest.fixture
def workspace(tiny, tmp_path):
    backbone = tiny("bert-pooler")
    made = Workspace("w", tmp_path / "w")
    made.viewing.bring([record(i, HOSTILE) for i in range(3)], [], False)
    made.shelf.use(made.shelf.put(adapter_for(backbone)))
    classifier = made.viewing.ask(PROMPTS, lambda prompts: reader(backbone, prompts, made.shelf.adapter))
    made.viewing.keep(classifier.predict(made.viewing.records), [])
    yield made
    made.close()


@pytest.fixture
def passes(workspace):
    counter = Counter(workspace.viewing.classifier.backbone.vision.blocks[0])
    yield counter
    counter.handle.remove()


def shown(workspace, **choice):
    choice = choosing.settle(workspace, Choice(**choice))
    return choice, explaining.panels(ENGINE, workspace, choice)


def test_what_was_drawn_once_asks_the_model_nothing(workspace, passes):
    shown(workspace, class_name="glioma")
    assert passes.take() == 1
    for card in choosing.offered(workspace):
        if not card.slow and not card.adapter:
            for layer in (0, 2, 4) if card.layers and card.key != "eigencam" else (0,):
                _, found = shown(workspace, class_name="glioma", method=card.key, layer=layer)
                map_views.stage(found, ONE, False, LOOK)
            explaining.figure_of(workspace, found, 0.3, LOOK)
    shown(workspace, class_name="glioma", method="attention", layer=2, head=1)
    assert passes.take() == 0
    shown(workspace, view=CLASSES)
    assert passes.take() == 1  # one forward pass for the class that was missing
    shown(workspace, class_name="normal")
    assert passes.take() == 0
    workspace.viewing.bring(workspace.viewing.records, [], False)
    assert not len(workspace.maps)  # nothing of an image stays behind


def test_a_map_is_drawn_once_for_predict_and_explain(workspace, passes):
    reading.map_layer(ENGINE, workspace, reading.MapChoice(BEFORE, "glioma"))
    assert passes.take() == 1
    _, (panel,) = shown(workspace, class_name="glioma", method="gradcam", when=BEFORE)
    assert passes.take() == 0 and panel.heatmap.class_name == "glioma"
    shown(workspace, class_name="normal", method="gradcam", when=AFTER)
    assert passes.take() == 1
    reading.map_layer(ENGINE, workspace, reading.MapChoice(AFTER, "normal"))
    assert passes.take() == 0


def test_views(workspace, passes):
    _, found = shown(workspace, view=COMPARE, class_name="normal")
    assert [panel.heatmap.adapted for panel in found] == [False, True, None] and found[2].heatmap.signed
    assert passes.take() == 2
    _, found = shown(workspace, view=IMAGES, method="evidence", class_name="normal")
    assert len(found) == 3 and passes.take() == 2  # the first image was there already
    _, found = shown(workspace, view=CLASSES, method="evidence")
    assert [panel.heatmap.class_name for panel in found] == list(PROMPTS.classes) and found[0].span == found[1].span
    page = map_views.stage(found, CLASSES, True, LOOK)
    assert page.count("<figure>") == 2 and "Synthetic" in page and "logits, against to for" in page
    _, found = shown(workspace, control=True)
    assert len(found) == 2 and "scrambled" in found[1].title
    assert abs(found[0].heatmap.values - found[1].heatmap.values).max() > 0


def test_a_choice_that_cannot_be_had_is_settled(workspace, tiny):
    choice, _ = shown(workspace, method="novelty", view=CLASSES, when=BEFORE, class_name="gone", layer=40)
    assert (choice.method, choice.when, choice.view) == ("novelty", AFTER, ONE)
    assert choice.class_name in PROMPTS.classes and choice.layer == 4
    workspace.shelf.use(None)
    with pytest.raises(NearlError, match="no reading yet"):
        choosing.settle(workspace, Choice())
    classifier = workspace.viewing.ask(PROMPTS, lambda prompts: Classifier(tiny("clip"), prompts))
    workspace.viewing.keep(classifier.predict(workspace.viewing.records), [])
    choice, _ = shown(workspace, method="novelty", view=COMPARE, when=AFTER)
    assert (choice.method, choice.when, choice.view) == ("gradcam", BEFORE, ONE)
    assert "evidence" not in {card.key for card in choosing.offered(workspace)}


def test_names_never_become_markup_and_stay_out_of_files(workspace):
    _, found = shown(workspace, view=IMAGES)
    assert "<script" not in map_views.stage(found, IMAGES, False, {})
    comment = Image.open(explaining.figure_of(workspace, found, 0.5, {})).text["Comment"]
    assert "script" not in comment and "Not for diagnosis" in comment


def test_words_and_layers_are_told(workspace):
    choice = choosing.settle(workspace, Choice(method="relevance", class_name="glioma"))
    page = map_views.words_line(explaining.word_shares(ENGINE, workspace, choice))
    assert page.count('class="word"') == 4
    page = map_views.profile(explaining.layer_profile(ENGINE, workspace))
    assert "Image side, layer by layer" in page and "Text side" in page and "glioma" in page


def test_a_map_that_is_no_better_than_chance_or_its_control_is_called_so(workspace, monkeypatch):
    identity = workspace.viewing.classifier.backbone.identity
    rows = [
        {"method": name, "which": which, "pointing": {"mean": value}}
        for name, values in {"attention": (0.05, 0.04), "novelty": (0.6, 0.7), "gradcam": (0.8, 0.2)}.items()
        for which, value in zip(("map", "randomised model"), values, strict=True)
    ]
    study = {
        "backbone": identity,
        "chance": {"pointing": 0.06},
        "rows": rows,
        "beats_chance": {"attention": False, "novelty": True, "gradcam": True},
        "beats_control": {"attention": False, "novelty": False, "gradcam": True},
    }
    monkeypatch.setattr(explaining, "_measured", lambda: study)
    assert explaining.measured(workspace, "relevance") is None
    words = {k: map_views.card(MAPS[k], explaining.measured(workspace, k)) for k in ("attention", "novelty", "gradcam")}
    assert "Not better than chance" in words["attention"] and "5\u202f%" in words["attention"]
    assert "Not told apart from a scrambled model" in words["novelty"]
    assert "Checked" in words["gradcam"] and "note" not in words["gradcam"]
    monkeypatch.setattr(explaining, "_measured", lambda: study | {"backbone": {"weights": "others"}})
    assert explaining.measured(workspace, "attention") is None


class Built:
    """The tab on a page, with its handlers by name; `given` is what a page sends."""

    def __init__(self, workspace):
        self.workspace = workspace
        ctx = SimpleNamespace(engine=ENGINE, workspace=lambda key: workspace, run=self.run)
        with gr.Blocks() as self.page, gr.Tabs(), gr.Tab("Explain") as item:
            ctx.session, ctx.changed = gr.State(None), gr.State(0)
            self.tab = explain.build(ctx, item)

    @staticmethod
    async def run(lane, work, *given):
        return work(*given)

    def function(self, name):
        return next(f for f in self.page.fns.values() if f.name == name)

    def call(self, name, about="glioma", method="gradcam"):
        """All answers of a handler in one dict, the later ones over the earlier."""
        chosen = (ONE, BEFORE, about, method, 0, 0, False, 55, "inferno", True, 0.0)
        given = {"show": chosen, "on_left": (method,), "on_cancel": (method,)}.get(name, ())
        found = self.function(name).fn("w", *given)
        found = [found] if isinstance(found, dict) else found
        if inspect.isasyncgen(found):
            found = asyncio.run(_all(found))
        return {k: v for answer in found for k, v in answer.items()}


async def _all(answers):
    return [answer async for answer in answers]


def test_one_event_draws_all_that_is_chosen(workspace):
    """Several would be answered in either order."""
    built = Built(workspace)
    tab = built.tab
    drawing_ones = [f for f in built.page.fns.values() if tab.stage in f.outputs or tab.download in f.outputs]
    assert [f.trigger_mode for f in drawing_ones] == ["always_last"]
    told = {target for target, _ in drawing_ones[0].targets}
    assert told >= {part._id for part in (*tab.look, *tab.choices, tab.cancel) if part is not tab.about}
    for name in ("on_class", "on_pick"):  # they change what it listens to
        assert {c._id for c in built.function(name).outputs if c is not tab.message} <= told


def test_no_map_stands_under_a_choice_that_is_not_its_own(workspace, monkeypatch):
    built = Built(workspace)
    built.call("show")
    workspace.maps.pick("normal")
    tab, stages = built.tab, []
    chosen = (ONE, BEFORE, "normal", "gradcam", 0, 0, False, 55, "inferno", True, 0.0)
    for answer in built.function("show").fn("w", *chosen):
        if tab.message in answer:  # with the controls, while it is drawn, and at the end
            stages.append(answer[tab.stage])
    assert len(stages) == 2 and 'class="map"' not in stages[0] and 'class="map"' in stages[1]
    for stage in stages:
        assert "for “normal”" in stage and "glioma" not in stage.split("data-of")[1].split(">")[0]
    of = json.loads(html.unescape(re.search('data-of="([^"]*)"', stages[1])[1]))
    assert (of["class"], of["method"], of["image"]) == ("normal", "gradcam", 0)

    def fails(*given):
        raise NearlError("It cannot be drawn.")

    monkeypatch.setattr(explaining, "panels", fails)
    assert 'class="map"' not in built.call("show")[tab.stage]

    def changed(*given):
        workspace.viewing.keep(replace(workspace.viewing.prediction), [])
        fails()

    monkeypatch.setattr(explaining, "panels", changed)  # another adapter is in use since it began
    assert "cannot be drawn" not in str(built.call("show").values())


def test_how_plausible_maps_are_is_said_of_the_model_that_was_looked_at(workspace, monkeypatch):
    weights = workspace.viewing.classifier.backbone.identity["weights"]
    monkeypatch.setattr(explaining, "BY_EYE", {weights[:12]: (3, 7)})
    _, found = shown(workspace)
    words = explaining.plausible(workspace, "gradcam")
    assert explaining.plausible(workspace, "rollout") == "" != words
    assert "of 7" in words and words in html.unescape(map_views.stage(found, ONE, False, {}, known=words))
    monkeypatch.undo()
    card = (ASSETS / "backbone" / "README.md").read_text(encoding="utf-8")
    shipped = json.loads((ASSETS / "backbone" / "measured.json").read_text(encoding="utf-8"))["weights"]
    plausible, of = explaining.BY_EYE[shipped[:12]]
    assert f"**{plausible} of {of} Grad-CAMs are plausible**" in " ".join(card.split())


def test_the_map_is_of_the_answer_on_show_until_a_class_is_chosen(workspace):
    built, answers = Built(workspace), []
    prediction = workspace.viewing.prediction
    flipped = replace(prediction, frozen=np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]), adapted=None)
    workspace.viewing.keep(flipped, [])

    def shown(**given):
        answer = built.call("show", **given)
        answers.append(answer[built.tab.stage])
        return answer[built.tab.about].get("value")

    assert shown(about="normal") == "glioma"  # what an earlier image left in the control
    press = SimpleNamespace(_data={"act": "pick", "pick": 1})
    built.function("on_pick").fn("w", press)
    assert shown(about="glioma") == "normal" and "for “normal”" in answers[-1]
    built.function("on_class").fn("w", "glioma")
    assert shown(about="glioma") is None and "for “glioma”" in answers[-1]
    assert shown(about="glioma", method="layercam") is None and "for “glioma”" in answers[-1]
    press._data["pick"] = 2
    built.function("on_pick").fn("w", press)
    assert shown(about="normal") == "glioma"
    workspace.maps.pick("normal")
    workspace.viewing.bring(workspace.viewing.records[1:], [], False)
    workspace.viewing.keep(replace(flipped, frozen=np.array([[0.9, 0.1], [0.1, 0.9]])), [])
    assert shown(about="normal") == "glioma"


def test_maps_of_findings_are_of_their_presence(workspace):
    viewing, backbone = workspace.viewing, workspace.viewing.classifier.backbone
    workspace.shelf.use(None)
    viewing.forget_reading(None)
    classifier = viewing.ask(default_findings(["glioma", "mass"]), lambda prompts: Classifier(backbone, prompts))
    viewing.keep(classifier.predict(viewing.records), [])
    choice, found = shown(workspace, class_name="without mass")
    assert choice.class_name in ("glioma", "mass")
    assert "against its absence" in map_views.stage(found, ONE, False, LOOK)
    assert [panel.title for panel in shown(workspace, view=CLASSES)[1]] == ["glioma", "mass"]


def test_an_image_of_another_kind_is_not_read_for_its_map(workspace):
    viewing = workspace.viewing
    viewing.bring(viewing.records, [])
    viewing.keep_found(0, SimpleNamespace(fits=False))
    built = Built(workspace)
    assert "once an image has been read" in built.call("show")[built.tab.stage] and viewing.prediction is None


def test_a_slow_map_is_watched_and_shown_at_its_end(workspace):
    built = Built(workspace)
    tab = built.tab
    first = built.call("show")
    begun = built.call("show", method="occlusion")
    assert 'class="map"' in first[tab.stage] and 'class="map"' not in begun[tab.stage]
    assert "Grad-CAM" not in begun[tab.stage] and "Occlusion for “" in begun[tab.stage]
    assert 'role="progressbar"' in begun[tab.message] and "away" not in begun[tab.cancel]["elem_classes"]
    assert begun[tab.download]["interactive"] is False
    asked = built.call("follow")
    assert asked and tab.stage not in asked  # it is asked to be shown
    assert not {c for answer in [built.call("follow")] for c in answer} & set(asked)  # once
    done = built.call("show", method="occlusion")
    assert 'class="map"' in done[tab.stage] and "Occlusion" in done[tab.stage] and done[tab.message] == ""
    assert "away" in done[tab.cancel]["elem_classes"] and done[tab.download]["interactive"]


def test_a_slow_map_ends_when_something_else_is_asked_for(workspace, monkeypatch):
    built = Built(workspace)
    tab, reached, go = built.tab, threading.Event(), threading.Event()
    give_way = ENGINE.device_lock.give_way

    def wait():  # between two passes
        reached.set()
        assert go.wait(60)
        give_way()

    monkeypatch.setattr(ENGINE.device_lock, "give_way", wait)
    built.call("show")
    built.call("show", method="occlusion")
    going = drawing.current(workspace)
    assert reached.wait(60) and 0 <= going.share < 1
    built.call("show", method="occlusion")  # in another look
    assert drawing.current(workspace) is going and not going.stopped
    said = built.call("on_cancel", method="gradcam")  # at once, whoever has the device
    assert going.stopped and "Stopped: Occlusion" in said[tab.message] and "away" in said[tab.cancel]["elem_classes"]
    assert "Occlusion" not in said[tab.card] and said[tab.details] == ""
    instead = built.call("show")
    assert "Occlusion" in instead[tab.message] and "Drawing" not in instead[tab.message]
    assert "Grad-CAM" in instead[tab.stage] and "away" in instead[tab.cancel]["elem_classes"]
    assert built.call("show")[tab.message] == ""
    assert not {tab.stage, tab.message} & set(
        built.call("follow")
    )  # it has not ended, and its progress is told no more
    go.set()
    _until(lambda: going.ended)
    assert going.stopped and drawing.waits(
        workspace, choosing.settle(workspace, Choice(method="occlusion", when=BEFORE))
    )
    reached.clear()
    go.clear()
    built.call("show", method="occlusion")
    assert reached.wait(60) and built.call("on_left", method="gradcam")[tab.message] == ""  # nothing to be told of
    assert built.call("show")[tab.message] == ""
    go.set()
    _until(lambda: drawing.current(workspace).ended)
    built.call("show", method="occlusion")
    again = drawing.current(workspace)
    threading.Timer(0.2, workspace.viewing.bring, [workspace.viewing.records, [], False]).start()
    told = built.call("follow")  # another page did it: this one asks for what there is now
    assert told.keys() - {tab.message, tab.cancel}
    _until(lambda: again.ended)
    assert again.stopped and not len(workspace.maps)  # nothing of the images that were there before


def test_a_map_is_laid_over_the_image_that_it_is_of(workspace):
    choice, found = choosing.settle(workspace, Choice(class_name="glioma")), []
    with workspace.lock:
        drawer = threading.Thread(target=lambda: found.extend(explaining.panels(ENGINE, workspace, choice)))
        drawer.start()
        time.sleep(0.3)  # it waits for the lock
        workspace.viewing.select(1)
    drawer.join()
    assert found[0].record is workspace.viewing.record


def _until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_control_that_equals_its_map_is_said_and_not_drawn_twice(workspace):
    for method in ("attention", "rollout", "eigencam"):
        _, found = shown(workspace, method=method, when=BEFORE, control=True)
        assert len(found) == 1 and "scrambled model gives exactly this map" in map_views.stage(found, ONE, False, {})
    assert len(shown(workspace, method="gradcam", when=BEFORE, control=True)[1]) == 2
    assert len(shown(workspace, method="attention", when=AFTER, control=True)[1]) == 2


@pytest.mark.parametrize(
    ("choice", "name", "words"),
    [
        ({}, "Scan-7_gradcam_glioma_before.png", "Class: glioma, against normal."),
        ({"view": CLASSES}, "Scan-7_gradcam_all-classes_before.png", "a map for each class, all on one scale. Classes"),
        ({"view": IMAGES}, "gradcam_glioma_all-images_before.png", "3 images, each on a scale of its own"),
        ({"view": COMPARE}, "Scan-7_gradcam_glioma_before-and-after.png", "and what teaching changed. Class: glioma"),
        ({"method": "attention"}, "Scan-7_attention_before.png", "It is the same for every class."),
        ({"control": True}, "Scan-7_gradcam_glioma_before_with-control.png", "scrambled model. Class: glioma"),
    ],
)
def test_a_file_is_named_after_what_it_shows_and_its_caption_says_it(workspace, choice, name, words):
    viewing = workspace.viewing
    viewing.bring([replace(r, name="../Scan  7.dcm") for r in viewing.records], [], False)
    viewing.keep(viewing.classifier.predict(viewing.records), [])
    settled, found = shown(workspace, **{"class_name": "glioma", "when": BEFORE, **choice})
    assert explaining.file_name(workspace, settled, found) == name
    path = explaining.figure_of(workspace, found, 0.5, {}, settled.view)
    comment = Image.open(path).text["Comment"]
    assert words in comment and "Not for diagnosis" in comment and "Scan" not in path + comment


def test_programs_get_the_numbers(workspace):
    ctx = SimpleNamespace(engine=ENGINE)
    programs = api.Programs(ctx)
    answer, _ = programs.explain(workspace, "normal", "relevance")
    assert [m["adapted"] for m in answer["maps"]] == [False, True] and len(answer["maps"][0]["values"]) == 4
    assert [m["adapted"] for m in programs.explain(workspace, "", "novelty")[0]["maps"]] == [True]
    with pytest.raises(NearlError, match="no map called"):
        programs.explain(workspace, "", "magic")
    with pytest.raises(NearlError, match="no class 'cat'"):
        programs.explain(workspace, "cat", "gradcam")
