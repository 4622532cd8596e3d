"""A visitor's adapters: used, renamed, compared, exchanged and published."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import gradio.oauth
import numpy as np
import pytest
import torch
from PIL import Image

from app.context import Context
from app.engine import Engine
from app.events import Act, Press, error_html
from app.predict import actions as reading
from app.teach.images import actions as gathering
from app.teach.publish import tab as publish
from app.teach.run import actions as teaching
from app.teach.run import tab as running
from app.teach.shelf import actions as adapting
from app.teach.shelf import html as shelf_views
from app.teach.shelf import tab as shelf
from app.visitor.pages import Pages
from nearl.adapters.store import load_adapter, zip_adapter
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.reading.classifier import Classifier
from tests.support.app_work import ended, taught, visitor
from tests.support.before import ADAPTERS, EXPECTED, PROMPTS, adapter_folder, shades

HOSTILE = '<script>alert("1")</script>'


def test_adapters_are_things_on_a_shelf(engine, registry, workspace, images):
    first = workspace.shelf.put(taught(engine))
    second = workspace.shelf.put(taught(engine))
    assert [item.name for item in workspace.shelf.items()].count("no lesion, lesion") == 1
    workspace.shelf.rename(first, "  Monday's\nadapter ")
    assert workspace.shelf.entry(first).name == "Monday's adapter"
    with pytest.raises(NearlError, match="needs a name"):
        workspace.shelf.rename(first, " ")
    workspace.shelf.rename(second, "Monday's adapter")
    third = workspace.shelf.put(taught(engine), "Monday's adapter")
    workspace.shelf.rename(third, workspace.shelf.entry(third).name)  # its own name is not taken
    assert workspace.shelf.entry(third).name == "Monday's adapter (3)"
    assert len({item.name for item in workspace.shelf.items()}) == 3
    workspace.shelf.delete(third)
    adapting.use(engine, workspace, first)
    assert [item.id for item in workspace.shelf.items() if item.in_use] == [first]
    with pytest.raises(NearlError, match="no image to compare"):
        adapting.compare(engine, workspace, [first, second])
    reading.bring(workspace, images[:1])
    columns = adapting.compare(engine, workspace, [first, second])
    assert [classes for _, classes, *_ in columns] == [["no lesion", "lesion"]] * 2
    assert all(sum(shares) == pytest.approx(1, abs=1e-4) for _, _, shares, _ in columns)
    workspace.shelf.delete(first)
    assert workspace.shelf.adapter is None
    assert not (workspace.path / "shelf" / first).exists()
    with pytest.raises(NearlError, match="no such adapter"):
        adapting.use(engine, workspace, first)

    other = registry.get(None)
    key = adapting.add(engine, other, adapting.zip_file(workspace, second))
    adapting.use(engine, other, key)
    assert other.shelf.adapter.version == workspace.shelf.load(second).version
    with pytest.raises(NearlError, match="adapter"):
        adapting.add(engine, other, images[0])
    assert other.shelf.adapter is not None


def test_adapters_of_an_earlier_version_give_the_same_from_the_shelf(portable, registry, tmp_path):
    engine = Engine(f"local-dir:{portable[0]}", "cpu")
    engine.start()
    workspace, folder = registry.get(None), tmp_path / "new"
    folder.mkdir()
    for record in shades(2, seed=9).records:
        Image.fromarray(record.pixels).save(folder / record.name)
    reading.bring(workspace, sorted(folder.iterdir()))
    for name in ADAPTERS:
        key = adapting.add(engine, workspace, zip_adapter(load_adapter(adapter_folder(name)), tmp_path / "a.zip"))
        adapting.use(engine, workspace, key)
        reading.read(engine, workspace, PROMPTS.to_dict())
        np.testing.assert_allclose(workspace.viewing.prediction.adapted, EXPECTED[name]["adapted"], atol=1e-5)
        entry = next(workspace.path.glob(f"shelf/{key}/entry.json"))
        entry.write_text(entry.read_text().replace('"alta-vision"', '"alta"').replace('"form": 2', '"form": 1'))
        assert workspace.shelf.entry(key).method == load_adapter(adapter_folder(name)).meta["method"]


def test_deleting_an_adapter_deletes_the_copy_in_the_run_that_made_it(engine, workspace, quick_hosts):
    workspace.support.keep(phantom_set("smear", 5, size=64))
    value = gathering.prompts_for(workspace).to_dict()
    run = ended(teaching.start(engine, workspace, value, teaching.Choice("quick", steps=4, early_stop=False)))
    key, other = run.look().adapter_key, workspace.shelf.put(taught(engine))
    adapting.delete(workspace, other)
    assert list(run.path.rglob("*.safetensors")) != []
    adapting.delete(workspace, key)
    assert list(workspace.path.rglob("*.safetensors")) == []
    assert run.results["n"] > 0 and run.look().state == "done"
    with pytest.raises(NearlError, match="deleted"):
        teaching.row_map(engine, run, 0, run.results["classes"][0], adapted=True)


async def looked_at(run):
    """In place of `RunView.follow`: one look."""
    yield run.look()


def test_every_adapter_keeps_its_report_whatever_is_taught_next(engine, registry, in_threads, monkeypatch):
    monkeypatch.setattr(teaching, "TEACH", replace(teaching.TEACH, kept=1))
    workspace = visitor(registry)
    page, value = workspace.seen_by("page"), gathering.prompts_for(workspace).to_dict()
    choice = teaching.Choice("quick", 0.4, augment="strong", flip=True, steps=2, lr=0.002, early_stop=False)
    ctx = Context(engine, Pages(registry), None, None, badges={teaching.TEACH.name: "badge"})

    def begin():
        return teaching.start(engine, workspace, value, choice)

    first, second = ended(begin()), ended(begin())
    old, brought = first.look().adapter_key, workspace.shelf.put(taught(engine), "brought")
    with gr.Blocks():
        part = running.RunPart(**running.build_buttons(), **running.build_result())

    def shown(key: str) -> str:
        page.opened = key
        answer = running.show(part, page)
        return answer[part.progress] + answer[part.details]

    html = shown(old)
    assert "has ended" in html and f"“{workspace.shelf.entry(second.look().adapter_key).name}”" in html
    assert "See its result" in html and "has ended" not in shown(second.look().adapter_key)
    with engine.queue._turn:  # whatever runs now
        now = begin()
        html = shown(old)
        assert "from the shelf" in html and "Another run is going on" in html and "Most certain mistakes" in html
        assert "bars" in html and "Waiting for its turn" in shown("")
        monkeypatch.setattr(teaching.RunView, "follow", looked_at)
        followed = asyncio.run(anext(running._follow(ctx, part, page)))  # on the page where "Teach" was pressed again
        assert followed[part.details] == "" and "Waiting" in followed[part.progress]
        assert teaching.chosen(page) == choice
        page.opened = old
        for kind in teaching.REPORTS:
            assert teaching.report_file(page, first, None, kind).stat().st_size > 0
        entry = page.shelf.entry(brought)
        assert "Predictions" not in shown(brought)
        assert teaching.report_file(page, None, entry, "html").stat().st_size > 0
        with pytest.raises(NearlError, match="take the report"):
            teaching.report_file(page, None, entry, "csv")
        now.cancel()
    now = shown(old)
    assert "was cancelled" in now and "See what it says" in now

    # what a page sends names the result that it shows, whatever is on show elsewhere
    html = shown(old)
    assert html.count(f'data-run="{first.key}" data-item="{old}"') == 2
    about = {"truth": "0", "said": "0", "when": "before"}
    for data, result in (
        ({"run": first.key, "item": old}, (first.key, old)),
        ({"run": second.key, "item": "gone"}, (second.key, None)),
        ({"run": "", "item": brought}, (None, brought)),
    ):
        run, entry = teaching.pressed_result(page, Press(Act.CELL, data))
        assert (run and run.key, entry and entry.id) == result
    cell = running._cell(
        SimpleNamespace(engine=engine), page, Press(Act.CELL, {"run": second.key, "item": "", **about})
    )
    assert f'data-run="{second.key}"' in cell
    for gone in ({"run": "gone", "item": old}, {"run": "", "item": "gone"}, {}):
        with pytest.raises(NearlError, match="no longer kept"):
            teaching.pressed_result(page, Press(Act.USE, gone))
    adapting.delete(workspace, second.look().adapter_key)
    with engine.queue._turn:
        begin().cancel()
    assert first.path.exists() and not second.path.exists()  # which has no adapter any more
    adapting.delete(workspace, old)
    assert "from the shelf" not in shown(old)  # the last run's


def test_figures_of_a_strangers_adapter_are_shown_only_if_they_are_figures(engine, workspace):
    adapter = taught(engine)
    for nonsense in ({"frozen": {"balanced_accuracy": "x"}, "adapted": {"balanced_accuracy": 7}}, [1], "x", {"n": 1}):
        adapter.meta["metrics"] = nonsense
        assert workspace.shelf.entry(workspace.shelf.put(adapter)).figures is None


def test_an_adapter_with_absurd_content_is_refused_at_the_door(engine, workspace, tmp_path):
    sound = taught(engine)
    huge = {"created": "2" * 5000, "classes": ["x"] * 5000, "support_counts": {"x": 10**30}, "method": "x" * 5000}
    huge |= {"classes ": ["x" * 5000], "trust": 7, "licence": "x" * 5000, "support_counts ": {"x" * 5000: 1}}
    wrong = [replace(sound, meta={**sound.meta, name.strip(): value}) for name, value in huge.items()]
    trusted = {
        "prompts": "",
        "temperature": 1.0,
        "conformal": {},
        "centroids": [[0.5, 0.5]],
        "far": None,
        "refused": {},
    }
    for trust in ({}, {"x": 1}, {**trusted, "temperature": 1e300}, {**trusted, "centroids": [[]]}, trusted):
        wrong.append(replace(sound, meta={**sound.meta, "trust": trust}))
    for value in (float("nan"), float("inf"), 1e30, -3e38):
        wrong.append(replace(sound, state={k: torch.full_like(v, value) for k, v in sound.state.items()}))
    for number, adapter in enumerate(wrong):
        path = zip_adapter(adapter, tmp_path / f"{number}.zip")
        with pytest.raises(NearlError) as refused:
            adapting.add(engine, workspace, path)
        assert len(str(refused.value)) < 300
    assert workspace.shelf.items() == []
    assert adapting.add(engine, workspace, zip_adapter(sound, tmp_path / "sound.zip"))


def test_an_adapter_that_gives_no_numbers_is_refused_and_does_not_blank_a_reading(
    engine, workspace, images, monkeypatch
):
    adapter = taught(engine)
    adapting.use(engine, workspace, workspace.shelf.put(adapter))
    reading.bring(workspace, images[:1])
    real = Classifier.predict

    def predict(self, records):
        found = real(self, records)
        return replace(found, adapted=None if found.adapted is None else found.adapted * float("nan"))

    monkeypatch.setattr(Classifier, "predict", predict)
    with pytest.raises(NearlError, match="no usable numbers"):
        adapting.check_fits(engine, workspace, adapter)
    with pytest.raises(NearlError, match="no usable numbers"):
        reading.read(engine, workspace, adapter.meta["prompts"])
    assert workspace.viewing.prediction is None
    adapting.use(engine, workspace, None)
    reading.read(engine, workspace, adapter.meta["prompts"])


def test_publishing_needs_an_adapter_and_a_token_and_keeps_neither_in_its_words(engine, workspace, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        "nearl.adapters.hub.push", lambda *values, **options: pushed.append((values, options)) or "https://hub/x"
    )
    token = gr.OAuthToken("hf_secret", "contribute-repos", 9e12)
    with pytest.raises(NearlError, match="No adapter is in use"):
        publish.push(workspace, "anna/x", True, token)
    adapter = taught(engine)
    adapting.use(engine, workspace, workspace.shelf.put(adapter))
    with pytest.raises(NearlError, match="Sign in first"):
        publish.push(workspace, "anna/x", True, None)
    assert not pushed
    assert 'href="https://hub/x"' in publish.push(workspace, "anna/x", True, token)
    ((values, options),) = pushed
    assert (values[0].version, values[1], options) == (
        adapter.version,
        "anna/x",
        {"token": "hf_secret", "private": True},
    )
    monkeypatch.undo()
    with pytest.raises(NearlError) as refused:
        publish.push(workspace, f"anna/{HOSTILE}", True, token)
    said = error_html(refused.value)
    assert "hf_secret" not in said and "<script" not in said
    assert all(b"hf_secret" not in p.read_bytes() for p in workspace.path.rglob("*") if p.is_file())


def pressing(engine, workspace):
    """(the part of the page, a press of a button in the shelf)."""
    ctx = SimpleNamespace(engine=engine, workspace=lambda key: workspace, session=None, changed=None)
    with gr.Blocks() as page:
        ctx.session, ctx.changed, slot = gr.State(None), gr.State(0), gr.DownloadButton("Download")
        part = shelf.build(lasts=True)
        shelf.wire(ctx, part, slot, "")
    on_shelf = next(f.fn for f in page.fns.values() if f.name == "on_shelf")
    return part, lambda act, **data: on_shelf("w", SimpleNamespace(_data={"act": act, **data}))


def test_a_page_that_is_out_of_date_never_touches_another_adapter(engine, workspace):
    """Buttons and ticks carry the adapter's id, so that one that came or went meanwhile changes nothing."""
    first, second = workspace.shelf.put(taught(engine), "first"), workspace.shelf.put(taught(engine), "second")
    part, press = pressing(engine, workspace)
    html = shelf_views.shelf(workspace.shelf.items())
    for key in (first, second):
        assert html.count(f'data-item="{key}"') == 5 and f'data-index="{key}"' in html
    workspace.shelf.put(taught(engine), "since")
    press("rename", item=first, to="renamed")
    press("delete", item=second)
    assert {item.name for item in workspace.shelf.items()} == {"renamed", "since"}
    presses = [{"act": act, "item": second, "to": "x"} for act in ("use", "open", "rename", "delete", "download")]
    for pressed in (*presses, {"act": "compare", "ticked": [first, second]}, {"act": "delete", "item": "0"}):
        answer = press(**pressed)
        assert "no longer on the shelf" in answer[part.message] and "since" in answer[part.shelf]
    assert {item.name for item in workspace.shelf.items()} == {"renamed", "since"}


def test_what_is_wrong_with_a_comparison_is_said_at_its_button(engine, workspace, images):
    """The error is below the shelf, which stays as it is ticked; with an image in Predict the same press works."""
    keys = [workspace.shelf.put(taught(engine)), workspace.shelf.put(taught(engine))]
    part, press_on = pressing(engine, workspace)
    press = lambda *ticked: press_on("compare", ticked=list(ticked))  # noqa: E731
    for answer, words in ((press(keys[0]), "tick two adapters"), (press(*keys), "no image to compare")):
        assert words in answer[part.comparison] and "Error" in answer[part.comparison]
        assert answer[part.message] == "" and part.shelf not in answer
    reading.bring(workspace, images[:1])
    assert "closest to" in press(*keys)[part.comparison]
