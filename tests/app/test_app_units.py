"""The app's parts without a browser: workspaces, the lock, teaching runs and the command line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import gradio as gr
import gradio.oauth
import numpy as np
import pytest
from gradio.helpers import special_args

from app.context import load_ready_prompts
from app.engine import DeviceLock, Engine
from app.events import error_html, sentence
from app.page import Settings, build_app
from app.predict import actions as reading
from app.predict import html as predict_views
from app.predict.actions import AFTER, BEFORE, MapChoice
from app.teach.images import actions as gathering
from app.teach.publish import tab as publish
from app.teach.run import actions as teaching
from app.teach.run.actions import Choice
from app.teach.shelf import actions as adapting
from app.theme import PALETTE
from app.visitor.disk import Root
from app.visitor.maps import MapKey
from app.visitor.registry import Registry
from app.visitor.workspace import GRACE_SECONDS, IDLE_SECONDS
from nearl.data.phantoms.kinds import phantom_set, write_phantom_folder
from nearl.errors import NearlError
from nearl.explain import MapRequest
from nearl.prompts import PromptSet, default_prompts, ready_sets
from nearl.train.recipe import Recipe
from tests.support.methods_data import teach

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<script>alert("1")</script>'


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
    folder = idle.download("x").parent
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
    busy.runs.keep("run", Run())
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


def taught(engine, kind="head_mri", size=64):
    """An adapter as a run leaves it, in a few steps."""
    data = phantom_set(kind, 4, size=size)
    return teach(engine.backbone(), data, default_prompts(data.classes), Recipe(steps=6, batch_size=4))


def test_read_before_and_after_teaching(engine, workspace, images):
    reading.bring(workspace, images[:2])
    prompts = default_prompts(["no lesion", "lesion"]).to_dict()
    reading.read(engine, workspace, prompts)
    before = workspace.viewing.prediction.frozen
    assert workspace.viewing.prediction.adapted is None
    assert "not taught" not in predict_views.reading_html(workspace)

    adapting.use(engine, workspace, workspace.shelf.put(taught(engine)))
    reading.read(engine, workspace, prompts)
    np.testing.assert_allclose(workspace.viewing.prediction.frozen, before, atol=1e-6)
    assert workspace.viewing.prediction.adapted.shape == (2, 2)
    for when in (BEFORE, AFTER):
        layer, words = reading.map_layer(engine, workspace, MapChoice(when, "lesion"))
        assert f"“lesion”, {when} teaching" in words
        assert layer.startswith("data:image/png") if "empty" not in words else layer is None
    assert len(workspace.maps) == 2

    wider = default_prompts(["no lesion", "lesion", "scar"]).to_dict()
    reading.read(engine, workspace, wider)
    assert "was never taught scar" in predict_views.reading_html(workspace)


def test_an_empty_map_is_said_in_words(engine, workspace, images):
    reading.bring(workspace, images[:1])
    reading.read(engine, workspace, default_prompts(["a", "b"]).to_dict())
    reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    (record,) = workspace.viewing.records
    key = MapKey(record.digest, MapRequest("gradcam", 0, adapted=False))
    workspace.maps.keep([(key, replace(workspace.maps[key], values=0 * workspace.maps[key].values))])
    layer, words = reading.map_layer(engine, workspace, MapChoice(BEFORE, "a"))
    assert layer is None
    assert "“a”" in words and "the map is empty" in words


def test_one_bad_file_does_not_cost_the_others(workspace, images, tmp_path):
    bad = tmp_path / "notes.png"
    bad.write_bytes(b"no image")
    reading.bring(workspace, [bad, images[0]])
    assert [r.name for r in workspace.viewing.records] == [images[0].name]
    assert [p.name for p in workspace.viewing.problems] == ["notes.png"]


def test_reading_needs_an_image_and_a_class(engine, workspace, images):
    with pytest.raises(NearlError, match="no image yet"):
        reading.read(engine, workspace, default_prompts(["a"]).to_dict())
    reading.bring(workspace, images[:1])
    with pytest.raises(NearlError, match="no class"):
        reading.read(engine, workspace, None)


def test_unexpected_errors_are_logged_and_told_in_one_sentence(caplog):
    caplog.set_level("ERROR")  # the command line quietens the root logger
    assert sentence(NearlError("Say this.")) == "Say this."
    text = sentence(RuntimeError("secret path /root"))
    assert "secret" not in text
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text  # which may be the name of a file


def test_what_cannot_be_taught_is_refused_before_it_is_queued(engine, workspace):
    with pytest.raises(NearlError, match="nothing to learn from"):
        teaching.start(engine, workspace, None, Choice())
    data = phantom_set("smear", 4, size=64)
    workspace.support.keep(data)
    with pytest.raises(NearlError, match="add prompts for it"):
        teaching.start(engine, workspace, default_prompts(["a", "b"]).to_dict(), Choice())
    with pytest.raises(NearlError, match="preset"):
        teaching.start(engine, workspace, default_prompts(data.classes).to_dict(), Choice(preset="forever"))
    workspace.support.keep(data.subset([i for i, label in enumerate(data.labels) if label == 0]))
    with pytest.raises(NearlError, match="lesion"):
        teaching.start(engine, workspace, default_prompts(data.classes).to_dict(), Choice())
    assert teaching.current(workspace) is None


def test_images_are_brought_class_by_class_and_tidied(workspace, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:200])
    gathering.bring(workspace, images[:4], "clear")
    assert "at least two classes" in gathering.check(workspace).blocking
    gathering.bring(workspace, [*images[4:6], broken], "spot")
    assert workspace.support.data.counts() == {"clear": 4, "spot": 2}
    assert [problem.name for problem in gathering.check(workspace).problems] == ["broken.png"]
    with pytest.raises(NearlError):
        gathering.bring(workspace, [broken], "clear")
    assert len(workspace.support.data) == 6

    gathering.relabel(workspace, [0], "spot")
    gathering.rename_class(workspace, "spot", "shadow")
    gathering.remove_images(workspace, [1])
    assert workspace.support.data.counts() == {"clear": 2, "shadow": 3}
    with pytest.raises(NearlError, match="no longer there"):
        gathering.remove_images(workspace, [99])
    (_, picture, name, marks), *_ = gathering.thumbs(workspace, [0])
    assert picture.startswith("data:image/") and (name, marks) == ("shadow", [])
    gathering.merge_classes(workspace, ["clear", "shadow"], "all")
    assert workspace.support.data.counts() == {"all": 5}
    gathering.forget_images(workspace)
    assert workspace.support.data is None
    with pytest.raises(NearlError, match="no images yet"):
        gathering.drop_class(workspace, "all")


def test_the_set_is_found_again_by_a_later_server_without_its_names(tmp_path, images):
    root = Root(tmp_path / "root")
    workspace = Registry(root).get(None)
    gathering.bring(workspace, images[:2], "a")
    gathering.bring(workspace, images[2:4], "b")
    again = Registry(root).get(workspace.id)
    assert again is not workspace
    assert again.support.data.counts() == {"a": 2, "b": 2}
    assert [r.digest for r in again.support.data.records] == [r.digest for r in workspace.support.data.records]
    assert [r.name for r in again.support.data.records] == [f"image {i}" for i in range(1, 5)]
    with pytest.raises(NearlError, match="names of these files were forgotten"):
        gathering.plan(again, group_by="_")


def test_prompts_come_with_the_images_or_from_the_class_names(workspace):
    gathering.gather_example(workspace, "ultrasound")
    assert len(workspace.support.held_out) > 0
    assert len(gathering.prompts_for(workspace).prompts[0]) > 1
    workspace.support.data.prompts = {"classes": "nonsense"}
    assert gathering.prompts_for(workspace).prompts[0] == ("a medical image of no lesion",)


def test_adapters_are_things_on_a_shelf(engine, registry, workspace, images):
    first = workspace.shelf.put(taught(engine))
    second = workspace.shelf.put(taught(engine))
    assert [item.name for item in workspace.shelf.items()].count("no lesion, lesion") == 1
    workspace.shelf.rename(first, "  Monday's\nadapter ")
    assert workspace.shelf.entry(first).name == "Monday's adapter"
    with pytest.raises(NearlError, match="needs a name"):
        workspace.shelf.rename(first, " ")
    adapting.use(engine, workspace, first)
    assert [item.id for item in workspace.shelf.items() if item.in_use] == [first]
    with pytest.raises(NearlError, match="no image to compare"):
        adapting.compare(engine, workspace, [first, second])
    reading.bring(workspace, images[:1])
    columns = adapting.compare(engine, workspace, [first, second])
    assert [classes for _, classes, _ in columns] == [["no lesion", "lesion"]] * 2
    assert all(sum(shares) == pytest.approx(1, abs=1e-4) for _, _, shares in columns)
    workspace.shelf.delete(first)
    assert workspace.shelf.adapter is None
    assert not (workspace.path / "shelf" / first).exists()
    with pytest.raises(NearlError, match="no such adapter"):
        adapting.use(engine, workspace, first)

    other = registry.get(None)
    key = adapting.add(engine, other, adapting.zip_file(workspace, second))
    adapting.use(engine, other, key)
    assert other.shelf.adapter.version == workspace.shelf.load(second).version
    with pytest.raises(NearlError, match="adapter"):
        adapting.add(engine, other, images[0])
    assert other.shelf.adapter is not None


def test_figures_of_a_strangers_adapter_are_shown_only_if_they_are_figures(engine, workspace):
    adapter = taught(engine)
    for nonsense in ({"frozen": {"balanced_accuracy": "x"}, "adapted": {"balanced_accuracy": 7}}, [1], "x", {"n": 1}):
        adapter.meta["metrics"] = nonsense
        assert workspace.shelf.entry(workspace.shelf.put(adapter)).figures is None


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


# ----------------------------------------------------------------------------------------------------------- on a Space


class Request:
    def __init__(self):
        person = {"preferred_username": "anna", "name": "Anna", "profile": "", "picture": ""}
        about = {"userinfo": person, "access_token": "hf_secret", "scope": "contribute-repos", "expires_at": 9e12}
        self.session = {"oauth_info": about}


def test_components_are_not_told_of_every_answer(tmp_path, monkeypatch):
    """Else a phone does nothing else while a run is going on."""
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path)))
    events = [d for d in page.config["dependencies"] if d["api_visibility"] == "private" and d["outputs"]]
    assert len(events) > 30 and all(d["show_progress_on"] == [] for d in events if d["backend_fn"])


def test_signing_in_is_offered_on_a_space_alone_and_hands_the_visitors_own_token_on(tmp_path, monkeypatch):
    pytest.importorskip("authlib")
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path / "one")))
    assert not page.expects_oauth
    monkeypatch.setenv("SYSTEM", "spaces")
    for name, value in {"OAUTH_CLIENT_ID": "x", "OAUTH_CLIENT_SECRET": "y", "OAUTH_SCOPES": "openid"}.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(gradio.oauth, name, value)  # read when it was imported
    monkeypatch.setattr(gradio.oauth, "OPENID_PROVIDER_URL", "https://huggingface.co")
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path / "two")))
    assert page.expects_oauth
    handlers = {f.name: f for f in page.fns.values() if getattr(f.fn, "__module__", "") == publish.__name__}
    assert set(handlers) == {"on_push", "on_pull", "on_open"}
    for name in ("on_push", "on_pull"):
        inputs = [None] * len(handlers[name].inputs)
        assert special_args(handlers[name].fn, list(inputs), Request())[0][-1].token == "hf_secret"
        assert special_args(handlers[name].fn, list(inputs), None)[0][-1] is None


def test_publishing_needs_an_adapter_and_a_token_and_keeps_neither_in_its_words(engine, workspace, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        "nearl.adapters.hub.push", lambda *values, **options: pushed.append((values, options)) or "https://hub/x"
    )
    token = gr.OAuthToken("hf_secret", "contribute-repos", 9e12)
    with pytest.raises(NearlError, match="No adapter is in use"):
        publish.push(workspace, "anna/x", True, token)
    adapter = taught(engine)
    adapting.use(engine, workspace, workspace.shelf.put(adapter))
    with pytest.raises(NearlError, match="Sign in first"):
        publish.push(workspace, "anna/x", True, None)
    assert not pushed
    assert 'href="https://hub/x"' in publish.push(workspace, "anna/x", True, token)
    ((values, options),) = pushed
    assert (values[0].version, values[1], options) == (
        adapter.version,
        "anna/x",
        {"token": "hf_secret", "private": True},
    )
    monkeypatch.undo()
    with pytest.raises(NearlError) as refused:
        publish.push(workspace, f"anna/{HOSTILE}", True, token)
    said = error_html(refused.value)
    assert "hf_secret" not in said and "<script" not in said
    assert all(b"hf_secret" not in p.read_bytes() for p in workspace.path.rglob("*") if p.is_file())


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


def test_the_page_does_not_wait_for_the_libraries_of_the_model():
    code = (
        "import sys, app.page; sys.exit(', '.join({'torch', 'sklearn', 'matplotlib', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_ready_sets_are_shown_in_words_that_teaching_still_recognises():
    shown = load_ready_prompts()["brain_mri_tumor"]
    assert [entry["name"] for entry in shown["classes"]] == ["glioma", "meningioma", "pituitary tumour"]
    kept = PromptSet.load(ready_sets()["brain_mri_tumor"])
    assert PromptSet.from_dict(shown).texts() == kept.texts()
    assert PromptSet.from_dict(shown).for_classes(kept.classes) == kept
