"""Registries and the plugins that add to them."""

from __future__ import annotations

import pytest

from nearl.errors import NearlError
from nearl.registry import PLUGINS, Registry


def test_an_item_is_found_by_name_and_a_missing_one_is_named():
    shapes = Registry("shape")
    assert shapes.register("round", 1) == shapes["round"] == 1 and list(shapes) == ["round"]
    with pytest.raises(NearlError, match="no shape called 'square'"):
        shapes["square"]
    with pytest.raises(ValueError, match="already"):
        shapes.register("round", 2)


def test_a_plugin_that_cannot_be_imported_is_named_every_time(monkeypatch):
    monkeypatch.setenv(PLUGINS, "nowhere_to_be_found")
    for _ in range(2):
        with pytest.raises(NearlError, match="nowhere_to_be_found"):
            list(Registry("shape"))
