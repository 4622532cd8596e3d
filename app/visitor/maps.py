"""The heat maps of one visitor's images, each drawn once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from nearl.explain import MapRequest


class MapKey(NamedTuple):
    """What a heat map depends on besides the prompts and the adapter in use; one key for every tab."""

    digest: str  # of the image
    request: MapRequest  # in its canonical form, with ``adapted`` True or False


class Drawing(Protocol):
    """Slow maps that are being drawn."""

    @property
    def ended(self) -> bool: ...

    def stop(self) -> None: ...


class Maps:
    """What the model was asked for already. Cleared when the images, the prompts or the adapter change.

    `lock` is held while something is drawn, so that nothing is drawn twice.
    """

    def __init__(self, lock: threading.RLock):
        self._lock = lock
        self._drawn: dict[Hashable, Any] = {}
        self.picked = ""  # the class that the visitor has chosen; "" where maps follow the answer on show
        self.drawing: Drawing | None = None  # slow maps that are being drawn, or the last ones that were

    def __len__(self) -> int:
        return len(self._drawn)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._drawn

    def __getitem__(self, key: Hashable) -> Any:
        return self._drawn[key]

    def once(self, key: Hashable, draw: Callable[[], Any]) -> Any:
        """What was drawn under this key; drawn now if nothing was."""
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = draw()
            return self._drawn[key]

    def keep(self, drawn: Iterable[tuple[Hashable, Any]]) -> None:
        with self._lock:
            self._drawn.update(drawn)

    def clear(self) -> None:
        with self._lock:
            self._drawn.clear()
            self.picked = ""
            if self.drawing is not None:
                self.drawing.stop()
                self.drawing = None

    def let_go(self) -> None:
        """Forget what drew slow maps, and the model with it, once it has ended; the maps stay."""
        if self.drawing is not None and self.drawing.ended:
            self.drawing = None

    def pick(self, name: str) -> None:
        """The visitor has chosen the class whose map is to be seen; "" for that of the answer on show."""
        self.picked = name
