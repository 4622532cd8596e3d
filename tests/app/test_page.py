"""The page as it is built: its events, signing in on a Space, its start."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import gradio.oauth
from gradio.helpers import special_args

from app.context import load_ready_prompts
from app.page import Page, Settings, build_app
from app.teach.publish import tab as publish
from nearl.prompts import PromptSet, ready_sets
from tests.support.pages import ROOT


class Request:
    def __init__(self):
        person = {"preferred_username": "anna", "name": "Anna", "profile": "", "picture": ""}
        about = {"userinfo": person, "access_token": "hf_secret", "scope": "contribute-repos", "expires_at": 9e12}
        self.session = {"oauth_info": about}


def test_events_keep_no_page_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = build_app(Settings("no-such-model", "cpu", offered=["nor-this-one"], workspaces=str(tmp_path)))
    # no component is told of every answer, or a phone does nothing else while a run is going on
    events = [d for d in page.config["dependencies"] if d["api_visibility"] == "private" and d["outputs"]]
    assert len(events) > 30 and all(d["show_progress_on"] == [] for d in events if d["backend_fn"])
    # one event draws the map in Predict, so that of two quick choices the last is on show
    (drawn,) = (f for f in page.fns.values() if f.name == "on_map")
    (chosen,) = (f for f in page.fns.values() if f.name == "on_class" and "predict" in f.fn.__module__)
    assert {part._id for part in chosen.outputs} & {target for target, _ in drawn.targets}
    # what the page does by itself comes first: it begins each event of a press at the end of the one before
    asked = set()
    for event in page.config["dependencies"]:
        targets = {tuple(target) for target in event["targets"] if target[0] is not None}
        assert event["backend_fn"] or not targets & asked, event["js"]
        asked |= targets if event["backend_fn"] else set()


def test_a_page_without_work_seldom_looks_for_some(monkeypatch):
    slept = []
    with Page() as page:
        queue = page.queue()._queue

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        queue.stopped = True

    monkeypatch.setattr("gradio.queueing.asyncio.sleep", sleep)
    asyncio.run(queue.start_processing())
    assert slept and min(slept) >= 0.01


def test_signing_in_is_offered_on_a_space_alone_and_hands_the_visitors_own_token_on(tmp_path, monkeypatch):
    monkeypatch.setattr("app.engine.FALLBACK", "neither-this-one")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setenv("SPACE_ID", "somebody/nearl")
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path / "one")))
    assert not page.expects_oauth
    monkeypatch.setenv("SYSTEM", "spaces")
    about = {"OAUTH_CLIENT_ID": "x", "OAUTH_CLIENT_SECRET": "y", "OAUTH_SCOPES": "openid"}
    for name, value in {**about, "OPENID_PROVIDER_URL": "https://huggingface.co"}.items():
        assert not publish.offered()  # of a Space that lacks one of them, the page starts without the button
        monkeypatch.setenv(name, value)
        monkeypatch.setattr(gradio.oauth, name, value)  # read when it was imported
    page = build_app(Settings("no-such-model", "cpu", workspaces=str(tmp_path / "two")))
    assert page.expects_oauth
    handlers = {f.name: f for f in page.fns.values() if getattr(f.fn, "__module__", "") == publish.__name__}
    assert set(handlers) == {"on_push", "on_pull", "on_open"}
    for name in ("on_push", "on_pull"):
        inputs = [None] * len(handlers[name].inputs)
        assert special_args(handlers[name].fn, list(inputs), Request())[0][-1].token == "hf_secret"
        assert special_args(handlers[name].fn, list(inputs), None)[0][-1] is None


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
