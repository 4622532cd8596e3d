"""Which map is asked for: everything that a map of one image depends on beside the prompts and the adapter in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nearl.errors import NearlError
from nearl.explain.registry import MAPS
from nearl.explain.score import OTHERS, Score
from nearl.prompts import class_key


@dataclass(frozen=True)
class MapRequest:
    """One map of one class; hashable, so that ``canonical()`` with an image's digest is the key of a cache."""

    map: str = "gradcam"  # a key of MAPS
    class_index: int = 0
    against: int | str = OTHERS  # another class's number, OTHERS or ALONE
    layer: int | None = None  # counted from 0; None is the map's own choice
    head: int | None = None  # counted from 0; None is the mean over heads
    adapted: bool | None = None  # None: the adapted model if there is one
    control: int | None = None  # seed of the randomised model that a control is drawn of

    @classmethod
    def named(
        cls, classes: Sequence[str], name: str, map: str = "gradcam", against: str | None = None, **more
    ) -> MapRequest:
        """A request by class names. Raises NearlError for a class that is not there."""
        other = OTHERS if against is None else class_index(classes, against)
        return cls(map, class_index(classes, name), other, **more)

    @property
    def score(self) -> Score:
        """What is explained."""
        return Score(self.class_index, self.against)

    def canonical(self) -> MapRequest:
        """The same request for every class where the map does not depend on the class."""
        return self if MAPS[self.map].by_class else replace(self, class_index=0, against=OTHERS)


def class_index(classes: Sequence[str], name: str) -> int:
    """The place of a class by name (see `class_key`). Raises NearlError if it is not there."""
    names = [class_key(c) for c in classes]
    if class_key(name) not in names:
        raise NearlError(f"There is no class '{name}' among the prompts; they name {', '.join(classes)}.")
    return names.index(class_key(name))
