"""The models that a page offers, and those of them that are in memory."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from app.visitor import limits
from nearl.backbones.catalogue import LOCAL, cached, entry_of
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.backbones import Backbone

GB = 10**9


class Models:
    """The models of a page, in the order in which they are offered; every visitor begins with the first.

    Those in memory take at most `budget` bytes: before another is loaded, the ones that were used longest ago leave,
    but none that a run `needed`. The first one is loaded in any case. One is loaded at a time.

    `load`: a model by its name. `needed`: the names of the models of runs that have not ended.
    """

    def __init__(
        self,
        names: Sequence[str],
        load: Callable[[str], Backbone],
        budget: float = 4 * GB,
        needed: Callable[[], set[str]] = set,
    ):
        self.names = list(names)
        self.budget = int(budget)
        self.left: Callable[[Backbone], object] = lambda backbone: None
        """Called with a model that has left, so that whoever holds it lets go of it."""
        self.loading = ""  # the name of the model that is being loaded
        self._load, self._needed = load, needed
        self._kept: dict[str, Backbone] = {}  # the one used last is the last
        self._guard, self._one = threading.Lock(), threading.Lock()
        self._sizes: dict[str, int] = {}  # bytes of the models that were loaded at some time
        self._sides: dict[str, int] = {}  # pixels of the same
        self._identities: dict[str, dict[str, str]] = {}  # of the same

    # ---- looking

    @property
    def several(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.names) > 1

    def kept(self) -> list[str]:
        """The names of the models in memory, the one used last at the end."""
        with self._guard:
            return list(self._kept)

    def keeps(self, backbone: Backbone) -> bool:
        """Whether this very model is in memory, and has not left since it was given out."""
        with self._guard:
            return any(kept is backbone for kept in self._kept.values())

    def here(self, name: str) -> bool:
        """Whether a model can be loaded without a download."""
        return name in self._sizes or cached(entry_of(name))

    def size(self, name: str) -> int:
        """Bytes that a model takes in memory; 0 where that is not known yet."""
        return self._sizes.get(name) or entry_of(name).memory * 10**6

    def side(self, name: str) -> int:
        """Height and width of a model's input, pixels; 0 where that is not known yet."""
        return self._sides.get(name) or entry_of(name).size

    def owner(self, about: Mapping[str, str]) -> str:
        """The name of the offered model that an adapter belongs to, by what the adapter says of its backbone; "" where
        there is none."""
        for name in self.names:
            known = self._identities.get(name)
            same = known is None or all(about.get(key) == known[key] for key in ("config_sha256", "weights"))
            if same and about.get("name") in (name, label(name), f"{LOCAL}{label(name)}"):
                return name
        return ""

    # ---- loading

    def get(self, name: str) -> Backbone:
        """A model, loaded if it is not in memory. Raises NearlError where it cannot be loaded or there is no room."""
        found = self._used(name)
        if found is None:
            with self._one:
                found = self._used(name) or self._bring(name)
        return found

    def _used(self, name: str) -> Backbone | None:
        with self._guard:
            found = self._kept.pop(name, None)
            if found is not None:
                self._kept[name] = found
            return found

    def _bring(self, name: str) -> Backbone:
        self._make_room(name, self.size(name))
        self.loading = name
        try:
            found = self._load(name)
        finally:
            self.loading = ""
        size = memory_of(found)
        self._make_room(name, size)  # for what was not known of it
        with self._guard:
            self._sizes[name], self._sides[name], self._identities[name] = size, found.image_size[0], found.identity
            self._kept[name] = found
        return found

    def check_size(self, name: str, size: int = 0) -> None:
        """NearlError for a model that alone takes more than there is for all. `size`: bytes, 0 before it is loaded."""
        size = size or self.size(name)
        if size > self.budget and name != self.names[0]:
            raise NearlError(
                f"“{label(name)}” takes {gigabytes(size)} of memory, and this server gives its models "
                f"{gigabytes(self.budget)} (--model-memory); choose a smaller one."
            )

    def _make_room(self, name: str, size: int) -> None:
        self.check_size(name, size)
        first = name == self.names[0]
        needed = self._needed() if self.kept() else set()
        while True:
            with self._guard:
                if sum(self._sizes[other] for other in self._kept) + size <= self.budget:
                    return
                free = [other for other in self._kept if other not in needed]
                leaving = min(free, key=lambda other: _at_work(self._kept[other]), default=None)
                gone = None if leaving is None else self._kept.pop(leaving)
            if gone is not None:
                self.left(gone)
                gone = None
                _give_back()
            elif first:
                return
            else:
                raise NearlError(
                    f"There is no room in memory for “{label(name)}” while runs need other models; try again when they "
                    "have ended."
                )


def label(name: str) -> str:
    """The name of a model to show; for a local folder its last part."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(LOCAL) else name


def memory_of(backbone: Backbone) -> int:
    """Bytes of a model's weights, a tensor that is used twice counted once."""
    tensors = (*backbone.model.parameters(), *backbone.model.buffers())
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())


def gigabytes(size: float) -> str:
    """A number of bytes to show: "51 MB", "3.5 GB"."""
    return f"{size / GB:.1f}\u202fGB" if size >= GB else f"{max(1, round(size / 1e6))}\u202fMB"


def _give_back() -> None:
    """Return the memory of a model that nobody holds any longer, which is a circle of objects, to the system and the
    GPU."""
    gc.collect()
    limits.give_back()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _at_work(backbone: Backbone) -> bool:
    """Whether there is a pass through it just now."""
    if backbone.lock.acquire(blocking=False):
        backbone.lock.release()
        return False
    return True
