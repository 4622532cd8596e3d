"""The toy plugin of the tests, registered for the length of a test module."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nearl.data.sandbox.client import SHARED
from nearl.explain.registry import MAPS
from nearl.methods import METHODS
from nearl.registry import PLUGINS

TOY = "tests.support.toy"


@contextmanager
def plugged() -> Iterator[None]:
    """The toy method, map and format, in this process and in workers that it starts; without them afterwards.

    A module is imported once in a process, so what it registered is registered again here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLUGINS, TOY)
        toy = importlib.import_module(TOY)
        METHODS.register("toy", toy.toy_method.Toy)
        MAPS.register("toy-energy", toy.ENERGY)
        SHARED.close()
        yield
        METHODS.unregister("toy")
        MAPS.unregister("toy-energy")
    SHARED.close()
