"""Adapters to and from the Hugging Face Hub under the visitor's own name: only on a Space where one can sign in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import gradio as gr
from gradio.utils import get_space

from app.context import QUIET, Context
from app.html import render, views
from app.predict import actions as reading
from app.teach import shelf_actions as adapting
from app.visitor.workspace import Workspace

WORDS = (
    "Sign in with Hugging Face to publish under your own name. What becomes public, unless you keep it private: class "
    "names, prompts, the number of images, figures, and averages of image features; no images and no file names. "
    "Signing in reloads the page; inside a frame it may begin in an empty workspace, so download your adapter first."
)
HUB = {**QUIET, "concurrency_id": "hub", "concurrency_limit": 4}  # waits for the network, not for the device


@dataclass
class PublishPart:
    repo: gr.Textbox
    private: gr.Checkbox
    push: gr.Button
    pull: gr.Button
    message: gr.HTML


def offered() -> bool:
    """Elsewhere the button would sign in as whoever owns the machine, or not start."""
    return bool(get_space() and os.environ.get("OAUTH_CLIENT_ID"))


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
    """Publish the adapter in use; returns HTML with its address, or a sentence. The token is for this call alone."""
    try:
        key = next((item.id for item in workspace.shelf.items() if item.in_use), None)
        if key is None:
            return views.message("No adapter is in use; choose one of your shelf first.", "error")
        if token is None:
            return views.message("Sign in first, with the button above.", "error")
        address = adapting.push(workspace, key, repo, token.token, private)
    except Exception as error:
        return views.message(reading.sentence(error), "error")
    return render("teach/published.html", address=address)


def wire(
    ctx: Context,
    part: PublishPart,
    fetched: Callable[[Workspace], Iterator[dict]],
    outputs: list,
    opened: gr.events.Dependency,
) -> None:
    """`fetched`: what to show, in `outputs`, once an adapter from the Hub is in use. `opened`: the page's opening."""

    def on_push(key: str, repo: str, private: bool, token: gr.OAuthToken | None = None) -> str:
        return push(ctx.workspace(key), repo, private, token)

    def on_pull(key: str, repo: str, token: gr.OAuthToken | None = None) -> Iterator[dict]:
        workspace = ctx.workspace(key)
        try:
            found = adapting.pull(ctx.engine, workspace, repo, token.token if token else None)
            adapting.use(ctx.engine, workspace, found)
        except Exception as error:
            yield {part.message: views.message(reading.sentence(error), "error")}
            return
        yield {part.message: ""}
        yield from fetched(workspace)

    def on_open(profile: gr.OAuthProfile | None = None) -> str:
        return f"{profile.username}/" if profile else ""

    part.push.click(on_push, [ctx.session, part.repo, part.private], part.message, **HUB)
    part.pull.click(on_pull, [ctx.session, part.repo], [part.message, *outputs], **HUB)
    opened.then(on_open, None, part.repo, **QUIET)
