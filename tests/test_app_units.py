"""The app's parts without a browser: HTML, workspaces, the lock, teaching runs and the command line."""

from __future__ import annotations

import importlib.util
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app import reading, teaching, views
from app.disk import Root
from app.engine import DeviceLock, Engine
from app.jobs import CANCELLED, DONE, FAILED, watch
from app.reading import AFTER, BEFORE, MapChoice
from app.theme import PALETTE
from app.workspace import GRACE_SECONDS, IDLE_SECONDS, Registry
from nearl.data.images import Problem
from nearl.data.phantoms import phantom_set, write_phantom_folder
from nearl.errors import NearlError
from nearl.prompts import default_prompts

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = '<script>alert("1")</script>'


# ------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize(
    "html",
    [
        views.reading([HOSTILE, "b"], [0.4, 0.6], [0.7, 0.3], [HOSTILE]),
        views.table([HOSTILE, "x"], [HOSTILE, "b"], np.array([[0.9, 0.1]] * 2), np.array([[0.9, 0.1]] * 2)),
        views.viewer("data:,", HOSTILE, (1, 1), True, "data:,", HOSTILE, [HOSTILE]),
        views.strip([("data:,", HOSTILE)], 0, HOSTILE),
        views.check({HOSTILE: 2, "b": 3}, [Problem(HOSTILE, HOSTILE)], [HOSTILE], None),
        views.message(HOSTILE, "error"),
        views.model_line(HOSTILE, "ready"),
        views.model_line("m", HOSTILE),
        views.progress(1, 2, HOSTILE, 3.0, []),
        views.adapter(HOSTILE, {HOSTILE: 3}, HOSTILE),
    ],
)
def test_names_of_visitors_never_become_markup(html):
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_reading_says_both_shares_in_class_order():
    html = views.reading(["zebra", "ape"], [0.25, 0.75], [0.9, 0.1])
    assert html.index("zebra</h3>") < html.index("ape</h3>")
    assert [word in html for word in ("25\u202f%", "75\u202f%", "90\u202f%", "10\u202f%")] == [True] * 4
    assert "relative to your prompts" in html


def test_reading_without_an_adapter_points_to_teach():
    html = views.reading(["a", "b"], [0.5, 0.5], None, ["a"])
    assert 'data-tab="Teach"' in html
    assert "never taught" not in html


def test_classes_that_were_never_taught_are_named_in_words():
    html = views.reading(["a", "b"], [0.5, 0.5], [0.4, 0.6], ["b"])
    assert "was never taught b;" in html
    assert html.count('class="untaught"') == 1


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0\u202f%"), (0.004, "&lt; 1\u202f%"), (0.126, "13\u202f%"), (0.999, "&gt; 99\u202f%"), (1, "100\u202f%")],
)
def test_shares_are_whole_per_cents(share, text):
    assert views.per_cent(share) == text


def test_result_says_when_nothing_is_known():
    assert "nothing is known" in views.result(None, 4, [(1, 1.0), (2, 0.5)], 2)
    score = {"value": 0.8, "interval": (0.6, 0.9)}
    html = views.result({"n": 8, "few": True, "before": score, "after": score}, 4, [(1, 1.0), (2, 0.5)], 2)
    assert "60 to 90\u202f%" in html
    assert "too few to say more than a hint" in html


def test_curve_survives_long_and_empty_runs():
    assert "polyline" in views.curve([(i, 1 / i) for i in range(1, 1000)], 1000)
    assert "polyline" not in views.curve([], 10)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground", "least"),
    [
        *((ink, ground, 4.5) for ink in ("text", "muted", "accent", "alarm") for ground in ("page", "surface")),
        ("muted", "sunken", 4.5), ("text", "accent_soft", 4.5), ("alarm", "alarm_soft", 4.5),
        ("on_accent", "accent", 4.5), ("on_accent", "accent_hover", 4.5), ("line_strong", "surface", 3),
    ],
)  # fmt: skip
def test_text_can_be_read_in_both_modes(ink, ground, least, mode):
    light, dark = sorted((_luminance(PALETTE[ink][mode]), _luminance(PALETTE[ground][mode])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


# --------------------------------------------------------------------------------------------------------- workspaces


def test_unknown_ids_get_a_new_workspace_and_visitors_stay_apart():
    registry = Registry()
    first, second = registry.get(None), registry.get("guess")
    assert first is not second
    assert second.id != "guess"
    assert registry.get(first.id) is first
    assert len({first.id, second.id, registry.get(None).id}) == 3


def test_workspaces_expire_and_take_their_files_along():
    now = [0.0]
    registry = Registry(clock=lambda: now[0])
    idle, left = registry.get(None), registry.get(None)
    folder = idle.folder
    registry.leave(left.id)
    now[0] = GRACE_SECONDS + 1
    registry.sweep()
    assert registry.get(left.id) is not left
    assert registry.get(idle.id) is idle
    now[0] += IDLE_SECONDS + 1
    registry.sweep()
    assert not folder.exists()
    assert registry.get(idle.id) is not idle


def test_a_workspace_that_is_teaching_is_kept():
    class Run:
        finished = False

        def cancel(self):
            raise AssertionError("must go on")

    now = [0.0]
    registry = Registry(limit=1, clock=lambda: now[0])
    busy = registry.get(None)
    busy.run = Run()
    now[0] = 10 * IDLE_SECONDS
    registry.get(None)
    assert registry.get(busy.id) is busy


def test_there_are_never_more_workspaces_than_allowed():
    registry = Registry(limit=3)
    for _ in range(10):
        registry.get(None)
    assert len(registry) <= 3


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


# --------------------------------------------------------------------------------------------- reading and teaching


@pytest.fixture(scope="module")
def engine(checkpoints):
    engine = Engine(f"local-dir:{checkpoints('clip')}", "cpu")
    engine.start()
    return engine


@pytest.fixture
def registry(tmp_path):
    return Registry(Root(tmp_path / "root"))


@pytest.fixture
def workspace(registry):
    return registry.get(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phantom_folder(tmp_path_factory.mktemp("task") / "head", "head_mri", train=6, test=4, size=64)


@pytest.fixture(scope="module")
def images(folder):
    return sorted((folder / "test").glob("*/*.png"))


def run(job):
    *_, last = watch(job)
    return last


def test_read_before_and_after_teaching(engine, workspace, images):
    reading.bring(workspace, images[:2])
    prompts = default_prompts(["no lesion", "lesion"]).to_dict()
    reading.read(engine, workspace, prompts)
    before = workspace.prediction.frozen
    assert workspace.prediction.adapted is None
    assert "not taught" not in reading.reading_html(workspace)

    workspace.keep_sets(phantom_set("head_mri", 6, size=64))
    job = run(teaching.start(engine, workspace, prompts, "quick"))
    assert (job.state, job.step, len(job.losses)) == (DONE, 30, 30)
    assert job.scores["n"] == 4
    assert workspace.adapter.meta["metrics"] == job.scores

    reading.read(engine, workspace, prompts)
    np.testing.assert_allclose(workspace.prediction.frozen, before, atol=1e-6)
    assert workspace.prediction.adapted.shape == (2, 2)
    for when in (BEFORE, AFTER):
        layer, words = reading.map_layer(engine, workspace, MapChoice(when, "lesion"))
        assert f"“lesion”, {when} teaching" in words
        assert layer.startswith("data:image/png") if "empty" not in words else layer is None
    assert len(workspace.heatmaps) == 2

    wider = default_prompts(["no lesion", "lesion", "scar"]).to_dict()
    reading.read(engine, workspace, wider)
    assert "was never taught scar" in reading.reading_html(workspace)


def test_an_empty_map_is_said_in_words(engine, workspace, images):
    reading.bring(workspace, images[:1])
    reading.read(engine, workspace, default_prompts(["a", "b"]).to_dict())
    reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    workspace.heatmaps = {key: replace(m, values=0 * m.values) for key, m in workspace.heatmaps.items()}
    layer, words = reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    assert layer is None
    assert "No part of the image speaks for “a”" in words


def test_one_bad_file_does_not_cost_the_others(workspace, images, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_bytes(b"no image")
    reading.bring(workspace, [bad, images[0]])
    assert [r.name for r in workspace.records] == [images[0].name]
    assert [p.name for p in workspace.problems] == ["notes.png"]


def test_reading_needs_an_image_and_a_class(engine, workspace, images):
    with pytest.raises(NearlError, match="no image yet"):
        reading.read(engine, workspace, default_prompts(["a"]).to_dict())
    reading.bring(workspace, images[:1])
    with pytest.raises(NearlError, match="no class"):
        reading.read(engine, workspace, None)


def test_unexpected_errors_are_logged_and_told_in_one_sentence(caplog):
    assert reading.sentence(NearlError("Say this.")) == "Say this."
    text = reading.sentence(RuntimeError("secret path /root"))
    assert "secret" not in text
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text  # which may be the name of a file


def test_cancelled_runs_leave_the_model_as_it_was(engine, workspace):
    workspace.keep_sets(phantom_set("head_mri", 4, size=64))
    prompts = teaching.prompts_for(workspace.teaching_set).to_dict()
    job = teaching.start(engine, workspace, prompts, "thorough")
    with pytest.raises(NearlError, match="going on"):
        teaching.start(engine, workspace, prompts, "quick")
    while job.step < 2:
        time.sleep(0.01)
    job.cancel()
    assert run(job).state == CANCELLED
    assert job.step < 200
    assert workspace.adapter is None
    assert "cancelled" in teaching.job_html(job)


def test_a_waiting_run_can_be_cancelled(engine, registry):
    one, two = registry.get(None), registry.get(None)
    jobs = []
    for workspace in (one, two):
        workspace.keep_sets(phantom_set("smear", 4, size=64))
        prompts = teaching.prompts_for(workspace.teaching_set).to_dict()
        jobs.append(teaching.start(engine, workspace, prompts, "quick"))
    jobs[1].cancel()
    assert run(jobs[1]).state == CANCELLED
    assert run(jobs[0]).state == DONE
    assert two.adapter is None


def test_prompts_must_be_for_the_classes_of_the_images(engine, workspace):
    workspace.keep_sets(phantom_set("smear", 4, size=64))
    job = run(teaching.start(engine, workspace, default_prompts(["a", "b"]).to_dict(), "quick"))
    assert job.state == FAILED
    assert "same classes" in job.error


def test_images_by_class_are_checked_before_teaching(workspace, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:200])
    teaching.gather_files(workspace, ["clear", "spot", ""], [images[:5], [*images[5:6], broken], None])
    html = teaching.check_html(workspace)
    assert workspace.teaching_set.counts() == {"clear": 5, "spot": 1}
    assert "broken.png" in html
    assert "too few to keep some aside" in html
    assert "many more images" in html
    with pytest.raises(NearlError, match="twice"):
        teaching.gather_files(workspace, ["a", "a"], [images[:1], images[1:2]])
    with pytest.raises(NearlError, match="no name"):
        teaching.gather_files(workspace, ["a", " "], [images[:1], images[1:2]])
    with pytest.raises(NearlError, match="two classes"):
        teaching.gather_files(workspace, ["a", ""], [images[:1], None])


def test_prompts_come_with_the_images_or_from_the_class_names(workspace):
    teaching.gather_example(workspace, "ultrasound")
    assert len(workspace.held_out) > 0
    assert len(teaching.prompts_for(workspace.teaching_set).prompts[0]) > 1
    workspace.teaching_set.prompts = {"classes": "nonsense"}
    assert teaching.prompts_for(workspace.teaching_set).prompts[0] == ("a medical image of no lesion",)


def test_an_adapter_travels_as_a_zip(engine, registry, workspace, images):
    workspace.keep_sets(phantom_set("smear", 4, size=64))
    prompts = teaching.prompts_for(workspace.teaching_set).to_dict()
    run(teaching.start(engine, workspace, prompts, "quick"))
    other = registry.get(None)
    assert teaching.adapter_file(other) is None
    taken = teaching.take_adapter(engine, other, teaching.adapter_file(workspace))
    assert taken.classes == ("no lesion", "lesion")
    assert other.adapter.version == workspace.adapter.version
    with pytest.raises(NearlError, match="adapter"):
        teaching.take_adapter(engine, other, images[0])
    assert other.adapter is not None


def test_a_model_that_cannot_be_loaded_is_replaced_and_said_in_one_sentence(checkpoints, monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", f"local-dir:{checkpoints('clip')}")
    engine = Engine("no-such-model", "cpu")
    engine.start()
    assert engine.backbone(60).name.startswith("local-dir:")
    assert (engine.label, engine.state) == ("clip", "ready")
    assert "no-such-model" in engine.notice


def test_without_any_model_every_use_says_why(monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    engine = Engine("no-such-model", "cpu")
    engine.start()
    with pytest.raises(NearlError, match="no-such-model"):
        engine.backbone(60)
    assert "no-such-model" in engine.state


# ------------------------------------------------------------------------------------------------------ command line


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("nearl_app_script", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sharing_needs_a_password(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse(["--share"])
    assert stop.value.code == 2
    assert "needs --auth USER:PASSWORD" in capsys.readouterr().err
    assert script.parse(["--share", "--auth", "anna:secret"]).auth == ("anna", "secret")
    with pytest.raises(SystemExit):
        script.parse(["--auth", "anna"])


def test_other_hosts_are_warned_about(script, capsys, monkeypatch):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert script.parse([]).host == "127.0.0.1"
    assert capsys.readouterr().err == ""
    script.parse(["--host", "0.0.0.0"])
    assert "everyone on the network" in capsys.readouterr().err
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    assert script.parse([]).host == "0.0.0.0"
