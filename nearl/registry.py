"""Named things that can be added to from outside: methods, maps, file formats."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from nearl.errors import NearlError

PLUGINS = "NEARL_PLUGINS"  # environment: modules to import, separated by commas, in this process and in its workers

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Items by name, in the order of registration. ``what`` is what one of them is called in sentences ("method").

    Modules named in the environment variable ``NEARL_PLUGINS`` are imported before the first look-up, so that worker
    processes know what they register too. Looking up a missing name raises NearlError with a sentence.
    """

    def __init__(self, what: str):
        self.what = what
        self._items: dict[str, T] = {}

    def register(self, name: str, item: T) -> T:
        """Add an item. Raises ValueError if the name is taken by another one."""
        if self._items.get(name, item) is not item:
            raise ValueError(f"There is a {self.what} called '{name}' already.")
        self._items[name] = item
        return item

    def unregister(self, name: str) -> None:
        """Take an item out again, if it is there."""
        self._items.pop(name, None)

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise NearlError(f"There is no {self.what} called '{name:.40}'; choose one of {', '.join(self)}.")
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._items)

    def __len__(self) -> int:
        load_plugins()
        return len(self._items)


_loaded: set[str] = set()


def load_plugins() -> None:
    """Import the modules named in ``NEARL_PLUGINS``, each once. Raises NearlError for one that cannot be imported."""
    for name in filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))):
        if name not in _loaded:
            _loaded.add(name)  # before: a plugin may look things up while it is imported
            try:
                importlib.import_module(name)
            except Exception as error:
                _loaded.discard(name)
                raise NearlError(f"The plugin '{name}' that {PLUGINS} names cannot be imported: {error}.") from error
