"""Classes of other images are never asked about without a word, and a guess is called one."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest

from app.api import Programs
from app.context import load_ready_prompts
from app.engine import Engine
from app.predict import actions as reading
from app.predict import html as predict_views
from app.predict import tab
from app.predict.scan.html import caution
from app.teach.images import ready
from app.work import lanes
from nearl.backbones.catalogue import own_windows
from nearl.cli.main import main
from nearl.data.formats.volume import Scan
from nearl.data.formats.windows import THREE_CT
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.methods import Frozen
from nearl.prompts import PromptSet, default_findings, default_prompts, ready_sets
from nearl.reading.claims import NOT_THESE, nearest
from tests.support.measured import BLUE, RED, measured_folder, picture, strange


@pytest.fixture(scope="module")
def measured(checkpoints, tmp_path_factory):
    """A model that knows red images as brain MRI and blue ones as chest X-rays."""
    folder = measured_folder(checkpoints("clip"), tmp_path_factory.mktemp("measured") / "model")
    engine = Engine(f"local-dir:{folder}", "cpu")
    engine.start()
    engine.backbone()
    return engine


def show(workspace, *images):
    workspace.viewing.bring(list(images), [])


FINDINGS = default_findings(["pneumonia", "normal"]).to_dict()
BRAIN, CHEST = (PromptSet.load(ready_sets()[name]).to_dict() for name in ("brain_mri_tumor", "chest_xray_pneumonia"))


def test_the_kind_is_recognised_before_any_class_is_asked_about(measured, engine, workspace):
    assert reading.recognise(measured, workspace, BRAIN) is None  # no image
    show(workspace, picture(BLUE, 900))
    stale, fitting = (reading.recognise(measured, workspace, value) for value in (BRAIN, CHEST))
    assert (stale.title, stale.fits, stale.sets) == ("chest X-ray", False, ["chest_xray_pneumonia"])
    assert (fitting.title, fitting.fits, fitting.sets) == ("chest X-ray", True, [])
    assert not reading.recognise(measured, workspace, {"classes": []}).fits
    show(workspace, picture(BLUE, 900), picture(RED, 900))
    assert not reading.recognise(measured, workspace, CHEST).fits  # not all of them
    show(workspace, strange())
    unknown = reading.recognise(measured, workspace, CHEST)
    assert (unknown.title, unknown.fits, unknown.sets) == ("", False, [])
    assert reading.recognise(engine, workspace, CHEST) is None  # a model that was not measured


def test_a_ct_is_drawn_in_the_models_own_windows(engine, workspace, monkeypatch):
    own = own_windows("medsiglip")
    for module in ("app.predict.actions", "nearl.reading.claims"):
        monkeypatch.setattr(f"{module}.own_windows", lambda name: own)
    ones, voxels = np.ones((1, 20)), np.linspace(-1000, 900, 20 * 32 * 32).reshape(1, 20, 32, 32).astype(np.int16)
    show(workspace, ImageRecord.from_scan("ct", Scan(voxels, ones, 0 * ones, modality="CT")))
    assert reading.recognise(engine, workspace, CHEST) is None
    record = workspace.viewing.record
    assert record.view.window == own and caution(record) == ""
    assert "red, green and blue" in caution(record.at(window=THREE_CT))


def test_a_guess_is_called_one_and_ready_sets_of_the_kind_are_offered(measured, workspace, monkeypatch):
    show(workspace, picture(BLUE, 901))
    reading.read(measured, workspace, CHEST)
    monkeypatch.setattr(type(workspace.viewing.classifier), "unknown_words", lambda self: ["cover"])
    assert predict_views.unknown_words(workspace) == []  # of ready prompts, which were measured as they are
    page = predict_views.reading_html(workspace)
    assert "headline doubt" in page and "On 200 test images" in page and "data-pick" not in page
    reading.read(measured, workspace, BRAIN)
    page = predict_views.reading_html(workspace)
    assert "do not fit" in page and 'data-pick="chest_xray_pneumonia"' in page and "a guess" in page
    reading.read(measured, workspace, default_prompts(["pneumothorax", "pneumonia"]).to_dict())
    assert predict_views.unknown_words(workspace) == ["cover"]
    assert "“pneumothorax”" in predict_views.reading_html(workspace)
    show(workspace, picture(RED, 901), picture(BLUE, 901), strange())
    reading.read(measured, workspace, BRAIN)
    assert predict_views.UNFAMILIAR_SHORT in predict_views.table_html(workspace)
    assert "headline doubt" not in predict_views.reading_html(workspace)
    assert "other prompts fit better" in predict_views.table_html(workspace)


def test_sets_for_synthetic_images_are_offered_for_these_alone(workspace):
    names = ["chest_xray_pneumonia", "phantom_chest_xray"]
    show(workspace, picture(BLUE))
    assert reading.offered(workspace, names) == names[:1] and reading.offered(workspace, names[1:]) == names[1:]
    workspace.viewing.bring([picture(BLUE)], [], synthetic=True)
    assert reading.offered(workspace, names) == names


def test_teach_offers_the_ready_prompts_of_the_kind_of_its_images(measured, workspace):
    records = [picture(BLUE, 920 + i) for i in range(4)]
    workspace.support.keep(LabelledSet(["sick", "well"], records, [0, 0, 1, 1]))
    measured.ready_classes(measured.backbone())
    assert ready.ready_prompts(measured, workspace, None) == ["chest_xray_pneumonia"]
    value = ready.ready_value(workspace, "chest_xray_pneumonia")
    assert value["classes"][0] == {"name": "sick", "prompts": ["a chest X-ray of sick"]}

    async def offered(shown) -> list[str]:
        answers = built(measured, workspace)["on_shown"].fn("w", None, shown)
        return [html for answer in [a async for a in answers] for html in answer.values()]

    first, then = asyncio.run(offered(""))
    assert "Looking at your images" in first and "data-pick" not in first and "chest_xray_pneumonia" in then
    (then,) = asyncio.run(offered(then))  # what is there stays until it is known
    assert "chest_xray_pneumonia" in then


def built(engine, workspace):
    """A page with the Predict tab of a workspace: its events by name."""

    async def run(lane, work, *given):
        return work(*given)

    ctx = SimpleNamespace(
        run=run,
        engine=engine,
        workspace=lambda key: workspace,
        ready_prompts=load_ready_prompts(),
        default_prompts=BRAIN,
        beside={},
    )
    with gr.Blocks() as page:
        ctx.session, ctx.changed = gr.State(None), gr.State(0)
        tab.build(ctx, page.load(None))
        ready.wire(ctx, gr.HTML(), gr.HTML(), gr.HTML())
    return {event.name: event for event in page.fns.values()}


def test_an_accuracy_stands_only_under_images_of_the_kind_that_it_was_measured_on(measured, workspace):
    def said(*images, **about) -> str:
        workspace.viewing.bring(list(images), [], **about)
        reading.read(measured, workspace, BRAIN)
        return predict_views.reading_html(workspace)

    fitting, other, unlike = (said(image) for image in (picture(RED, 930), picture(BLUE, 930), strange()))
    assert "test images these" in fitting and "unfit" not in fitting and "unknown-kind" not in fitting
    assert "test images these" not in other and "unfit" in other and "untested" in other
    assert "test images these" not in unlike and "unknown-kind" in unlike and NOT_THESE in unlike
    assert "untested" not in fitting
    assert "unknown-kind" not in said(strange(), credit="Somebody")  # an example comes with its classes

    found = reading.recognise(measured, workspace, BRAIN)
    assert "unfit" not in predict_views.reading_empty(True, found=found, own=False)
    assert "unfit" in predict_views.reading_empty(True, found=found)


def test_programs_get_no_accuracy_that_was_measured_on_other_images(measured, workspace, tmp_path, capsys):
    paths = [tmp_path / "fits.png", tmp_path / "unlike.png"]
    for path, image in zip(paths, (picture(RED, 932), strange()), strict=True):
        image.image().save(path)
    ask = Programs(SimpleNamespace(engine=measured)).predict
    fits, unlike = (ask(workspace, [str(path)], BRAIN) for path in paths)
    assert "test images these" in fits["measured"] and fits["predictions"][0]["notes"] == []
    assert unlike["measured"] is None and unlike["predictions"][0]["notes"] == [NOT_THESE]
    assert "test images these" in ask(workspace, list(map(str, paths)), BRAIN)["measured"]

    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(BRAIN))
    main(["predict", *map(str, paths), "--prompts", str(prompts), "--backbone", measured.name, "--json"])
    fits, unlike = json.loads(capsys.readouterr().out)["predictions"]
    assert "test images these" in fits["measured"] and fits["notes"] == []
    assert unlike["measured"] is None and unlike["notes"] == [NOT_THESE] and unlike["doubt"]

    (row,) = ask(workspace, [str(paths[1])], FINDINGS)["predictions"]
    prompts.write_text(json.dumps(FINDINGS))
    main(["predict", str(paths[1]), "--prompts", str(prompts), "--backbone", measured.name, "--json"])
    (line,) = json.loads(capsys.readouterr().out)["predictions"]
    for found in (row, line):
        assert found["kind"] == "" and "unlike" in found["doubt"] and NOT_THESE in found["notes"]
    main(["predict", str(paths[1]), "--prompts", str(prompts), "--backbone", measured.name])
    assert line["doubt"] in capsys.readouterr().out


def test_the_closest_ready_set_is_offered_for_an_image_unlike_all_others(measured, workspace, monkeypatch):
    monkeypatch.setattr("nearl.reading.claims.NOT_FAR", 1e9)
    backbone, frozen = measured.backbone(), Frozen(measured.backbone())
    images = frozen.embed(frozen.pooled([strange()]))
    ((near, distance),) = nearest(backbone.measured, backbone.familiar, images, [strange()])
    kind = backbone.measured.kind_of(near)
    (name,) = backbone.measured.fitting(kind)
    close, other = (CHEST, BRAIN) if kind == "chest_xray" else (BRAIN, CHEST)
    assert distance > backbone.familiar.far

    def waiting(value, **about) -> str:
        workspace.viewing.bring([strange()], [], **about)
        reading.recognise(measured, workspace, value)
        return predict_views.reading_html(workspace)

    button = f'data-pick="{name}"'
    first = waiting(other)
    assert button in first and "weak match" in first and "right in" not in first and "image before" not in first
    assert button in waiting({"classes": []}) and button in waiting(default_prompts(["wood", "stone"]).to_dict())
    assert button not in waiting(close) and button not in waiting(other, credit="Somebody")
    waiting(other)
    assert predict_views.NONE_CLOSE not in predict_views.reading_html(workspace)
    reading.read(measured, workspace, other)
    read = predict_views.reading_html(workspace)
    assert button in read and "weak match" in read and "headline doubt" in read
    again = waiting(other)
    assert button in again and "image before" in again and workspace.viewing.prediction is None
    reading.read(measured, workspace, close)
    assert "weak match" not in predict_views.reading_html(workspace)
    show(
        workspace, *(picture(RED, 990 + i) for i in range(reading.RECOGNISED)), strange()
    )  # beyond those looked at first
    reading.recognise(measured, workspace, other)
    workspace.viewing.select(reading.RECOGNISED)
    reading.recognise_shown(measured, workspace)
    assert button in predict_views.reading_html(workspace)
    monkeypatch.setattr("nearl.reading.claims.NOT_FAR", 1.0)
    far = waiting(other)
    assert "data-pick" not in far and predict_views.NONE_CLOSE in far


def test_offers_stay_where_another_image_is_chosen_with_a_model_that_was_not_measured(engine, workspace, monkeypatch):
    monkeypatch.setattr("nearl.backbones.familiar.closer_sets", lambda *given, **more: [["lung_ct"]])
    show(workspace, picture(RED, 995), picture(BLUE, 995))
    pick = built(engine, workspace)["on_pick"].fn
    assert reading.fitting(engine, workspace, BRAIN)
    for place in (1, 0):
        said = [
            html
            for answer in pick("w", BRAIN, "off", SimpleNamespace(_data={"act": "pick", "pick": str(place)}))
            for part, html in answer.items()
            if getattr(part, "elem_id", "") == "reading"
        ]
        assert 'data-pick="lung_ct"' in said[-1] and "unlike" not in said[-1]
    assert 'data-pick="lung_ct"' in said[0]  # it was kept
    assert not reading.fitting(engine, workspace, BRAIN)


@pytest.mark.parametrize("value", [BRAIN, FINDINGS], ids=["classes", "findings"])
def test_that_a_map_is_being_drawn_is_said_until_it_is_there(measured, workspace, monkeypatch, value):
    show(workspace, picture(RED, 996))
    events = built(measured, workspace)

    def viewers(name: str, *given) -> list[str]:
        answers = events[name].fn("w", *given)
        return [html for a in answers for part, html in a.items() if getattr(part, "elem_id", "") == "viewer"]

    *_, waiting, last = viewers("on_read", value, "before")
    assert "Drawing where" in waiting and 'class="map"' not in waiting
    assert "Drawing where" not in last and ("Where it looked" in last or "map is empty" in last)
    assert not any("Drawing where" in html for html in viewers("on_map", "before"))  # it was drawn before
    workspace.maps.clear()

    def broken(*given):
        raise NearlError("no map")

    monkeypatch.setattr("nearl.explain.explain", broken)
    assert "Drawing where" not in viewers("on_map", "before")[-1]


def test_files_that_cannot_be_read_leave_the_open_image_and_its_reading(measured, workspace, tmp_path):
    show(workspace, picture(RED, 931))
    reading.read(measured, workspace, BRAIN)
    before, letter = workspace.viewing.prediction, tmp_path / "letter.png"
    letter.write_text("Dear colleague")
    answers = list(built(measured, workspace)["on_upload"].fn("w", [str(letter)], True, BRAIN, "off"))
    said = {part.elem_id: value for answer in answers for part, value in answer.items() if hasattr(part, "elem_id")}
    assert "letter.png" in said["predict-problems"] and not {"viewer", "reading"} & set(said)
    assert "Still shown" in said["predict-problems"] and "image 931" in said["predict-problems"]
    assert workspace.viewing.record is not None and workspace.viewing.prediction is before
    reading.bring(workspace, [letter])  # a program that asks about this file alone
    assert workspace.viewing.record is None


def test_classes_of_other_images_are_not_asked_about_without_a_word(measured, workspace, tmp_path):
    events = built(measured, workspace)
    on_upload, on_ready = events["on_upload"].fn, events["on_ready"]
    assert on_ready.concurrency_id != lanes.DEVICE  # chosen prompts are there before anything else is pressed

    def brought(image, value) -> str:
        """What the reading says in the end."""
        path = tmp_path / f"{image.name}.png"
        image.image().save(path)
        said = [""]
        for answer in on_upload("w", [str(path)], True, value, "off"):
            said += [html for part, html in answer.items() if getattr(part, "elem_id", "") == "reading"]
        assert any(tab.RECOGNISING in html for html in said)  # nothing else is said while the model looks
        return said[-1]

    first = brought(picture(RED, 910), BRAIN)
    assert "“brain MRI”" in first and workspace.viewing.prediction is None  # nothing was asked yet
    reading.read(measured, workspace, BRAIN)
    assert "bars" in brought(picture(RED, 911), BRAIN) and workspace.viewing.prediction is not None
    stale = brought(picture(BLUE, 912), BRAIN)
    assert "for other images" in stale and 'data-pick="chest_xray_pneumonia"' in stale
    assert workspace.viewing.prediction is None
    own = default_prompts(["pneumothorax", "air"]).to_dict()
    assert "for other images" in brought(picture(BLUE, 913), own)
    reading.read(measured, workspace, own)
    assert "bars" in brought(picture(BLUE, 914), own)  # the same kind as before
    assert "for other images" in brought(picture(RED, 915), own)
    assert "unlike" in brought(strange(), BRAIN) and workspace.viewing.prediction is None
    reading.read(measured, workspace, FINDINGS)
    unread = brought(strange(), FINDINGS)
    assert "unlike" in unread and workspace.viewing.prediction is None
    other = brought(picture(RED, 916), FINDINGS)
    assert "“brain MRI”" in other and 'data-pick="brain_mri_tumor"' in other and workspace.viewing.prediction is None


def test_findings_are_a_guess_that_says_why(measured, workspace):
    def said(image) -> str:
        show(workspace, image)
        reading.read(measured, workspace, FINDINGS)
        return predict_views.reading_html(workspace)

    fitting, other, unlike = (said(image) for image in (picture(BLUE, 940), picture(RED, 940), strange()))
    for page in (fitting, other, unlike):
        assert "headline doubt" in page and "has not been measured" in page
    assert "present from absent" in fitting and "data-pick" not in fitting
    assert "do not fit" in other and 'data-pick="brain_mri_tumor"' in other
    assert "unlike" in unlike and "unknown-kind" in unlike
    np.testing.assert_array_equal(
        workspace.viewing.prediction.frozen, workspace.viewing.classifier.zero_shot.predict([strange()])
    )
    show(workspace, picture(BLUE, 940), strange())
    reading.read(measured, workspace, FINDINGS)
    assert predict_views.UNFAMILIAR_SHORT in predict_views.table_html(workspace)


def test_what_was_found_of_each_image_is_shown_again(measured, workspace):
    show(workspace, *(picture(BLUE, 950 + i) for i in range(4)), picture(RED, 954), strange())
    reading.recognise(measured, workspace, BRAIN)
    pick = built(measured, workspace)["on_pick"].fn

    def picked(place: int) -> str:
        press = SimpleNamespace(_data={"act": "pick", "pick": str(place)})
        answers = list(pick("w", BRAIN, "off", press))
        return next(html for part, html in answers[0].items() if getattr(part, "elem_id", "") == "reading")

    for place in (1, 0):
        assert "“chest X-ray”" in picked(place) and 'data-pick="chest_xray_pneumonia"' in picked(place)
    assert "“brain MRI”" in picked(4) and 'data-pick="brain_mri_tumor"' in picked(4) and "unlike" in picked(5)


def test_a_map_is_not_laid_over_an_image_that_came_meanwhile(measured, workspace):
    show(workspace, picture(RED, 960))
    answers = built(measured, workspace)["on_read"].fn("w", BRAIN, "before")
    while workspace.viewing.prediction is None:
        next(answers)
    show(workspace, picture(BLUE, 960))  # brought before the map is drawn
    assert not list(answers)
    reading.read(measured, workspace, BRAIN, picture(RED, 960))
    assert workspace.viewing.prediction is None  # only the image that was shown would have been read


def test_a_reading_is_of_one_moment(measured, workspace, monkeypatch):
    show(workspace, picture(RED, 970))
    reading.read(measured, workspace, BRAIN)
    bring, trust = threading.Thread(target=show, args=(workspace, picture(BLUE, 970))), predict_views.trust_html

    def meanwhile(*given):
        bring.start()
        bring.join(0.3)
        return trust(*given)

    monkeypatch.setattr(predict_views, "trust_html", meanwhile)
    assert "bars" in predict_views.reading_html(workspace)
    bring.join()
    assert workspace.viewing.prediction is None


def test_a_class_chosen_where_another_page_has_changed_the_adapter_says_what_to_do(measured, workspace):
    show(workspace, picture(RED, 980))
    reading.read(measured, workspace, BRAIN)
    workspace.viewing.forget_reading(None)
    answers = built(measured, workspace)["on_map"].fn("w", "before")
    told = answers if isinstance(answers, dict) else list(answers)[-1]
    assert any(tab.NOT_READ in str(words) for words in told.values())
