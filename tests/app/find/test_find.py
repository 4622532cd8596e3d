"""Finding among the images to teach with: indexed once, with and without an adapter, and refused."""

import re

import numpy as np
import pytest

from app.find import actions as finding
from app.find import html as find_views
from app.find.actions import Found, Going
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import make
from tests.support.methods_data import shades, task_of, taught


def _search(*given, **named) -> tuple[list[Going], Found]:
    *going, found = finding.search(*given, **named)
    return going, found


def test_the_images_to_teach_with_are_searched_and_encoded_once(engine, workspace):
    with pytest.raises(NearlError, match="no images to search yet"):
        next(finding.search(engine, workspace, "dark"))
    data = shades(12, seed=5)
    workspace.support.keep(data)
    going, found = _search(engine, workspace, "dark")
    assert going and found.total == 24 and len(found.before) == 10 and found.after is None
    assert [one.similarity for one in found.before] == sorted((one.similarity for one in found.before), reverse=True)
    assert found.figures["after"] is None and not found.held
    assert _search(engine, workspace, "light")[0] == []  # nothing was encoded again

    adapter = taught(make("nearl", task_of(engine.backbone()))).adapter()
    adapter.meta["images"] = None
    workspace.shelf.use(workspace.shelf.put(adapter, "taught"))
    workspace.support.keep(data, shades(3, seed=6))
    workspace.viewing.bring([data.records[0]], [])
    _, found = _search(engine, workspace, None)
    assert found.held and found.figures["after"]["n"] == 6
    assert "itself is among them" in found.notes[0]
    for side in (found.before, found.after):
        assert len(side) == 10 and data.records[0].digest not in {one.record.digest for one in side}
    page = find_views.found(found)
    assert page.count("<li>") == 20 and "Before teaching" in page and "After teaching" in page
    assert re.search("similarity </span>[01][.]", page)
    index = workspace.support.index
    assert index.is_file()
    workspace.support.forget()
    assert not index.exists()


def test_an_image_unlike_all_is_shown_nothing_unless_it_is_asked_for(engine, workspace):
    workspace.support.keep(shades(12, seed=5))
    with pytest.raises(NearlError, match="no image in Predict"):
        _search(engine, workspace, None)
    squares = np.random.default_rng(0).integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    odd = ImageRecord.from_pixels("odd.png", np.kron(squares, np.ones((8, 8, 1), np.uint8)))
    workspace.viewing.bring([odd], [])
    _, found = _search(engine, workspace, None)
    assert "unlike all 24 images" in found.refused and found.before == []
    assert "data-pick" in find_views.found(found)
    assert len(_search(engine, workspace, None, anyway=True)[1].before) == 10
    with pytest.raises(NearlError, match="shorten it"):
        _search(engine, workspace, "x" * 301)


def test_a_search_begins_again_where_another_adapter_is_chosen_meanwhile(engine, workspace):
    data = shades(12, seed=5)
    workspace.support.keep(data)
    key = workspace.shelf.put(taught(make("nearl", task_of(engine.backbone()))).adapter(), "taught")
    steps = finding.search(engine, workspace, "dark")
    assert isinstance(next(steps), Going)
    workspace.shelf.use(key)
    (found,) = [one for one in steps if isinstance(one, Found)]
    assert found.after is not None
    steps = finding.search(engine, workspace, "dark")
    assert isinstance(next(steps), Found) and list(steps) == []
