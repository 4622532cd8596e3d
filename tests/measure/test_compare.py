"""Comparing: rows, resuming, several writers, tables and figures."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from nearl.cli.main import main
from nearl.errors import NearlError
from nearl.measure import compare_report, intervals
from nearl.measure.compare import _SHELF, fingerprint, finished, perform, perform_on_ray, plan
from nearl.measure.cost import PeakMemory
from nearl.measure.elsewhere import common
from nearl.measure.fit import measure
from nearl.measure.intervals import student
from nearl.measure.results import Results
from nearl.methods import make
from tests.support.methods_data import shades, task_of, write_set

METHODS = ["zero-shot", "linear-probe", "tip-adapter", "prolip"]
FAST = {"recipe": (("steps", 3), ("views", 2))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "shades")


@pytest.fixture(scope="module")
def name(checkpoints):
    return f"local-dir:{checkpoints('biomedclip')}"


def test_rows_of_before_are_those_of_the_method_with_another_name(data, name, tmp_path):
    both = plan([data], ["alta-vision", "alta"], [1], 1, backbone=name, **FAST)
    keys = [_SHELF.key(run) for run in both]
    before = {"run": keys[0], "method": "alta", "settings": {"options": {"rank": 64, "scale": 0.5}}}
    Results(tmp_path).append(before)
    assert keys[0] != keys[1] and finished(both, tmp_path) == [before | {"method": "alta-vision"}]


def test_rows_hold_what_reproduces_them_and_are_not_made_twice(data, name, tmp_path):
    runs = plan([data], METHODS, [1, 2], 2, backbone=name, **FAST)
    assert len(runs) == 2 * (2 * 3 + 1)  # zero-shot once
    first = list(perform(runs[:5], tmp_path))
    assert [row["method"] for row in first] == [run.method for run in runs[:5]]
    rest = list(perform(runs, tmp_path))
    assert len(rest) == len(runs) - 5 and list(perform(runs, tmp_path)) == []
    row = next(row for row in rest if row["method"] == "prolip")
    assert row["settings"]["recipe"]["steps"] == 3 and row["settings"]["recipe"]["lr"] == 1e-4
    assert row["settings"]["recipe"]["seed"] == row["seed"]
    assert row["backbone"]["weights"] and row["packages"]["torch"] and len(row["support"]) == 64
    assert row["parameters"] == 32 * 48 and row["fit_seconds"] > 0 and row["step_ms"] > 0 and row["predict_ms"] > 0
    assert row["metrics"]["n"] == 6 and row["split"] == "given" and row["support_counts"]["one"] == row["shots"]
    same = [r["support"] for r in first + rest if (r["shots"], r["seed"]) == (2, 1)]
    assert len(same) == 3 and len(set(same)) == 1  # every method had the same images
    assert len(finished(runs, tmp_path)) == len(runs)
    assert "/" not in json.dumps(row)  # no path of this machine
    other = plan([data], ["prolip"], [2], 1, backbone=name, recipe=(("steps", 4),))
    assert finished(other, tmp_path) == [] and len(list(perform(other, tmp_path))) == 1


def test_memory_that_runs_out_is_a_sentence(data, name, tmp_path, monkeypatch):
    def step(*given):  # the first one makes the moments of all weights
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("torch.optim.AdamW.step", step)
    with pytest.raises(NearlError, match="not enough memory"):
        list(perform(plan([data], ["lora"], [1], 1, backbone=name, **FAST), tmp_path))


def test_taught_on_one_source_read_on_another(data, name, tmp_path, capsys):
    """The other source calls one class otherwise and has one more."""
    other = tmp_path / "elsewhere"
    write_set(other, seed=7)
    for part in ("train", "test"):
        (other / part / "one").rename(other / part / "dark")
        shutil.copytree(other / part / "two", other / part / "grey")
    command = ["compare", data, "--out", str(tmp_path / "out"), "--backbone", name, "--shots", "2", "--seeds", "2"]
    command += ["--methods", "zero-shot,prolip", "--steps", "2", "--test-on", str(other)]
    with pytest.raises(SystemExit):
        main(command)
    assert "--same NAME=NAME" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--same", "one=black"])
    assert "“black”" in capsys.readouterr().err
    main([*command, "--same", "dark=One", "--json"])
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]
    assert "only it has are left out: grey" in err
    for row in rows:
        drop = row["there"]["drop"]
        assert row["there"]["n"] == 6 and row["test_on"] == "elsewhere"
        assert drop["value"] == pytest.approx(row["metrics"]["balanced_accuracy"] - row["there"]["balanced_accuracy"])
        assert drop["interval"][0] < drop["value"] < drop["interval"][1]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "Taught on shades, read on elsewhere" in table and "| prolip | 2 |" in table.split("read on elsewhere")[1]
    alone = plan([data], ["zero-shot"], [2], 1, backbone=name)
    assert finished(alone, tmp_path / "out") == []  # without another source it is another run
    assert intervals.difference(0.9, 0.5, [0.8, 0.95], [0.3, 0.7]) == pytest.approx(
        [0.4 - math.hypot(0.1, 0.2), 0.4 + math.hypot(0.05, 0.2)]
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        ("abc", "xc", [("a", "x"), ("b", "x")]),
        ("ac", "xyc", [("a", "x"), ("A", "y")]),
        ("ab", "ab", [("a", "b")]),
        ("ab", "abx", [("x", "a")]),
    ],
)
def test_a_class_means_one_class_of_the_other_source(ours, theirs, same):
    with pytest.raises(NearlError, match="two classes"):
        common(ours, theirs, same)
    assert common("abc", "xyc", [("a", "x"), ("y", "b"), ("x", "a"), ("c", "c")]) == {"a": "x", "b": "y", "c": "c"}


def test_the_other_source_is_another_one(data, tmp_path):
    (tmp_path / "link").symlink_to(data)
    with pytest.raises(NearlError, match="another"):
        plan([data], ["prolip"], [1], 1, test_on=str(tmp_path / "link"))


def test_a_changed_set_is_another_set(tmp_path):
    folder = tmp_path / "set"
    write_set(folder)
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "train" / "one" / "0.png").rename(folder / "train" / "one" / "9.png")
    assert fingerprint(folder) != before


def test_a_line_cut_off_is_no_row_and_the_next_one_is_whole(tmp_path):
    results = Results(tmp_path)
    results.append({"run": "a", "x": 1})
    path = next(tmp_path.glob("*.jsonl"))
    with path.open("a") as file:
        file.write('{"run": "b", "x"')
    results.append({"run": "c", "x": 3})
    (tmp_path / "elsewhere.jsonl").write_text('{"run": "a", "x": 9}\n{"run": "d"}\n[1]\n')
    assert [row["run"] for row in Results(tmp_path).rows()] == ["a", "d", "c"]
    assert results.finished() == {"a", "c", "d"}


def test_a_run_that_another_process_is_at_is_left_to_it(data, name, tmp_path):
    runs = plan([data], ["zero-shot", "linear-probe"], [1], 1, backbone=name)
    code = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'w')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('mine', flush=True)\nsys.stdin.read()"
    )
    (claims := tmp_path / ".claims").mkdir()
    command = [sys.executable, "-c", code, str(claims / _SHELF.key(runs[0]))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        assert [row["method"] for row in perform(runs, tmp_path)] == ["linear-probe"]
        other.kill()
    assert [row["method"] for row in perform(runs, tmp_path)] == ["zero-shot"]  # the claim died with the process


def test_cancelling_keeps_what_is_finished(data, name, tmp_path):
    runs = plan([data], METHODS, [1], 1, backbone=name, **FAST)
    going = perform(runs, tmp_path)
    next(going), next(going)
    going.close()
    assert len(finished(runs, tmp_path)) == 2
    assert len(list(perform(runs, tmp_path))) == 2


def test_measuring_says_what_a_method_alone_would_cost(tiny):
    task, test, seen = task_of(tiny("clip")), shades(3, 1), []
    recipe = make("prolip", task).recipe(steps=2, views=2)
    row = measure(task, test, "prolip", recipe, seen.append)
    assert [p.step for p in seen] == [1, 2]
    assert row["metrics"]["n"] == 6 and row["settings"]["options"] == {}
    before = measure(task, test, "zero-shot", make("zero-shot", task).recipe())
    assert before["gain"]["value"] in (0.0, None)  # None where the images are few
    gained = row["metrics"]["balanced_accuracy"] - before["metrics"]["balanced_accuracy"]
    low, high = row["gain"]["interval"]
    assert low <= gained <= high and row["gain"]["value"] in (pytest.approx(gained), None)
    again = measure(task, test, "prolip", recipe)
    assert again["metrics"] == row["metrics"] and again["fit_seconds"] > 0
    if row["peak_mb"] is not None:
        assert again["peak_mb"] >= max(task.frozen._peaks.values()) - 0.1  # the views' own peak, though they were there
    assert again["fit_seconds"] >= sum(task.frozen._cost[key] for key in task.frozen._used if key[0] == "view") * 0.99


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's own account")
def test_peak_memory_sees_what_was_freed_again():
    import torch

    small = PeakMemory(torch.device("cpu")).so_far()
    peak = PeakMemory(torch.device("cpu"))
    torch.ones(40 * 2**20 // 4).sum()
    assert peak.so_far() > small + 30


def test_refusals(data, tmp_path, capsys):
    for wrong, says in (
        ({"methods": ["tip"]}, "no method called 'tip'"),
        ({"shots": [0]}, "at least 1"),
        ({"data": [str(tmp_path / "none")]}, "no folder or zip"),
    ):
        with pytest.raises(NearlError, match=says):
            plan(**({"data": [data], "methods": ["nearl"], "shots": [1], "seeds": 1} | wrong))
    with pytest.raises(SystemExit) as stop:
        main(["compare", data, "--shots", "few", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "1,4,16" in capsys.readouterr().err


def test_the_command_writes_tables_and_figures(data, name, tmp_path, capsys):
    second = write_set(tmp_path / "other", seed=5)
    out = tmp_path / "out"
    command = ["compare", data, second, "--backbone", name, "--methods", "zero-shot,prolip", "--shots", "1,2"]
    command += ["--seeds", "2", "--steps", "2", "--out", str(out), "--json"]
    main(command)
    result = json.loads(capsys.readouterr().out)
    assert result["done_now"] == 12 and len(result["rows"]) == 12
    assert {path.name for path in out.iterdir()} >= {"table.md", "table.csv", "curves.png", "ranks.png"}
    table = (out / "table.md").read_text()
    assert "| zero-shot | " in table and "## other" in table and "Not for diagnosis." in table
    lines = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert {line["set"] for line in lines} == {"all", "shades", "other"} and len(lines) == 3 * 2 * 2
    zero = [r["metrics"]["balanced_accuracy"] for r in result["rows"] if (r["method"], r["shots"]) == ("zero-shot", 1)]
    line = next(line for line in lines if (line["set"], line["method"], line["shots"]) == ("all", "zero-shot", "1"))
    assert float(line["balanced_accuracy"]) == pytest.approx(np.mean(zero)) and line["seeds"] == "2"
    assert float(line["balanced_accuracy_half_interval"]) == 0
    main(command)
    assert json.loads(capsys.readouterr().out)["done_now"] == 0


# --- the arithmetic of the tables -------------------------------------------------------------------------------------


def rows_of(values):
    """{(method, set, seed): balanced accuracy}, at one shot."""
    costs = dict.fromkeys(compare_report.COSTS, 1.0)
    return [
        {"method": m, "set": s, "seed": i, "shots": 1, **costs,
         "metrics": {"balanced_accuracy": v, "auroc": None, "ece": 0.1}}
        for (m, s, i), v in values.items()
    ]  # fmt: skip


def test_intervals_by_hand():
    assert student([0.5]) == (0.5, None)
    mean, half = student([0.4, 0.6, 0.8])
    assert mean == pytest.approx(0.6) and half == pytest.approx(4.3027 * 0.2 / math.sqrt(3), rel=1e-4)


def test_a_mean_over_sets_takes_whole_seeds_only():
    rows = rows_of({("a", "x", 0): 0.2, ("a", "y", 0): 0.4, ("a", "x", 1): 0.9})
    assert compare_report.summary(rows, "balanced_accuracy", "a", 1, ["x", "y"]) == [pytest.approx(0.3)]
    assert compare_report.summary(rows, "auroc", "a", 1, ["x"]) == []
    assert "–" in (said := compare_report.markdown(rows)) and "pretrained" not in said
    said = compare_report.markdown([{**rows[0], "pretrained": True}, *rows[1:]])
    assert f"pretrained with images of the kind of {rows[0]['set']}, perhaps" in said


def test_ranks_and_bars():
    assert compare_report.critical_distance(5, 30) == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 30)), rel=1e-3)
    assert compare_report.alike(np.array([1.0, 1.4, 2.2, 3.9]), 1.0) == [(0, 1), (1, 2)]
    assert compare_report.alike(np.array([1.0, 3.0]), 1.0) == []
    assert compare_report.ranks(rows_of({("a", "x", 0): 0.5, ("b", "x", 0): 0.6})) is None
    rows = rows_of({("a", s, 0): 0.5 for s in "xy"} | {("b", s, 0): 0.6 for s in "xy"})
    drawn = [text.get_text() for text in compare_report.ranks(rows).axes[0].texts]
    assert drawn == ["b  1.0", "a  2.0"]


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(280)
def test_ray_gives_the_same_rows(data, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    name = f"local-dir:{checkpoints('clip')}"  # all that this one is made of is known in a worker too
    runs = plan([data], ["zero-shot", "tip-adapter"], [1], 1, backbone=name, **FAST)
    here = list(perform(runs, tmp_path / "here"))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        there = list(perform_on_ray(runs, tmp_path / "there"))
        assert ray.is_initialized()  # a cluster that was there stays
    finally:
        ray.shutdown()
    numbers = lambda rows: {row["run"]: (row["metrics"], row["support"]) for row in rows}  # noqa: E731
    assert numbers(here) == numbers(there) and len(there) == 2
    assert len(finished(runs, tmp_path / "there")) == 2 and list(perform_on_ray(runs, tmp_path / "there")) == []


def test_without_ray_the_executor_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NearlError, match="pip install ray"):
        list(perform_on_ray([], tmp_path))
