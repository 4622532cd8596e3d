"""Labelled sets whose class names cannot be taught: they stay, and a reload says why and lets them be mended."""

from __future__ import annotations

import contextlib

import pytest
from PIL import Image

from app.events import Act, Press
from app.teach.images import actions as gathering
from app.teach.images import tab as images
from app.teach.run import actions as teaching
from app.teach.run.actions import Choice
from app.visitor.disk import Root
from app.visitor.registry import Registry
from nearl.data.sets.columns import Columns, ColumnsError
from nearl.errors import NearlError
from tests.support.hostile import GOOD, packed, png, saved

LONG = "a" * 101
NAMES = {
    "65 classes": [f"class {i}" for i in range(65)],
    "a long name": [LONG, "other"],
    "two spellings of one name": ["brain tumor", "brain_tumor"],
    "British and American": ["tumour", "tumor"],
    "nothing but underscores": ["_", "__"],
}
PART = images.ImagesPart(*(name for name in images.ImagesPart.__dataclass_fields__))  # components by their names
PLAN = images.Plan(0.25, "")


@pytest.fixture(params=NAMES)
def reloaded(request, tmp_path):
    """The workspace of a visitor who brought such a set and comes back to a server that started again."""
    names = NAMES[request.param]
    path = tmp_path / "set.zip"
    path.write_bytes(packed({f"{name}/{i}.png": png(i + 3 * n) for n, name in enumerate(names) for i in (1, 2)}))
    root = Root(tmp_path / "root")
    before = Registry(root).get(None)
    gathering.bring(before, [path])
    return Registry(root).get(before.id), names


def test_a_reload_says_what_is_wrong_and_offers_to_forget(reloaded):
    workspace, _ = reloaded
    shown = images.show(PART, workspace, PLAN)
    blocking = gathering.check(workspace).blocking
    assert blocking.endswith(".") and blocking[:20] in shown["check"]
    assert "Forget these images" in shown["set"] and not shown["editor"]
    with pytest.raises(NearlError) as refused:
        teaching.start(None, workspace, None, Choice())
    assert str(refused.value) == blocking
    gathering.forget_images(workspace)
    assert "Forget" not in images.show(PART, workspace, PLAN)["set"]


def test_it_can_be_mended(reloaded):
    workspace, names = reloaded
    if len(names) > 2:
        gathering.merge_classes(workspace, names[:2], "both")
    else:
        gathering.rename_class(workspace, names[0], "mended")
    assert not gathering.check(workspace).blocking
    assert images.show(PART, workspace, PLAN)["editor"]["classes"]


def test_an_edit_of_such_a_set_is_not_stopped_by_the_prompts_in_the_editor(reloaded):
    workspace, _ = reloaded
    gathering.keep_edited(workspace, {"classes": [{"name": "x", "prompts": ["y"]}]})
    assert "Forget these images" in images.show(PART, workspace, PLAN)["set"]


def test_another_zip_takes_its_place(reloaded, tmp_path):
    workspace, _ = reloaded
    path = tmp_path / "good.zip"
    path.write_bytes(packed(GOOD))
    assert gathering.unusable(workspace)
    assert "in the place of those" in images._bring(workspace, [str(path)])
    assert workspace.support.data.counts() == {"cat": 2, "horse": 2} and not gathering.unusable(workspace)
    path.write_bytes(packed({"cow/1.png": png(99)}))
    images._bring(workspace, [str(path)])
    assert workspace.support.data.counts() == {"cat": 2, "horse": 2, "cow": 1}  # a set that can be used is added to


def test_whatever_goes_wrong_the_set_can_be_forgotten(workspace, monkeypatch, tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(packed(GOOD))
    gathering.bring(workspace, [path])

    def broken(*given, **named):
        raise RuntimeError

    for place in ("app.visitor.support.Support.check", "app.teach.images.html.check", "nearl.prompts.default_prompts"):
        with monkeypatch.context() as patch:
            patch.setattr(place, broken)
            shown = images.show(PART, workspace, PLAN)
            assert "Forget these images" in shown["set"] and "cat" in shown["set"]
    with monkeypatch.context() as patch:
        patch.setattr("app.visitor.support.Support.data", property(broken))
        assert "Forget these images" in images.show(PART, workspace, PLAN)["set"]
    monkeypatch.setattr(type(workspace), "check_room", lambda *_: broken())
    gathering.keep_edited(workspace, None)
    gathering.forget_images(workspace)
    assert workspace.support.data is None


def test_columns_that_are_not_plain_are_chosen_and_the_upload_waits(workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "x").mkdir()
    path = tmp_path / "x" / "set.zip"
    table = b"p,q,r\na,1,x\nb,2,y\n"
    path.write_bytes(packed({"images/a.png": png(9), "images/b.png": png(90), "labels.csv": table}))
    with pytest.raises(ColumnsError) as refused:
        gathering.bring(workspace, [path])
    assert (refused.value.header, refused.value.file, path.is_file()) == (["p", "q", "r"], "p", True)
    gathering.bring(workspace, [path], columns=Columns("p", "r"))
    assert workspace.support.data.counts() == {"x": 1, "y": 1} and not path.exists()
    assert any("Not used: q" in caution for caution in gathering.check(workspace).cautions)


def test_a_press_about_images_that_another_tab_changed_is_refused(workspace, tmp_path):
    path = tmp_path / "set.zip"
    path.write_bytes(packed(GOOD))
    gathering.bring(workspace, [path])
    version = workspace.support.version
    assert f'data-version="{version}"' in images.show(PART, workspace, PLAN)["set"]
    gathering.check_current(workspace, Press(Act.REMOVE, {"version": version}))
    gathering.remove_images(workspace, [0])
    for act, refused in ((Act.REMOVE, True), (Act.OPEN, True), (Act.FORGET, False)):
        with pytest.raises(NearlError, match="another tab") if refused else contextlib.nullcontext():
            gathering.check_current(workspace, Press(act, {"version": version}))


def test_notes_of_images_outlive_the_server_and_names_do_not(tmp_path):
    pages = [Image.new("L", (40, 40), shade) for shade in (90, 200)]
    film = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    path = tmp_path / "set.zip"
    path.write_bytes(packed({"a/1.tif": film, "b/2.png": png(99)}))
    root = Root(tmp_path / "root")
    before = Registry(root).get(None)
    gathering.bring(before, [path])
    noted = [c for c in gathering.check(before).cautions if c.startswith("1 image: Only")]
    again = Registry(root).get(before.id)
    assert noted and [c for c in gathering.check(again).cautions if c in noted] == noted


def test_test_images_follow_the_spelling_of_their_class(tmp_path):
    names = NAMES["two spellings of one name"]
    files = {f"train/{name}/1.png": png(n) for n, name in enumerate(names)}
    files |= {f"test/{name}/1.png": png(100 + n) for n, name in enumerate(names)}
    path = tmp_path / "set.zip"
    path.write_bytes(packed(files))
    workspace = Registry(Root(tmp_path / "root")).get(None)
    gathering.bring(workspace, [path])
    assert workspace.support.held_out.counts() == {"brain tumor": 1, "brain_tumor": 1}
