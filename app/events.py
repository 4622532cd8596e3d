"""What the tabs share: a guard against exceptions in handlers, typed presses, and sets of components.

A handler is a function that Gradio calls for an event; it returns or yields updates by component.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

import anyio.to_thread
import gradio as gr

from app.html import views
from app.visitor.disk import DISK_FULL, is_full
from app.visitor.guard import FAULT
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

log = logging.getLogger("nearl.app")
T = TypeVar("T")

GONE = "This is no longer there; reload the page."


# ---- errors


def sentence(error: Exception) -> str:
    """What the visitor is told: a NearlError's own words, else one sentence, with the details in the server's log."""
    if isinstance(error, NearlError):
        return str(error)
    if is_full(error):
        return DISK_FULL
    where = "".join(traceback.format_tb(error.__traceback__))  # without its message, which may hold a file's name
    log.error("unexpected %s\nTraceback:\n%s", type(error).__name__, where)
    return FAULT


def error_html(error: Exception) -> str:
    """The same as a message for the page."""
    return views.message(sentence(error), "error")


def call(handler: Callable, *given: Any, **named: Any) -> Any:
    """What a guarded handler returns. All of them are called here."""
    return handler(*given, **named)


def unseen(handler: Callable[..., None]) -> Callable[..., None]:
    """Decorator of a handler that shows nothing: an exception is logged."""

    @wraps(handler)
    def logged(*given: Any, **named: Any) -> None:
        try:
            call(handler, *given, **named)
        except Exception as error:
            sentence(error)

    return logged


def guarded(message: gr.HTML, also: Callable[..., dict] = lambda *given: {}) -> Callable[[Callable], Callable]:
    """Decorator of every handler: an exception becomes a sentence in `message`, which is near its cause.

    The handler returns or yields updates by component. `also`: further updates after an exception, such as a button
    enabled again; it is called with the handler's own arguments.
    """

    def failed(error: Exception, given: tuple) -> dict:
        said = {message: error_html(error)}
        try:
            return {**also(*given), **said}
        except Exception as another:  # what is there cannot be drawn either
            sentence(another)
            return said

    def decorate(handler: Callable) -> Callable:
        @wraps(handler)
        def once(*given: Any, **named: Any) -> dict:
            try:
                answer = call(handler, *given, **named)
            except Exception as error:
                return failed(error, given)
            return gr.skip() if answer == {} else answer

        @wraps(handler)
        def several(*given: Any, **named: Any) -> Iterator[dict]:
            answered = False
            try:
                for answer in call(handler, *given, **named):
                    answered = True
                    yield answer
            except Exception as error:
                answered = True
                yield failed(error, given)
            if not answered:  # or Gradio empties every output
                yield gr.skip()

        @wraps(handler)
        async def waiting(*given: Any, **named: Any) -> AsyncIterator[dict]:
            answered = False
            try:
                async for answer in call(handler, *given, **named):
                    answered = True
                    yield answer
            except Exception as error:
                answered = True
                yield await anyio.to_thread.run_sync(failed, error, given)
            if not answered:
                yield gr.skip()

        if inspect.isasyncgenfunction(handler):
            return waiting
        return several if inspect.isgeneratorfunction(handler) else once

    return decorate


# ---- presses


class Act(str, Enum):
    """What a button or form that the page's HTML draws asks for: its `data-act`."""

    PICK = "pick"  # one of a row; every [data-pick] sends it
    OPEN = "open"
    CLOSE = "close"
    PAGE = "page"
    REMOVE = "remove"
    MOVE = "move"
    RENAME = "rename"
    MERGE = "merge"
    DROP = "drop"
    FORGET = "forget"
    KEEP_ONE = "keep-one"
    SETTLE = "settle"
    CELL = "cell"
    ROW = "row"
    MAP = "map"
    REPORT = "report"
    USE = "use"
    STOP = "stop"
    DELETE = "delete"
    DOWNLOAD = "download"
    COMPARE = "compare"


@dataclass(frozen=True)
class Press:
    """What assets/page/act.js or pick.js sent: a button pressed, or a form submitted."""

    act: Act
    data: dict = field(default_factory=dict)  # the button's other data attributes and those of the part's [data-state]
    ticked: tuple[str, ...] = ()  # `data-index` of the ticked boxes: ids or numbers
    to: str = ""  # the content of the form's field

    @classmethod
    def of(cls, event: gr.EventData) -> Press:
        """NearlError for an act that the page does not draw."""
        data = dict(event._data or {})
        try:
            act = Act(data.get("act"))
        except ValueError:
            raise NearlError(GONE) from None
        ticked = tuple(i for i in data.get("ticked") or () if isinstance(i, str))
        return cls(act, data, ticked, str(data.get("to", "")))

    def number(self, name: str, default: int | None = None) -> int:
        """The number sent under `name`. NearlError where there is none and no default: the page is out of date."""
        try:
            return int(self.data[name])
        except (KeyError, TypeError, ValueError):
            if default is not None:
                return default
            raise NearlError(GONE) from None

    @property
    def numbers(self) -> tuple[int, ...]:
        """The ticked boxes whose `data-index` is a number."""
        return tuple(int(i) for i in self.ticked if i.isdecimal() and len(i) < 10)

    def pick(self, name: str, choices: Sequence[T]) -> T:
        """The entry of `choices` whose place was sent under `name`."""
        place = self.number(name)
        if not 0 <= place < len(choices):
            raise NearlError(GONE)
        return choices[place]

    def one_of(self, name: str, choices: Sequence[str]) -> str:
        """What was sent under `name`, which has to be among `choices`."""
        found = self.data.get(name)
        if found not in choices:
            raise NearlError(GONE)
        return found


# ---- news

_numbers = itertools.count(1)


def bump() -> int:
    """A value for `Context.changed` that it never had before."""
    return next(_numbers)


# ---- a page that opens


class Opening:
    """What happens when a page opens. Tabs say here what is to follow, and what its first answer is to draw already;
    the event itself is made last, when all of that is known.

    A look is a function of the page's workspace that returns updates by component. It has to be quick, since all else
    of the page waits for it.
    """

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self._looks: list[Callable[[Workspace], dict]] = []
        self._next: list[tuple[tuple, dict, Opening]] = []

    def first(self, look: Callable[[Workspace], dict], outputs: Sequence[Any]) -> None:
        """Draw with the first answer what `look` gives of these outputs."""
        self._looks.append(look)
        self.outputs += outputs

    def then(self, *given: Any, **named: Any) -> Opening:
        """As of an event of Gradio: what is to follow, after which more can follow."""
        step = Opening()
        self._next.append((given, named, step))
        return step

    def drawn(self, workspace: Workspace) -> dict:
        """What all looks give. One that fails is left out: what follows shows the same, or says what is wrong."""
        found: dict = {}
        for look in self._looks:
            try:
                found |= call(look, workspace)
            except Exception as error:
                sentence(error)
        return found

    def begin(self, event: gr.events.Dependency) -> None:
        """Let everything follow an event that was made meanwhile."""
        for given, named, step in self._next:
            step.begin(event.then(*given, **named))


# ---- components

INPUT = {"output": False}  # metadata of a component that is only read


class Components:
    """Base of the dataclasses that hold a tab's components, or those of a part of it."""

    @property
    def outputs(self) -> list:
        """All components but those with the metadata INPUT. A field is one, a dict of them, or another such set."""
        found = []
        for value in (getattr(self, f.name) for f in fields(self) if f.metadata.get("output", True)):
            if isinstance(value, Components):
                found += value.outputs
            else:
                found += value.values() if isinstance(value, dict) else [value]
        return found
