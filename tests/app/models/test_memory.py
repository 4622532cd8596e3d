"""Which models are in memory: the budget, who leaves, and what a failure changes."""

from __future__ import annotations

import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from app.models.memory import Models
from nearl.errors import NearlError

SIZE = 400  # bytes of each model


class Fake(SimpleNamespace):
    """A model of so many float32 numbers."""


def loader(made: list[str]):
    def load(name: str) -> Fake:
        if "broken" in name:
            raise NearlError("It cannot be loaded.")
        made.append(name)
        identity = {"name": name, "config_sha256": "c", "weights": f"w {name}"}
        numbers = 4 * SIZE if "large" in name else SIZE
        model = SimpleNamespace(parameters=lambda: [torch.zeros(numbers // 4)], buffers=lambda: [])
        return Fake(name=name, model=model, identity=identity, image_size=(8, 8), lock=threading.RLock())

    return load


@pytest.fixture
def made():
    return []


def test_the_one_used_longest_ago_leaves_and_is_loaded_again_when_it_is_asked_for(made):
    models, gone = Models("abc", loader(made), 2 * SIZE), []
    models.left = lambda backbone: gone.append(backbone.name)
    first = models.get("a")
    models.get("b")
    assert models.get("a") is first and models.kept() == ["b", "a"]
    models.get("c")
    assert (gone, models.kept(), made) == (["b"], ["a", "c"], ["a", "b", "c"])
    models.get("b")
    assert (gone, models.kept(), made) == (["b", "a"], ["c", "b"], ["a", "b", "c", "b"])
    assert all(models.size(name) == SIZE for name in "abc")
    seen = weakref.ref(first)
    del first
    assert seen() is None


def test_one_that_a_run_needs_never_leaves_and_one_at_work_only_last(made):
    needed = {"b"}
    models = Models("abcd", loader(made), 2 * SIZE, lambda: needed)
    models.get("b")
    models.get("c")
    models.get("d")
    assert models.kept() == ["b", "d"]
    needed.add("d")
    with pytest.raises(NearlError, match="no room in memory for “c”"):
        models.get("c")
    assert models.kept() == ["b", "d"]
    needed.clear()
    reading = models.get("b")
    models.get("d")
    thread, end = threading.Event(), threading.Event()

    def read():
        with reading.lock:
            thread.set()
            end.wait(60)

    threading.Thread(target=read, daemon=True).start()
    assert thread.wait(60)
    models.get("a")
    assert models.kept() == ["b", "a"]  # "d" was used later, but is idle
    end.set()


def test_what_is_too_large_or_broken_is_refused_and_nothing_else_leaves(made):
    models = Models(["a", "b", "large", "broken"], loader(made), 2 * SIZE)
    models.get("a")
    for name, words in (("broken", "cannot be loaded"), ("large", "--model-memory")):
        with pytest.raises(NearlError, match=words):
            models.get(name)
        assert (models.kept(), models.loading) == (["a"], "")
    assert not models.here("hf-hub:somebody/else") and models.here("a")
    only = Models(["large"], loader(made), SIZE)
    assert only.get("large") is only.get("large")  # the page's own is loaded in any case


def test_two_who_ask_at_once_load_it_once(made):
    models, start, found = Models("a", loader(made)), threading.Barrier(8), []

    def ask():
        start.wait(60)
        found.append(models.get("a"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert made == ["a"] and len({id(one) for one in found}) == 1


def test_the_owner_of_an_adapter_is_found_by_name_and_where_it_is_known_by_its_weights(made):
    models = Models(["local-dir:/models/x", "y"], loader(made))
    about = {"name": "local-dir:x", "config_sha256": "c", "weights": "w local-dir:/models/x"}
    other = {**about, "weights": "of another version"}
    assert models.owner(about) == models.owner(other) == "local-dir:/models/x"
    models.get("local-dir:/models/x")
    assert models.owner(about) == "local-dir:/models/x"
    assert models.owner(other) == models.owner({"name": "z"}) == models.owner({}) == ""
