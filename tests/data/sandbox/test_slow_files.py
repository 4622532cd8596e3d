"""Small files made to be slow: each ends within its CPU time, measured on the worker, and nobody tries it again."""

from __future__ import annotations

import zipfile

import pytest

from nearl.data.sandbox.client import Sandbox
from nearl.data.sandbox.request import asked_by
from tests.support.hostile import packed, png
from tests.support.slow import CROWDED, QUICK, SLOW, bmp_runs

resource = pytest.importorskip("resource")

CPU = 0.5  # seconds for a file; the files need several
START = 3.0  # seconds that the start of a worker takes, at most, with its imports


def used() -> float:
    """CPU time of all processes that have ended so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_file_ends_within_its_cpu_time(kind):
    box, before = Sandbox(cpu=CPU), used()
    with asked_by("visitor") as request:
        records, problems = box.read([(f"{kind}.x", SLOW[kind]())])
    box.close()
    ((_, problem),) = problems
    assert not records and problem.name == f"{kind}.x" and "too long" in problem.reason and problem.reason[-1] == "."
    assert box.started == 1 and request.used < CPU + START and used() - before < CPU + START


def test_files_of_very_many_parts_are_refused_and_others_like_them_read_at_once():
    box, files = Sandbox(), CROWDED | QUICK
    with asked_by("visitor", seconds=10.0) as request:
        records, problems = box.read([(name, made()) for name, made in files.items()])
    box.close()
    assert len(records) + len(problems) == len(files) and box.started == 1 and request.used < 10.0
    refused = {problem.name for _, problem in problems if "far more parts" in problem.reason}
    assert refused == set(CROWDED) and not any("too long" in problem.reason for _, problem in problems)


def test_many_slow_files_do_not_multiply_the_budget_of_a_request():
    box, before, slow = Sandbox(cpu=CPU), used(), bmp_runs()
    with asked_by("visitor", seconds=1.2) as request:
        sources = [("0.png", png()), *((f"{i}.bmp", slow) for i in range(1, 9)), ("9.png", png())]
        records, problems = box.read(sources)
        assert [record.name for _, record in records] == ["0.png"]
        assert 2 <= len(problems) <= 4 and "takes too long in all" in problems[-1][1].reason
        started = box.started
        assert box.read([("next.bmp", slow)])[1] and box.started == started  # not even tried
    assert request.used < 1.2 + CPU + 0.5
    assert not box.read([("a.png", png())])[1]  # another request
    box.close()
    assert used() - before < 1.2 + CPU + 5 * START


def test_slow_entries_of_a_zip_are_named_and_the_others_read():
    box, files = Sandbox(cpu=CPU, workers=1), {"a.png": png(1), "b.bmp": bmp_runs(), "c.png": png(2)}
    with asked_by("visitor"):
        records, problems = box.read([("all.zip", packed(files, zipfile.ZIP_STORED))])
    box.close()
    assert [record.name for _, record in records] == ["a.png", "c.png"] and box.started == 2
    assert [problem.name for _, problem in problems] == ["b.bmp"] and "too long" in problems[0][1].reason
