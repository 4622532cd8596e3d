"""Adapters to and from the Hugging Face Hub under the visitor's own name: only on a Space where one can sign in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import gradio as gr
from gradio.utils import get_space

from app.context import QUIET, Context
from app.events import Opening, bump, guarded
from app.html import render, views
from app.teach.shelf import actions as adapting
from app.visitor.workspace import Workspace
from app.work import lanes
from nearl.errors import NearlError

WORDS = (
    "Sign in with Hugging Face to publish under your own name. What becomes public, unless you keep it private: class "
    "names, prompts, the number of images, figures, and averages of image features; no images and no file names. "
    "Signing in reloads the page; inside a frame it may begin in an empty workspace, so download your adapter first."
)
HUB = {**QUIET, "concurrency_id": lanes.HUB}  # waits for the network, not for the device


@dataclass
class PublishPart:
    repo: gr.Textbox
    private: gr.Checkbox
    push: gr.Button
    pull: gr.Button
    message: gr.HTML


def offered() -> bool:
    """Elsewhere the button would sign in as whoever owns the machine, or not start."""
    set_up = all(os.environ.get(f"OAUTH_{name}") for name in ("CLIENT_ID", "CLIENT_SECRET", "SCOPES"))
    return bool(get_space() and set_up and os.environ.get("OPENID_PROVIDER_URL") and find_spec("authlib"))


def build() -> PublishPart:
    with gr.Accordion("Publish, or fetch a published one", open=False, elem_classes="folded", elem_id="publish"):
        gr.HTML(views.quiet(WORDS), js_on_load=None)
        gr.LoginButton()
        repo = gr.Textbox(label="Name on the Hub", placeholder="owner/name", max_length=100, elem_id="repo")
        private = gr.Checkbox(label="Private", value=True, elem_id="private")
        with gr.Row(elem_classes="action"):
            push = gr.Button("Publish the adapter in use", elem_id="push")
            pull = gr.Button("Fetch", elem_id="pull")
        message = gr.HTML("", js_on_load=None, elem_id="publish-message")
    return PublishPart(repo, private, push, pull, message)


def push(workspace: Workspace, repo: str, private: bool, token: gr.OAuthToken | None) -> str:
    """Publish the adapter in use and return HTML with its address. The token is used for this call only.

    NearlError where there is no adapter or nobody has signed in, and as of `nearl.adapters.hub.push`.
    """
    if not workspace.shelf.in_use:
        raise NearlError("No adapter is in use; choose one of your shelf first.")
    if token is None:
        raise NearlError("Sign in first, with the button above.")
    address = adapting.push(workspace, workspace.shelf.in_use, repo, token.token, private)
    return render("teach/published.html", address=address)


def wire(ctx: Context, part: PublishPart, opened: Opening) -> None:
    """`opened`: the event of a page that opens, after which it is known who is signed in."""

    @guarded(part.message)
    def on_push(key: str, repo: str, private: bool, token: gr.OAuthToken | None = None) -> dict:
        return {part.message: push(ctx.workspace(key), repo, private, token)}

    @guarded(part.message)
    def on_pull(key: str, repo: str, token: gr.OAuthToken | None = None) -> dict:
        workspace = ctx.workspace(key)
        found = adapting.pull(ctx.engine, workspace, repo, token.token if token else None)
        said = adapting.take(ctx.engine, workspace, found)
        return {part.message: views.message(said), ctx.changed: bump()}

    @guarded(part.message)
    def on_open(profile: gr.OAuthProfile | None = None) -> dict:
        return {part.repo: f"{profile.username}/" if profile else ""}

    part.push.click(on_push, [ctx.session, part.repo, part.private], [part.message], **HUB)
    part.pull.click(on_pull, [ctx.session, part.repo], [part.message, ctx.changed], **HUB)
    opened.then(on_open, None, [part.repo, part.message], **QUIET)
