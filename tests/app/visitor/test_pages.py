"""Open pages and their workspaces, whichever of a page's first requests the server sees first."""

from __future__ import annotations

import threading

import pytest

from app.visitor.disk import Root
from app.visitor.pages import Pages
from app.visitor.registry import Registry
from app.visitor.workspace import GRACE_SECONDS
from nearl.data.phantoms.kinds import phantom_set

IMAGES = phantom_set("smear", 1, size=64).records


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def registry(tmp_path, now):
    return Registry(Root(tmp_path / "root"), clock=lambda: now[0])


@pytest.mark.parametrize("remembered", [True, False])
def test_a_click_before_the_opening_works_in_the_workspace_that_the_page_then_has(registry, remembered):
    pages, found = Pages(registry, 600), []
    key = registry.get(None).id if remembered else None
    click = threading.Thread(target=lambda: found.append(pages.workspace("page", None)), daemon=True)
    click.start()
    opened = pages.open("page", key)
    click.join(60)
    assert found == [opened] and (opened.id == key or not remembered)


def test_what_an_impatient_click_has_begun_is_moved_to_the_remembered_workspace(registry):
    pages = Pages(registry, 0)
    kept = registry.get(None)
    begun = pages.workspace("page", None)
    begun.viewing.bring(IMAGES, [], True)
    assert pages.workspace("page", begun.id) is begun
    opened = pages.open("page", kept.id)
    assert opened.id == kept.id and opened.viewing.records == IMAGES and opened.viewing.synthetic
    assert opened.viewing.page_shown()
    assert pages.workspace("page", begun.id) is opened  # the session may still hold the earlier id


def test_a_page_whose_browser_remembers_nothing_keeps_what_a_click_has_begun(registry):
    pages = Pages(registry, 0)
    begun = pages.workspace("page", None)
    begun.viewing.bring(IMAGES, [], True)
    assert pages.open("page", None) is begun
    assert not begun.viewing.page_shown()  # it is on the page already


def test_images_are_shown_again_on_a_page_that_is_reloaded(registry):
    pages = Pages(registry)
    opened = pages.open("first", None)
    assert not opened.viewing.page_shown()
    opened.viewing.bring(IMAGES, [], False)
    assert pages.open("second", opened.id).viewing.page_shown() and not opened.viewing.page_shown()
    pages.close("first")
    pages.close("second")
    again = pages.open("third", opened.id)
    assert again.viewing.records == IMAGES and again.viewing.page_shown()


def test_tabs_of_one_browser_look_at_images_of_their_own_and_share_the_rest(registry):
    pages = Pages(registry)
    key = pages.open("one", None).id
    one = pages.workspace("one", key)
    one.viewing.bring(IMAGES[:1], [], False)
    pages.open("two", key)
    two = pages.workspace("two", key)
    assert two.viewing.records == IMAGES[:1] and two.viewing.records is not one.viewing.records
    two.viewing.bring(IMAGES[1:], [], False)
    one, two = pages.workspace("one", key), pages.workspace("two", key)
    assert one.viewing.records == IMAGES[:1] and two.viewing.records == IMAGES[1:] and one.maps is not two.maps
    assert one.support is two.support and one.shelf is two.shelf and one.lock is two.lock
    whole = registry.get(key)
    assert whole.memory == sum(record.pixels.nbytes for record in IMAGES)
    whole.put_away()
    assert not one.viewing.records and not two.viewing.records


def test_a_workspace_is_left_behind_with_its_last_page(registry, now):
    pages = Pages(registry)
    workspace = pages.open("first", None)
    pages.open("second", workspace.id)
    pages.close("first")
    now[0] += GRACE_SECONDS + 1
    registry.sweep()
    assert registry.adopt(workspace.path).id == workspace.id
    pages.close("second")
    pages.close("never opened")
    now[0] += GRACE_SECONDS + 1
    registry.sweep()
    assert registry.adopt(workspace.path).id is None


def test_a_program_does_not_wait(registry):
    assert Pages(registry, 600).workspace(None, None).id


def test_calls_of_a_program_that_come_together_have_one_workspace(registry):
    pages = Pages(registry)
    first, second = pages.program("session", None), pages.program("session", None)
    assert first is second is pages.program("session", first.id)
    assert pages.program("another", None) is not first
    assert pages.program(None, None) is not pages.program(None, None)


def test_a_program_that_has_ended_leaves_its_workspace_behind(registry, now):
    pages = Pages(registry)
    kept = registry.get(None)
    for workspace in (pages.program("session", None), kept):
        workspace.viewing.bring(IMAGES, [], False)
    pages.close("session")
    now[0] += GRACE_SECONDS + 1
    registry.sweep()
    assert len(registry) == 1 and registry.get(kept.id) is kept
