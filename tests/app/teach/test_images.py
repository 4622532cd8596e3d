"""Labelled images: brought, tidied, found again, and refused where they cannot be taught."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import pytest

from app.events import Act, Press
from app.teach.images import actions as gathering
from app.teach.images import html as image_views
from app.teach.images import looking, ready
from app.teach.images import tab as images_tab
from app.teach.run import actions as teaching
from app.teach.run.actions import Choice
from app.visitor.disk import Root
from app.visitor.registry import Registry
from nearl.data.phantoms.kinds import phantom_set
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from tests.support.hostile import packed


def test_what_cannot_be_taught_is_refused_before_it_is_queued(engine, workspace):
    with pytest.raises(NearlError, match="nothing to learn from"):
        teaching.start(engine, workspace, None, Choice())
    data = phantom_set("smear", 4, size=64)
    workspace.support.keep(data)
    with pytest.raises(NearlError, match="add prompts for it"):
        teaching.start(engine, workspace, default_prompts(["a", "b"]).to_dict(), Choice())
    with pytest.raises(NearlError, match="preset"):
        teaching.start(engine, workspace, default_prompts(data.classes).to_dict(), Choice(preset="forever"))
    workspace.support.keep(data.subset([i for i, label in enumerate(data.labels) if label == 0]))
    with pytest.raises(NearlError, match="lesion"):
        teaching.start(engine, workspace, default_prompts(data.classes).to_dict(), Choice())
    assert teaching.current(workspace) is None


def test_ready_prompts_of_the_kind_of_the_images_are_offered_until_they_are_taken(engine, workspace, monkeypatch):
    engine.backbone()
    assert ready.ready_prompts(engine, workspace, None) == []
    data = phantom_set("head_mri", 3, size=64)
    workspace.support.keep(data)  # synthetic ones come with their prompts
    assert ready.ready_prompts(engine, workspace, None) == []
    data = replace(data, synthetic=False, prompts=None, classes=["glioma", "meningioma"])
    workspace.support.keep(data)
    monkeypatch.setattr(
        "nearl.backbones.familiar.fitting_sets",
        lambda *given: ["knee_xray_oa", "chest_xray_pneumonia", "brain_mri_tumor"],
    )
    names = ready.ready_prompts(engine, workspace, gathering.editor_value(workspace))
    assert names == ["brain_mri_tumor"]  # which names all classes
    value = ready.ready_value(workspace, names[0])
    gathering.keep_prompts(workspace, value)
    assert gathering.prompts_for(workspace).prompts[0][0] == "a brain MRI of a glioma"
    assert gathering.editor_value(workspace) == value
    assert ready.ready_prompts(engine, workspace, value) == []
    other = ready.ready_value(workspace, "knee_xray_oa")
    assert other["classes"][0] == {"name": "glioma", "prompts": ["a knee X-ray of glioma"]}
    assert "Knee" in image_views.ready_prompts([("knee_xray_oa", "Knee X-ray OA")])


def test_while_a_task_is_read_the_set_before_it_cannot_be_taught(workspace):
    workspace.support.keep(phantom_set("smear", 4, size=64))
    ctx = SimpleNamespace(engine=None, workspace=lambda key: workspace, ready_prompts={})
    with gr.Blocks() as page:
        ctx.session = gr.State(None)
        part, plan = images_tab.build(ctx), (gr.Slider(), gr.Textbox())
        images_tab.wire(ctx, part, plan)
    on_kind = next(f.fn for f in page.fns.values() if f.name == "on_kind")
    first, last = on_kind("w", "skin", 25, "")
    assert first[part.set] == "" and "away" in first[part.words]["elem_classes"] and "Reading" in first[part.message]
    assert "lesion" in last[part.set] and "away" not in last[part.words]["elem_classes"]

    # what is ticked is what is there: a task chosen while own images are there is refused calmly, and left again
    shown = lambda: images_tab.show(part, workspace, images_tab.Plan(0.25, ""))  # noqa: E731
    assert part.kind not in last and shown()[part.kind] == "skin"
    workspace.support.keep(replace(phantom_set("smear", 4, size=64), ours=False))
    (refused,) = on_kind("w", "skin", 25, "")
    assert refused[part.kind] is None is shown()[part.kind] and "lesion" in refused[part.set]
    assert "Your own images stay" in refused[part.message] and "Error" not in refused[part.message]
    assert not workspace.support.data.ours


def test_a_page_does_not_teach_with_images_that_another_one_has_brought_since(workspace):
    one, other = workspace.seen_by("one"), workspace.seen_by("other")
    with gr.Blocks():
        part = images_tab.build(SimpleNamespace(engine=None, ready_prompts={}, session=gr.State(None)))
    for page, seed in ((one, 1), (other, 2)):
        workspace.support.keep(phantom_set("smear", 4, size=64, seed=seed))
        images_tab.show(part, page, images_tab.Plan(0.25, ""))
    with pytest.raises(NearlError, match="another tab"):
        teaching.start(None, one, None, Choice())
    with pytest.raises(NearlError, match="prompt"):  # it gets as far as that
        teaching.start(None, other, None, Choice())


def test_images_are_brought_class_by_class_and_tidied(workspace, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:200])
    gathering.bring(workspace, images[:4], "clear")
    assert "at least two classes" in gathering.check(workspace).blocking
    gathering.bring(workspace, [*images[4:6], broken], "spot")
    assert workspace.support.data.counts() == {"clear": 4, "spot": 2}
    assert [problem.name for problem in gathering.check(workspace).problems] == ["broken.png"]
    with pytest.raises(NearlError):
        gathering.bring(workspace, [broken], "clear")
    assert len(workspace.support.data) == 6

    gathering.relabel(workspace, [0], "spot")
    gathering.rename_class(workspace, "spot", "shadow")
    gathering.remove_images(workspace, [1])
    assert workspace.support.data.counts() == {"clear": 2, "shadow": 3}
    with pytest.raises(NearlError, match="no longer there"):
        gathering.remove_images(workspace, [99])
    (_, picture, name, marks), *_ = looking.thumbs(workspace, [0])
    assert picture.startswith("data:image/") and (name, marks) == ("shadow", [])
    gathering.merge_classes(workspace, ["clear", "shadow"], "all")
    assert workspace.support.data.counts() == {"all": 5}
    gathering.forget_images(workspace)
    assert workspace.support.data is None
    with pytest.raises(NearlError, match="no images yet"):
        gathering.drop_class(workspace, "all")


def test_the_number_of_copies_is_that_of_the_button(workspace):
    data = phantom_set("smear", 4, size=64)
    (one, two, *rest), labels = data.records, data.labels
    records = [one, two, *rest, one, one, two]
    other = 1 - labels[1]
    workspace.support.keep(replace(data, records=records, labels=[*labels, labels[0], labels[0], other]))
    said = next(words for words in gathering.check(workspace).cautions if "more than once" in words)
    assert said.startswith("2 images are in a class")
    groups = gathering.equal_images(workspace)
    drawn = [[[(i, "data:,", "x.png", ["a"]) for i in group] for group in found] for found in groups]
    html = image_views.equal_images(*drawn, data.classes)
    assert "remove 2" in html
    gathering.press(workspace, Press(Act.KEEP_ONE))
    assert len(workspace.support.data) == len(records) - 2


def test_images_are_counted_before_any_is_decoded(workspace, images, tmp_path):
    """The images are cut short: whoever decodes them finds that none can be read."""
    entry = images[0].read_bytes()[:200]
    files = {f"{label}/{i}.png": entry for label in ("a", "b") for i in range(gathering.MAX_IMAGES // 2 + 1)}
    (tmp_path / "many.zip").write_bytes(packed(files))
    for label in ("", "all"):
        with pytest.raises(NearlError, match=f"{len(files)} images"):
            gathering.bring(workspace, [tmp_path / "many.zip"], label)
    assert workspace.support.data is None


def test_the_set_is_found_again_by_a_later_server_without_its_names(tmp_path, images):
    root = Root(tmp_path / "root")
    workspace = Registry(root).get(None)
    gathering.bring(workspace, images[:2], "a")
    gathering.bring(workspace, images[2:4], "b")
    again = Registry(root).get(workspace.id)
    assert again is not workspace
    assert again.support.data.counts() == {"a": 2, "b": 2}
    assert [r.digest for r in again.support.data.records] == [r.digest for r in workspace.support.data.records]
    assert [r.name for r in again.support.data.records] == [f"image {i}" for i in range(1, 5)]
    with pytest.raises(NearlError, match="names of these files were forgotten"):
        gathering.plan(again, group_by="_")


def test_prompts_come_with_the_images_or_from_the_class_names(workspace):
    gathering.gather_example(workspace, "ultrasound")
    assert len(workspace.support.held_out) > 0
    assert len(gathering.prompts_for(workspace).prompts[0]) > 1
    workspace.support.data.prompts = {"classes": "nonsense"}
    assert gathering.prompts_for(workspace).prompts[0] == ("a medical image of no lesion",)
