"""Handlers, presses and sets of components that all tabs share."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace

import gradio as gr
import pytest

from app.events import INPUT, Act, Components, Press, bump, guarded
from app.page import Settings, build_app
from nearl.errors import NearlError

SECRET = "the path /root"
HOSTILE = "<script>alert(1)</script>"


def test_an_exception_of_a_handler_is_said_near_its_cause_and_logged(caplog):
    caplog.set_level("ERROR")

    @guarded("message", lambda key: {"button": key})
    def refused(key):
        raise NearlError(f"{key} is refused.")

    @guarded("message")
    def broken(key):
        yield {"begun": key}
        raise RuntimeError(SECRET)

    answer = refused(HOSTILE)
    assert "is refused" in answer["message"] and "<script" not in answer["message"] and answer["button"] == HOSTILE
    assert caplog.text == ""  # what a visitor is told of needs no log
    first, last = broken("x")
    assert first == {"begun": "x"} and "Something went wrong" in last["message"]
    assert "RuntimeError" in caplog.text and SECRET not in caplog.text + last["message"]


def test_a_handler_without_an_answer_leaves_the_page_as_it_is():
    @guarded("message")
    def nothing_new(key):
        return {}

    @guarded("message")
    def silent(key):
        yield from ()

    assert nothing_new("x") == gr.skip() and list(silent("x")) == [gr.skip()]


def press(**data) -> Press:
    return Press.of(SimpleNamespace(_data=data))


def test_a_press_is_typed_and_what_is_out_of_date_is_refused():
    pressed = press(act="settle", group="1", to="2", ticked=["3", "x", 4.0, "4" * 5000], when="after")
    assert (pressed.act, pressed.numbers, pressed.to) == (Act.SETTLE, (3,), "2")
    assert pressed.pick("group", "ab") == "b" and pressed.one_of("when", ("before", "after")) == "after"
    assert pressed.number("page", 7) == 7
    for wrong in (
        lambda: pressed.pick("to", "ab"),
        lambda: pressed.number("page"),
        lambda: pressed.one_of("when", ("before",)),
        lambda: press(act="explode"),
        lambda: press(),
    ):
        with pytest.raises(NearlError, match="reload"):
            wrong()


def test_components_list_what_a_handler_may_change():
    @dataclass
    class Inner(Components):
        shown: str

    @dataclass
    class Outer(Components):
        one: str
        several: dict
        inner: Inner
        read: str = field(metadata=INPUT)

    assert Outer("a", {"x": "b", "y": "c"}, Inner("d"), "e").outputs == ["a", "b", "c", "d"]
    assert bump() != bump()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page, with a model that cannot be loaded."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.engine.FALLBACK", "neither-this-one")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        yield build_app(Settings("no-such-model", "cpu", workspaces=str(folder / "root")))


def private(page: gr.Blocks) -> list:
    return [event for event in page.fns.values() if event.fn and event.api_visibility == "private"]


def answers(handler, given: list) -> list:
    """All that a handler answers."""

    async def of(generator) -> list:
        return [answer async for answer in generator]

    answer = handler(*given)
    if inspect.isasyncgen(answer):
        return asyncio.run(of(answer))
    return list(answer) if inspect.isgenerator(answer) else [answer]


def test_every_handler_of_the_page_turns_an_exception_into_a_sentence(built, monkeypatch, caplog):
    def broken(handler, *given, **named):
        raise RuntimeError(SECRET)

    monkeypatch.setattr("app.events.call", broken)
    caplog.set_level("ERROR")
    for event in private(built):
        caplog.clear()
        *_, last = answers(event.fn, [None] * len(event.inputs))
        assert "RuntimeError" in caplog.text, event.name
        if event.outputs:
            said = [part for part, update in last.items() if "Something went wrong" in str(update)]
            assert len(said) == 1 and isinstance(said[0], gr.HTML) and set(last) <= set(event.outputs), event.name


def test_a_handler_that_fails_says_so_even_where_nothing_can_be_drawn(caplog):
    def broken(*given):
        raise RuntimeError(SECRET)

    @guarded("message", broken)
    def refused():
        raise NearlError("It is refused.")

    @guarded("message", lambda: {"message": "something else", "part": 1})
    def also_refused():
        raise NearlError("It is refused.")

    caplog.set_level("ERROR")
    assert list(refused()) == ["message"] and "It is refused." in refused()["message"] and "RuntimeError" in caplog.text
    assert "It is refused." in also_refused()["message"]


def test_no_event_lists_components_of_another_tab(built):
    """A press in one tab tells the others through `Context.changed`; each of them redraws what is its own."""

    def tab_of(block) -> str | None:
        while block is not None and not isinstance(block, gr.Tab):
            block = block.parent
        return block and block.label

    events = [event for event in private(built) if event.outputs]
    assert len(events) > 30
    for event in events:
        if event.name == "opened":  # what each tab wants drawn at once
            drawn = {getattr(block, "elem_id", "") for block in event.outputs}
            assert {"progress", "cancel", "set", "comparison-result", "compare-cancel"} <= drawn
        else:
            assert len({tab_of(block) for block in event.outputs} - {None}) <= 1, event.name
    assert max(len(event.outputs) for event in events) < 30
