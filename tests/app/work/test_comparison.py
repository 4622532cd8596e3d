"""Comparisons of methods behind the page: rows on disk, one that fails, cancelling, a process that dies, the winner."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from app.compare import actions as comparing
from app.compare import elsewhere, tab
from app.compare import html as compare_views
from app.compare.actions import OWN, Choice
from app.compare.exports import export
from app.compare.sources import sources
from app.events import Opening
from app.examples import tasks
from app.predict import actions as reading
from app.teach.images import actions as gathering
from nearl import NOTICE
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.methods import names
from nearl.runs.status import CANCELLED, DONE
from tests.support.app_work import until, visitor

CHEAP = ("zero-shot", "linear-probe")


def begin(engine, workspace, methods, seeds=1, shots=2):
    return comparing.start(engine, workspace, Choice(OWN, methods, shots, seeds))


def test_refusals_are_sentences(engine, registry):
    workspace = registry.get(None)
    for choice, words in (
        (Choice(OWN, CHEAP), "no images of yours"),
        (Choice("ct_slice", ()), "tick at least one"),
        (Choice("ct_slice", ("nothing",)), "tick at least one"),
        (Choice("moon", CHEAP), "no such"),
        (Choice("ct_slice", names(), seeds=3), "choose at most"),
    ):
        with pytest.raises(NearlError, match=words):
            comparing.start(engine, workspace, choice)
    workspace.support.keep(phantom_set("smear", 3, size=64))
    with pytest.raises(NearlError, match="at least 4 images"):
        begin(engine, workspace, CHEAP)
    assert comparing.current(workspace) is None and not workspace.busy


def test_every_method_has_its_card():
    shown = [card.name for _, cards in comparing.cards() for card in cards]
    assert sorted(shown) == sorted(names())
    assert set(comparing.QUESTIONS) == set(comparing.PARTS) <= set(names())


def handlers(engine, workspace):
    """The tab's handlers by name, for one workspace."""

    async def run(lane, work, *given):
        return work(*given)

    ctx = SimpleNamespace(engine=engine, workspace=lambda key: workspace, run=run)
    with gr.Blocks() as page:
        ctx.session, ctx.changed, ctx.badges = gr.State(None), gr.State(0), {comparing.COMPARE.name: gr.HTML()}
        with gr.Tab("Compare") as item:
            tab.build(ctx, item, Opening())
    return {f.name: f.fn for f in page.fns.values()}


def test_a_second_press_begins_no_other_comparison_and_shows_the_first(engine, registry, in_threads, monkeypatch):
    workspace = visitor(registry)
    press = handlers(engine, workspace)["on_compare"]

    async def pressed() -> list[dict]:
        """What is shown by name of the component, until a comparison is on show."""
        seen = []
        async for answer in press("w", {"ticked": list(CHEAP)}, OWN, 2, 1, "balanced", ""):
            seen.append({getattr(part, "elem_id", ""): value for part, value in answer.items()})
            if "comparison-result" in seen[-1]:
                return seen

    put, waiting = engine.queue.put, []
    monkeypatch.setattr(engine.queue, "put", waiting.append)  # it waits for its turn
    first, *_, shown = asyncio.run(pressed())
    view = comparing.current(workspace)
    assert first["compare"]["value"] == shown["compare"]["value"] == "Comparing …"
    assert not first["compare"]["interactive"] and not shown["compare"]["interactive"]
    *_, said, shown = asyncio.run(pressed())
    assert comparing.GOING_ON in said["compare-message"] and "Error" not in said["compare-message"]
    assert comparing.current(workspace).key == view.key and not shown["compare"]["interactive"]
    put(*waiting)
    until(lambda: view.finished)
    *_, said, shown = asyncio.run(pressed())
    assert comparing.THERE in said["compare-message"] and shown["compare"]["value"] == "Compare"
    assert len(comparing.history(workspace)) == 1


def test_the_visitors_own_images_are_taken_unless_others_were_chosen(workspace):
    found = handlers(None, workspace)
    first, other = (key for _, key in tab.READY[:2])

    def selected(untouched, source):
        """What opening the tab sets as source, and then as plan."""
        value = {
            getattr(part, "elem_id", ""): update for part, update in found["on_select"]("w", untouched, source).items()
        }
        assert "compare-plan" not in value  # that of what is chosen by the time it is shown
        assert "value" not in value["compare-source"]  # nothing that is pressed meanwhile is undone
        return value["compare-offer"].partition("|")[2]

    assert selected(first, first) == first
    workspace.support.keep(phantom_set("smear", 4, size=64))
    assert selected(first, first) == OWN  # brought after the page opened
    assert selected("", first) == selected(first, other) == ""  # chosen by the visitor
    task = tasks()[first]
    workspace.support.keep(replace(workspace.support.data, name=task.name, ours=True))
    (own, _), *_ = sources(SimpleNamespace(source="source", plan="plan"), workspace)["source"]["choices"]
    assert own == f"{task.label}, as in Teach"


def test_two_visitors_take_turns_and_a_winner_reads(engine, registry, in_threads):
    first, second = visitor(registry), visitor(registry)
    ours = begin(engine, first, ("zero-shot", "linear-probe", "nearl"))
    with pytest.raises(NearlError, match="still running"):
        begin(engine, first, CHEAP)
    theirs = begin(engine, second, CHEAP)
    until(lambda: ours.finished and theirs.finished)
    assert (ours.look().state, theirs.look().state) == (DONE, DONE)
    turns = [name for name, _ in in_threads.finished]
    assert turns.index(theirs.path.name) < len(turns) - turns[::-1].index(ours.path.name) - 1  # before ours had ended
    assert not list(registry.root.path.rglob("comparisons/*/job.safetensors"))  # the images are gone

    first.runs.forget()  # as after a restart of the server
    assert all(line["done"] for line in comparing.lines(comparing.current(first)))
    comparing.use(engine, comparing.current(first), "linear-probe")
    comparing.use(engine, comparing.current(first), "linear-probe")
    (item,) = first.shelf.items()  # once, however often it is pressed
    assert item.in_use and item.method == "linear-probe" and item.name.startswith("Linear probe: ")
    reading.bring(first, [("image 1", next((first.path / "set" / "images").glob("*.png")))])
    reading.read(engine, first, first.viewing.prompts.to_dict())
    assert first.viewing.prediction.adapted is not None
    comparing.use(engine, comparing.current(first), "nearl")
    assert {item.method for item in first.shelf.items()} == {"linear-probe", "nearl"}
    comparing.use(engine, comparing.current(first), "zero-shot")
    assert first.shelf.adapter is None
    with engine.queue._turn:  # nothing of it is finished
        begin(engine, first, CHEAP).cancel()
    assert comparing.current(first).key == ours.key and comparing.cancelled_since(comparing.current(first))
    facts = [(kept.facts.partition(" ·")[0], kept.shown, kept.empty) for kept in comparing.history(first)]
    assert facts == [("0 of 2 methods, cancelled", False, True), ("3 methods", True, False)]
    shown = compare_views.history(comparing.history(first))
    assert "data-kept" not in shown  # one is empty, the other on show
    comparing.use(engine, comparing.current(first), "nearl")
    with pytest.raises(NearlError, match="not been taught yet"):
        comparing.use(engine, ours, "lora")
    with engine.queue._turn:
        third = visitor(registry)
        alone = begin(engine, third, CHEAP)
        alone.cancel()
    assert comparing.current(third).key == alone.key and not comparing.cancelled_since(alone)


def test_a_worker_that_dies_takes_one_method_with_it_and_a_deaf_one_is_ended(engine, registry, in_threads, monkeypatch):
    monkeypatch.setattr("nearl.runs.process.PATIENCE", 0.0)
    ours = begin(engine, visitor(registry), ("zero-shot", "nearl", "nearl:vision-only"))
    until(lambda: ours.look().method == "nearl")
    in_threads.die()
    until(lambda: ours.look().method == "nearl:vision-only")
    in_threads.deaf = True
    ours.cancel()
    until(lambda: ours.finished)
    assert ours.look().state == CANCELLED and in_threads.workers[-1].killed
    lines = {line["method"]: line for line in comparing.lines(ours)}
    assert [name for name, line in lines.items() if line["done"]] == ["zero-shot"]
    assert "memory" in lines["nearl"]["error"]  # what the system kills for


def test_a_question_adds_its_rows_and_earlier_comparisons_are_kept(engine, registry, in_threads):
    workspace, ask = visitor(registry), Choice(OWN, CHEAP, 2)
    assert "NEARL whole and without" in comparing.cost(engine, workspace, ask) and "new" in comparing.cost(
        engine, workspace, ask
    )

    def ended(view):
        until(lambda: view.finished)
        return view

    def titles():
        return [(kept.facts.partition(" ·")[0], kept.shown) for kept in comparing.history(workspace)]

    def pressed(name, **data):
        """What a press in a result or in the list shows, by the name of the component."""
        values = () if name == "on_press" else (OWN, 2, 1, "balanced", "")
        answer = found[name]("w", SimpleNamespace(_data={"act": "open", **data}), *values)
        return {getattr(part, "elem_id", ""): value for part, value in answer.items()}

    found = handlers(engine, workspace)
    first = ended(comparing.start(engine, workspace, ask))
    in_threads.finished.clear()
    again = comparing.start(engine, workspace, ask)
    assert again.key == first.key and comparing.said(first, again) == comparing.THERE
    question = Choice(OWN, ("zero-shot", "text-probe"), 2)
    second = ended(comparing.start(engine, workspace, question, question=True))
    assert "added to the comparison below" in comparing.cost(engine, workspace, ask)
    assert [name for _, name in in_threads.finished] == ["text-probe"]  # the others were there already
    assert [line["method"] for line in comparing.lines(second) if line["done"]] == [
        "zero-shot", "linear-probe", "text-probe",
    ]  # fmt: skip
    assert second.folder.adapter("linear-probe").meta["method"] == "linear-probe" and not first.path.exists()
    assert comparing.said(first, second) == ""  # taken over
    assert comparing.start(engine, workspace, question, question=True).key == second.key

    # other settings: images of another source with the same classes are read too
    assert "smear" in {key for _, key in elsewhere.choices(workspace, OWN)}
    assert elsewhere.choices(workspace, "chest_xray_pneumonia") == [elsewhere.NONE]
    with pytest.raises(NearlError, match="the same classes"):
        comparing.start(engine, workspace, Choice(OWN, CHEAP, 1, there="chest_xray_pneumonia"))
    other = ended(comparing.start(engine, workspace, Choice(OWN, CHEAP, 1, there="smear"), question=True))
    assert comparing.said(second, other) == comparing.AGAIN
    assert comparing.asked(other) == Choice(OWN, tuple(CHEAP), 1, there="smear")  # what a page loaded again shows
    assert f"Read too: {2 * elsewhere.CHECK} images of Synthetic example, Blood smear" in comparing.images(
        other.folder.about
    )
    assert [row["there"]["n"] for row in other.folder.rows] == [2 * elsewhere.CHECK] * 2
    assert titles() == [("2 methods", True), ("3 methods", False)]
    answer = pressed("on_history", kept=second.key)
    assert answer["compare-message"] == ""
    assert comparing.current(workspace).key == second.key and titles() == [("2 methods", False), ("3 methods", True)]
    workspace.runs.forget()  # as after a restart of the server
    assert comparing.current(workspace).key == second.key
    with pytest.raises(NearlError, match="no longer kept"):
        comparing.show(workspace, first.key)

    # a page that still shows the other one acts on that
    assert f'data-run="{second.key}"' in answer["comparison-result"] and "text-probe" in answer["comparison-result"]
    answer = pressed("on_press", act="report", kind="json", run=other.key)
    assert len(json.loads(Path(answer["compare-slot"]).read_text(encoding="utf-8"))["methods"]) == len(CHEAP)
    used = pressed("on_press", act="use", method="linear-probe", run=other.key)
    assert "Linear probe is now in use" in used["compare-used"] and other.folder.adapter("linear-probe")
    assert comparing.named(workspace, other.key).notes.shelf and not second.notes.shelf
    for gone in ({"run": first.key, "method": "zero-shot"}, {"method": "zero-shot"}):
        assert "no longer kept" in pressed("on_press", act="use", **gone)["compare-used"]
    workspace.support.keep(phantom_set("smear", 6, size=64))  # other images: nothing to add to
    assert "new" in comparing.cost(engine, workspace, ask) and other.path.exists()

    table = list(csv.reader(io.StringIO(export(comparing.current(workspace), "csv").read_text(encoding="utf-8-sig"))))
    assert table[0][0] == "method" and "95 % low" in table[0] and len(table) == 4
    assert all(any(row[i] for row in table[1:]) for i in range(len(table[0]))) and table[3][-1] == NOTICE
    found = json.loads(export(comparing.current(workspace), "json").read_text(encoding="utf-8"))
    assert found["methods"][0]["method"] == "zero-shot" and found["notice"] == NOTICE
    picture = Image.open(export(comparing.current(workspace), "png"))
    assert picture.width > 1000 and NOTICE in picture.text["Comment"]


def test_other_pixels_prompts_or_another_model_are_another_comparison(engine, registry, in_threads, monkeypatch):
    """Also where files, labels and settings are the same; what the page says of a question is what a press does."""
    workspace, ask = registry.get(None), Choice("smear", ("zero-shot",), 2, there=OWN)

    def adds():
        said = comparing.cost(engine, workspace, ask)
        assert ("added to" in said) != ("begins a new" in said)
        return "added to" in said

    def compared():
        view = comparing.start(engine, workspace, ask)
        until(lambda: view.finished)
        assert view.has_results and adds()
        return view.key

    def keep(seed):
        workspace.support.keep(phantom_set("smear", 4, size=64, seed=seed))

    keep(1)
    first = compared()
    assert compared() == first
    keep(2)  # the images that are read too
    assert not adds() and compared() != first
    ask = replace(ask, source=OWN, there="")
    compared()
    data = workspace.support.data
    prompts = [{"name": name, "prompts": [f"another sentence about {name}"]} for name in data.classes]
    gathering.keep_prompts(workspace, {"classes": prompts})
    assert not adds()
    workspace.support.keep(replace(data, labels=[data.labels[-1], *data.labels[1:-1], data.labels[0]]))
    assert not adds()
    workspace.support.keep(data)
    assert adds()
    monkeypatch.setattr(type(engine), "chosen", lambda *_: "another")
    assert not adds()
