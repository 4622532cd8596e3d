"""Labelled sets whose class names cannot be taught: they stay, and a reload says why and lets them be mended."""

from __future__ import annotations

import pytest

from app.teach.images import actions as gathering
from app.teach.images import tab as images
from app.teach.run import actions as teaching
from app.teach.run.actions import Choice
from app.visitor.disk import Root
from app.visitor.registry import Registry
from nearl.errors import NearlError
from tests.support.hostile import packed, png

LONG = "a" * 101
NAMES = {
    "65 classes": [f"class {i}" for i in range(65)],
    "a long name": [LONG, "other"],
    "two spellings of one name": ["brain tumor", "brain_tumor"],
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


def test_test_images_follow_the_spelling_of_their_class(tmp_path):
    names = NAMES["two spellings of one name"]
    files = {f"train/{name}/1.png": png(n) for n, name in enumerate(names)}
    files |= {f"test/{name}/1.png": png(100 + n) for n, name in enumerate(names)}
    path = tmp_path / "set.zip"
    path.write_bytes(packed(files))
    workspace = Registry(Root(tmp_path / "root")).get(None)
    gathering.bring(workspace, [path])
    assert workspace.support.held_out.counts() == {"brain tumor": 1, "brain_tumor": 1}
