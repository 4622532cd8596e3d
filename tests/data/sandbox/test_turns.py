"""Fair turns: a newcomer goes before those who used a lot, nobody starves, and a wanted worker is waited for."""

from __future__ import annotations

import threading

from nearl.data.sandbox.turns import Turns


class Queue:
    """One worker, held until `go`; then those who wait get their turns in the order that `order` tells."""

    def __init__(self, workers: int = 1):
        self.turns, self.order, self._threads = Turns(list(range(workers))), [], []
        self._held, self._free = threading.Event(), threading.Event()
        self._threads.append(threading.Thread(target=self._hold))
        self._threads[0].start()
        self._held.wait()

    def _hold(self) -> None:
        with self.turns.turn("holder"):
            self._held.set()
            self._free.wait()

    def ask(self, asker: str, cost: float, times: int = 1) -> None:
        def work() -> None:
            for _ in range(times):
                with self.turns.turn(asker) as turn:
                    self.order.append(asker)
                    turn.cost = cost

        before = self.turns.waiting
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()
        while self.turns.waiting == before:
            pass

    def go(self) -> list[str]:
        self._free.set()
        for thread in self._threads:
            thread.join()
        return self.order


def test_one_turn_of_a_newcomer_comes_before_the_rest_of_many():
    queue = Queue()
    queue.ask("many", 1.0, times=20)
    queue.ask("one", 1.0)
    order = queue.go()
    assert order.index("one") <= 1 and len(order) == 21


def test_several_requests_of_one_visitor_share_its_turns():
    queue = Queue()
    for _ in range(6):
        queue.ask("six at once", 1.0)
    queue.ask("one", 1.0)
    assert queue.go().index("one") <= 6  # they came first; but not their next turns
    queue = Queue()
    for asker in ("a", "a", "a", "b", "b", "b"):
        queue.ask(asker, 1.0, times=3)
    order = queue.go()
    assert abs(order[-9:].count("a") - order[-9:].count("b")) <= 3


def test_newcomers_do_not_starve_who_waits():
    queue = Queue()
    queue.ask("old", 5.0, times=3)
    for number in range(30):
        queue.ask(f"new {number}", 5.0)
    assert sorted(queue.go())[-1] == "old" and queue.order.count("old") == 3


def test_a_wanted_worker_is_waited_for():
    turns, events = Turns(["a", "b"]), []
    with turns.turn("x") as first:
        waiting = threading.Thread(target=lambda: events.append(_worker(turns, first.worker)))
        waiting.start()
        with turns.turn("y") as other:
            assert other.worker != first.worker and not events
    waiting.join()
    assert events == [first.worker]


def test_all_are_taken_together():
    turns = Turns(["a", "b"])
    with turns.all() as workers:
        assert sorted(workers) == ["a", "b"]
    assert _worker(turns, None) in workers


def _worker(turns: Turns, wanted: str | None) -> str:
    with turns.turn("z", wanted) as turn:
        return turn.worker
