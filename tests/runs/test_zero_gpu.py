"""The GPU of a ZeroGPU Space: with a stand-in that holds to the contract of the `spaces` package, and with the package
itself where it is installed, which then asks a server that stands in."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import gradio as gr
import pytest
from gradio.context import LocalContext

import nearl.runs
from nearl.runs import ZERO_GPU, RunFolder, perform, process
from tests.support.pages import ROOT
from tests.support.runs import finish, made
from tests.support.zero_gpu import QUOTA, Lender, Spaces, request


@pytest.fixture(scope="module")
def backbone(tiny):
    return tiny("clip")


@pytest.fixture
def lent(monkeypatch):
    """A Space that lends its GPU to the visitor anna, as far as this thread knows."""
    found = Spaces()
    monkeypatch.setitem(sys.modules, "spaces", found)
    monkeypatch.setenv(ZERO_GPU, "true")
    _forget()
    token = LocalContext.request.set(request())
    yield found
    LocalContext.request.reset(token)
    _forget()


def _forget():
    sys.modules.pop("nearl.runs.zero_gpu", None)
    vars(nearl.runs).pop("zero_gpu", None)


def test_the_same_events_come_from_a_process_per_call(backbone, tmp_path, lent):
    run = RunFolder(tmp_path / "run").create(made(backbone, steps=6))
    assert not process.work(run)
    assert run.look().state == "done" and run.look().note == "", run.look().error
    ((token, seconds),) = lent.calls
    assert token == "anna" and 0 < seconds <= 120
    steps, end = finish(perform(made(backbone, steps=6), backbone=backbone))
    assert [step for step, _ in run.look().losses] == [s.step for s in steps if s.phase == "teaching"]
    assert run.outcome().adapter.version == end.adapter.version
    job = made(backbone, methods=["zero-shot", "linear-probe"], compared=True)
    several = RunFolder(tmp_path / "several").create(job)
    assert process.work(several, lambda: True) and len(several.rows) == 1
    assert not process.work(several) and several.look().state == "done" and len(lent.calls) == 3


def test_a_failure_inside_a_call_keeps_its_words(backbone, tmp_path, lent):
    job = made(backbone, steps=6)
    job.backbone["fingerprint"] = "of other weights"
    run = RunFolder(tmp_path / "run").create(job)
    assert not process.work(run)
    assert run.look().state == "failed" and "other weights" in run.look().error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (gr.Error(QUOTA, title="ZeroGPU quota exceeded"), ["used up", "1:00:00"]),
        (gr.Error("Expired ZeroGPU proxy token", title="ZeroGPU client error"), ["reload"]),
        (gr.Error("No GPU was available after 60s. <a href='x'>Pro</a>", title="ZeroGPU queue timeout"), ["No GPU"]),
        (gr.Error("The requested GPU duration (120s) is larger", title="ZeroGPU illegal duration"), ["more GPU time"]),
        (RuntimeError("<b>secret</b>"), ["cannot be used"]),
    ],
)
def test_what_is_said_of_a_refusal(lent, error, words):
    from nearl.runs import zero_gpu

    said = zero_gpu.refusal(error)
    assert all(word in said for word in (*words, "CPU")) and said.endswith(".") and "secret" not in said


def test_where_the_gpu_is_refused_or_taken_back_the_run_goes_on_on_the_cpu(
    backbone, tmp_path, lent, quick_hosts, monkeypatch
):
    lent.refusal = gr.Error(QUOTA, title="ZeroGPU quota exceeded", print_exception=False)
    run = RunFolder(tmp_path / "refused").create(made(backbone, steps=6))
    assert not process.work(run)
    assert run.look().state == "done" and "used up" in run.look().note and run.outcome().adapter is not None

    monkeypatch.setattr(perform, "__defaults__", (*perform.__defaults__[:-2], 0, None))  # a snapshot after every step
    lent.refusal, lent.most = None, 20
    run = RunFolder(tmp_path / "back").create(made(backbone, steps=40))
    assert not process.work(run)
    assert run.look().state == "done" and "taken back" in run.look().note
    assert [step for step, _ in run.look().losses] == list(range(1, 41))
    assert not process.work(RunFolder(tmp_path / "cpu").create(made(backbone, steps=6)), gpu=False)
    assert len(lent.calls) == 2  # it was not asked


def test_the_time_asked_for_grows_with_images_steps_methods_and_folds_up_to_a_limit(backbone, lent):
    from nearl.runs.zero_gpu import FEATURE_STEP, LIMIT, STEP, seconds

    def asked(*pairs, folds=0, **changes):
        job = made(backbone, **changes)
        if folds:
            job.split = replace(job.split, kind="folds", folds=[((0,), (1,))] * folds)
        return seconds(job, [(name, 0) for name in pairs], None, None)

    assert asked("zero-shot") < asked("nearl", steps=100) < asked("nearl", steps=200)
    assert asked("nearl", steps=200) - asked("nearl", steps=100) == pytest.approx(100 * STEP, abs=1)
    assert asked("clip-adapter", steps=100) - asked("zero-shot") == pytest.approx(100 * FEATURE_STEP, abs=1)
    assert asked("nearl", steps=100, folds=4) > asked("nearl", steps=100)
    assert asked("nearl", steps=100_000) == LIMIT
    many = made(backbone)
    many.files = many.files * 40
    assert seconds(many, [("zero-shot", 0)]) > asked("zero-shot")


@pytest.mark.skipif(importlib.util.find_spec("spaces") is None, reason="the package `spaces` is not installed")
def test_with_the_package_itself(checkpoints, tmp_path):
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/a-space\n")
    payload = base64.urlsafe_b64encode(b"{}").decode().rstrip("=")
    tokens = [f"{name}.{payload}.x" for name in Lender.ANSWERS]
    with Lender() as lender:
        variables = {
            ZERO_GPU: "true",
            "SPACES_ZERO_DEVICE_API_URL": lender.url,
            "ZEROGPU_PROC_SELF_CGROUP_PATH": str(cgroup),
            "NO_PROXY": "127.0.0.1",
            "HOME": str(tmp_path),
        }
        command = [sys.executable, "-m", "tests.support.zero_gpu_space"]
        words = [f"local-dir:{checkpoints('clip')}", str(tmp_path / "root"), *tokens]
        options = {"cwd": ROOT, "env": {**os.environ, **variables}, "capture_output": True, "text": True}
        done = subprocess.run([*command, *words], timeout=240, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    granted, quota, expired = json.loads(done.stdout.splitlines()[-1])
    assert [one["state"] for one in (granted, quota, expired)] == ["done"] * 3, (granted, quota, expired)
    assert granted["note"] == "" and "used up" in quota["note"] and "reload" in expired["note"]
    paths = [path for path, _ in lender.calls]
    assert paths == ["/startup-report", "/schedule", "/allow", "/release", "/schedule", "/schedule"]
    asked = [query for path, query in lender.calls if path == "/schedule"]
    assert [query["token"] for query in asked] == tokens and all(0 < int(q["durationSeconds"]) <= 120 for q in asked)
