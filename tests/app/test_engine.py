"""The model that all visitors share, its lock and its queue."""

from __future__ import annotations

import threading
import time

import pytest

from app.engine import DeviceLock, Engine
from nearl.errors import NearlError


def test_the_device_lock_serves_in_order():
    lock, served, threads = DeviceLock(), [], []
    with lock:
        for name in range(5):
            thread = threading.Thread(target=lambda n=name: _hold(lock, served, n))
            thread.start()
            threads.append(thread)
            while len(lock._waiting) <= name:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert served == [0, 1, 2, 3, 4]


def _hold(lock, served, name):
    with lock:
        served.append(name)


def test_a_model_that_cannot_be_loaded_is_replaced_and_said_in_one_sentence(checkpoints, monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", f"local-dir:{checkpoints('clip')}")
    engine = Engine("no-such-model", "cpu")
    engine.start()
    assert engine.backbone(timeout=60).name.startswith("local-dir:")
    assert (engine.label(), engine.state()) == ("clip", "ready")
    assert "no-such-model" in engine.notice


def test_without_any_model_every_use_says_why(monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    engine = Engine("no-such-model", "cpu")
    engine.start()
    with pytest.raises(NearlError, match="no-such-model"):
        engine.backbone(timeout=60)
    assert "no-such-model" in engine.state()


def test_there_is_one_queue_whoever_asks_first(monkeypatch):
    made = []
    monkeypatch.setattr("app.engine.Queue", lambda _: made.append(object()) or made[-1])
    engine, start, found = Engine("no-such-model", "cpu"), threading.Barrier(8), []

    def ask() -> None:
        start.wait(60)
        found.append(engine.queue)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 8 and len(made) == 1 and set(map(id, found)) == {id(made[0])}
