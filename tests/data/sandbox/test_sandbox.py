"""Worker processes: replaced when they die, shared by threads and visitors, and limited in memory and images."""

from __future__ import annotations

import gzip
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nearl.data.formats import FORMATS
from nearl.data.images import decode, decode_many, decode_one
from nearl.data.sandbox import process
from nearl.data.sandbox.client import Sandbox
from nearl.data.sandbox.request import TooMany, asked_by
from nearl.errors import NearlError
from tests.support.hostile import packed, png
from tests.support.scans import body, dataset, directions, nifti, series, written
from tests.support.slow import dicom_items


@pytest.fixture
def boxes():
    """Makes sandboxes, which are closed at the end."""
    made: list[Sandbox] = []

    def make(**options) -> Sandbox:
        made.append(Sandbox(**options))
        return made[-1]

    yield make
    for box in made:
        box.close()


@pytest.fixture
def processes(monkeypatch):
    """The worker processes that are started."""
    found, command = [], process.subprocess.Popen

    def popen(words, **options):
        found.append(command(words, **options))
        return found[-1]

    monkeypatch.setattr(process.subprocess, "Popen", popen)
    return found


def scans(count: int) -> list[bytes]:
    return [written(dataset(np.full((20, 20), i, np.uint16))) for i in range(count)]


def test_a_worker_that_needs_too_much_memory_says_so(boxes):
    data = gzip.compress(nifti(np.zeros((500, 500, 600), np.int16), np.eye(4)), 1)
    records, problems = boxes(memory=420_000_000).read([("big.nii", data), ("body.nii", nifti(body(), np.eye(4)))])
    assert [record.name for _, record in records] == ["body.nii"]
    assert len(problems) == 1 and "big.nii" in problems[0][1].reason and problems[0][0] == 0


def test_a_worker_that_is_killed_is_replaced(boxes, processes):
    box, data = boxes(), nifti(body(), np.eye(4))
    assert len(decode(data, sandbox=box)) == 1
    processes[0].kill()
    processes[0].wait()
    assert len(decode(data, sandbox=box)) == 1 and box.started == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_stuck_worker_is_ended_and_the_rest_is_read(boxes, processes, tmp_path):
    box = boxes(seconds=0.5)  # which a worker needs to start, too, and that does not count
    os.mkfifo(tmp_path / "endless")
    records, problems = box.read([("stuck.png", tmp_path / "endless"), ("a.png", png())])
    assert [name for _, (name, _) in problems] == ["stuck.png"] and "too long" in problems[0][1].reason
    assert [record.name for _, record in records] == ["a.png"]


def test_a_file_that_crashes_the_decoder_is_named_in_a_zip_too(boxes, monkeypatch, tmp_path):
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "from nearl.data.formats.base import FORMATS, Format\n"
        "class Deadly(Format):\n"
        "    def sniff(self, head, name): return head.startswith(b'DEADLY')\n"
        "    def read(self, data, name, max_side=None): os._exit(3)\n"
        "FORMATS.register('deadly', Deadly())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    box = boxes(workers=1)
    archive = packed({"a.png": png(1), "b.x": b"DEADLY", "c.png": png(3), "d.x": b"DEADLY", "e.png": png(5)})
    monkeypatch.setenv("NEARL_PLUGINS", "deadly")
    try:
        records, problems = box.read([("all.zip", archive), ("f.x", b"DEADLY"), ("g.png", png(7))])
    finally:
        FORMATS.unregister("deadly")
    assert [record.name for _, record in records] == ["a.png", "c.png", "e.png", "g.png"]
    assert [problem.name for _, problem in problems] == ["b.x", "d.x", "f.x"]
    assert all("made the decoder fail" in problem.reason for _, problem in problems)


def test_a_slow_file_among_slices_does_not_spoil_their_volume(boxes):
    files = [("slow.dcm", dicom_items()), *((f"{i}.dcm", d) for i, d in enumerate(series(body(), *directions()[0])))]
    records, problems = boxes(cpu=1.5).read(files)
    assert [problem.name for _, problem in problems] == ["slow.dcm"]
    assert len(records) == 1 and np.array_equal(records[0][1].scan.ras()[0], body())


def test_threads_share_the_workers(boxes):
    box, results, data = boxes(), [], scans(6)

    def work(i: int) -> None:
        results.append((i, int(decode_one(data[i], sandbox=box).scan.values("acquired", 0)[0, 0])))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [(i, i) for i in range(6)] and box.started <= 2


def test_a_visitor_with_many_files_does_not_hold_up_one_with_a_single_file(boxes):
    box, ended, many = boxes(workers=1, turn=0.0), [], [(f"{i}.png", png(i % 200)) for i in range(600)]

    def work(asker: str, sources: list) -> None:
        with asked_by(asker):
            records, problems = box.read(sources)
        ended.append((asker, len(records), len(problems)))

    first = threading.Thread(target=work, args=("many", many))
    first.start()
    while not box.started:
        time.sleep(0.01)
    work("one", [("x.png", png())])
    assert ended == [("one", 1, 0)]
    first.join()
    assert ended[1:] == [("many", 600, 0)] and box.started == 1


def test_more_open_jobs_than_a_worker_keeps_are_read_to_the_end(boxes):
    """A job that a worker had to forget goes on where it was."""
    box, found = boxes(workers=1, turn=0.0), {}

    def work(number: int) -> None:
        names = [f"{number}-{i}.png" for i in range(12)]
        with asked_by(str(number)):
            records, problems = box.read([("all.zip", packed({name: png(i) for i, name in enumerate(sorted(names))}))])
        found[number] = ([record.name for _, record in records] == sorted(names), problems)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(process.OPEN_JOBS + 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == (True, []) for i in range(len(threads))) and len(found) == len(threads)


def test_files_of_one_name_are_told_apart_by_their_folders(boxes):
    def names(*paths: str) -> list[str]:
        records, _ = boxes().read([("all.zip", packed({path: png(i) for i, path in enumerate(paths)}))])
        return [record.name for _, record in records]

    assert names("clear/1.png", "clear/2.png", "lesion/1.png") == ["1.png (clear)", "2.png", "1.png (lesion)"]
    assert names("1.png", "b/c/1.png") == ["1.png", "1.png (c)"]
    assert names("a/x/1.png", "b/x/1.png") == ["1.png (a, x)", "1.png (b, x)"]


# --- how much may be brought -----------------------------------------------------------------------------------------


def test_entries_are_counted_before_anything_is_decoded(boxes, tmp_path):
    """A zip of thousands of flat images is small, and gigabytes when decoded."""
    flat = png(7, (900, 900))
    (tmp_path / "many.zip").write_bytes(packed({f"{i}.png": flat for i in range(400)}))
    box = boxes()
    with asked_by("x") as request:
        with pytest.raises(TooMany, match="400 images") as caught:
            decode_many([tmp_path / "many.zip"], images=64, sandbox=box)
        assert caught.value.count == 400 and request.held == 0 and box.peak < 400_000_000
        records, _ = decode_many([("a.png", flat)], images=64, sandbox=box)  # the worker is fine
    assert len(records) == 1 and box.started == 1
    with pytest.raises(NearlError, match="holds 400 images; choose one"):
        decode_one(tmp_path / "many.zip", sandbox=box)


def test_a_series_counts_as_one_image_and_what_is_none_does_not_count(boxes):
    files = {f"{i}.dcm": data for i, data in enumerate(series(body(), *directions()[0]))}
    archive = packed({**files, "a.png": png(), "b.txt": b"hello", "c.pdf": b"%PDF-1.7"})
    records, problems = boxes().read([("all.zip", archive)], images=2)
    assert len(records) == 2 and len(problems) == 2


def test_a_request_has_room_for_so_many_bytes(boxes):
    volume = nifti(body(), np.eye(4))
    size = body().nbytes
    with asked_by("x", memory=2 * size) as request:
        records, problems = boxes().read([(f"{i}.nii", volume) for i in range(3)])
        assert len(records) == 2 and request.held == 2 * size
        assert [problem.name for _, problem in problems] == ["2.nii"] and "no room" in problems[0][1].reason


def test_a_request_without_time_left_is_refused_in_a_sentence(boxes):
    box = boxes()
    with asked_by("x", seconds=0.0), pytest.raises(NearlError, match="was left out"):
        decode_one(png(), "a.png", sandbox=box)
    assert not box.started


def test_nothing_of_a_request_is_left_for_the_next(boxes):
    box = boxes()
    with asked_by("x", images=1, memory=10):
        assert box.read([("a.png", png())])[1]
    assert not box.read([("a.png", png())])[1]


def test_paths_and_bytes_give_the_same(boxes, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.zip", Path(tmp_path / "c.nii")]
    for path, data in zip(paths, (png(3), packed({"x/1.png": png(4)}), nifti(body(), np.eye(4))), strict=True):
        path.write_bytes(data)
    box = boxes(turn=0.0)
    there = box.read([(path.name, path) for path in paths])[0]
    here = box.read([(path.name, path.read_bytes()) for path in paths])[0]
    assert [(n, record.digest) for n, record in there] == [(n, record.digest) for n, record in here]
