"""The page: header, tabs and what belongs to all of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import inspect
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import gradio as gr
from gradio.utils import LRUCache
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app import api
from app.about import tab as about
from app.chooser import tab as chooser
from app.compare import tab as compare
from app.compare.models import tab as compared_models
from app.context import PAGE, QUIET, Context, asset_text, load_ready_prompts, shared_scripts, whose
from app.door import middleware as door
from app.door.rules import Rules, names_an_address
from app.engine import Engine
from app.events import Opening, guarded, sentence, unseen
from app.explain import tab as explain
from app.find import tab as find
from app.learn import tab as learn
from app.models.memory import GB
from app.predict import tab as predict
from app.teach import tab as teach
from app.theme import build_theme
from app.visitor import guard, limits
from app.visitor.disk import Root, default_root, is_full, remove_old_uploads
from app.visitor.pages import PATIENCE, Pages
from app.visitor.registry import Registry
from app.work import lanes
from app.work.run import KINDS
from nearl.errors import NearlError
from nearl.runs import ZERO_GPU

log = logging.getLogger("nearl.app")

UPLOAD_LIMIT = "256mb"
MAX_EVENTS = 4096  # running or waiting, of all visitors; a page that follows two runs has two
MAX_SESSIONS = 2048  # that Gradio remembers; where it has forgotten one, `Pages` still knows the workspace
CACHE_SECONDS = (600, 3600)  # look every ten minutes for uploaded files older than an hour, and delete them

# The id of the workspace is kept by the browser, so that a reload, a second tab and a restarted server find it again.
# Where the browser keeps nothing, a reload begins with an empty workspace.
RECALL = "() => { try { return [localStorage.getItem('nearl-workspace')]; } catch { return [null]; } }"
REMEMBER = "(key) => { try { localStorage.setItem('nearl-workspace', key); } catch {} return []; }"

# Fields of an event that Gradio's page takes as absent where they are None.
UNSAID = ("api_description", "event_specific_args", "js_implementation", "render_id", "rendered_in", "time_limit")

INLINE = re.compile("data:image/jpeg;base64,([A-Za-z0-9+/=]+)")

UNFIT = "What was sent does not fit, or its files are gone; bring the files again, or reload the page."

NO_REFERRER = '<meta name="referrer" content="no-referrer">'
WORDS = {"common": {"upload": "Add files"}}  # the name of a button that Gradio leaves without one


@dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    backbone: str = "embedded"
    """A name, see `python -m nearl backbones`."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:1"...; "auto" takes a GPU if there is one."""
    weights: str = "pretrained"
    """"random" for tests."""
    offered: Sequence[str] = ()
    """The models that visitors may choose among besides that one."""
    memory: float = 4 * GB
    """Bytes that all models together may take in memory."""
    workspaces: str | None = None
    """The folder for visitors' images and adapters; None for the usual one."""


class _Messages(LRUCache):
    """What is still to be sent, by session. Each of two streams of a page that closes deletes it; Gradio's way fails at
    the second."""

    def __delitem__(self, key) -> None:
        self.pop(key, None)


class Page(gr.Blocks):
    """Blocks in which visitors take turns, and whose answers reach the page whole, each once.

    A handler that is an ordinary function holds a thread: it waits for the visitor's turn in its lane first, which the
    event's `concurrency_id` names. An asynchronous one waits for runs and holds none. Before either, an event waits
    until the page that sent it has opened.

    Gradio sends the difference from the previous answer, and the page applies it to that answer, which it may not have
    shown yet: of two answers that arrive together the first is lost. At the end of an event Gradio sends the last
    answer again, over anything changed since. Here each answer is whole, and nothing follows the last one, except for
    programs, which ask for it.
    """

    def __init__(self, *given, **options):
        self.lanes = lanes.Lanes()
        self.open_pages: Pages | None = None
        self.images: dict[str, bytes] = {}  # JPEGs by their names
        super().__init__(*given, **options)

    def queue(self, *given, **named):
        """As Gradio's, which would look for work a thousand times a second; every 20 ms leaves the processor idle."""
        super().queue(*given, **named)
        self._queue.sleep_when_free = 0.02
        self._queue.pending_messages_per_session = _Messages(MAX_SESSIONS)
        return self

    async def process_api(self, *given, **named):
        """What goes wrong outside a handler, such as an input that is not one, is told in a sentence too."""
        try:
            return await super().process_api(*given, **named)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(sentence(error), print_exception=False) from None

    async def call_function(self, block_fn, processed_input, iterator=None, requests=None, *more, **named):
        call = super().call_function
        if block_fn.api_visibility == "private" and block_fn.queue:
            await self._opened(getattr(requests, "session_hash", None))
        if inspect.iscoroutinefunction(block_fn.fn) or inspect.isasyncgenfunction(block_fn.fn):
            return await call(block_fn, processed_input, iterator, requests, *more, **named)
        try:
            async with self.lanes.turn(block_fn.concurrency_id, whose(requests)):
                return await call(block_fn, processed_input, iterator, requests, *more, **named)
        except NearlError as error:  # of the lane: handlers answer with their own errors
            raise gr.Error(str(error), print_exception=False) from None

    async def _opened(self, session: str | None) -> None:
        """Wait, not for long, until a page has its workspace; what sent the event may be no page."""
        end = time.monotonic() + PATIENCE
        while self.open_pages is not None and self.open_pages.expected(session) and time.monotonic() < end:
            await asyncio.sleep(0.02)

    async def preprocess_data(self, block_fn, inputs, *more, **named):
        if names_an_address(inputs):  # Gradio would fetch it, for inputs of any kind
            raise gr.Error("Only uploaded files are read, no addresses; upload the file itself.", print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *more, **named)
        except gr.Error:
            raise
        except Exception as error:
            log.warning("inputs that do not fit: %s", type(error).__name__)
            raise gr.Error(sentence(error) if is_full(error) else UNFIT, print_exception=False) from None

    def get_config_file(self):
        """What the page is built from, without what it does not need: descriptions for programs where no endpoint of
        theirs has the component, and fields of an event that say nothing. It is a sixth of the page as Gradio has it.
        Images that it holds from the start are files of their own.
        """
        config = super().get_config_file()
        public = [d for d in config["dependencies"] if d["api_visibility"] == "public"]
        needed = {i for d in public for i in (*d["inputs"], *d["outputs"])}
        for component in config["components"]:
            if isinstance(value := component["props"].get("value"), str):
                component["props"]["value"] = INLINE.sub(self._address, value)
            if component["id"] not in needed and "api_info" in component:
                component.update(api_info={}, api_info_as_input={}, api_info_as_output={}, example_inputs=None)
        for event in config["dependencies"]:
            for name in [name for name in UNSAID if event.get(name, "") is None]:
                del event[name]
        return config

    def _address(self, image: re.Match) -> str:
        """Where an image of the page is found that Gradio would send within it."""
        content = base64.b64decode(image[1])
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.jpg"
        self.images[name] = content
        return f"images/{name}"

    def create_limiter(self):
        self.limiter = anyio.CapacityLimiter(lanes.THREADS)  # `max_threads` counts those that wait, too

    def handle_streaming_diffs(self, block_fn, data, session_hash, run, final, simple_format=False):
        if session_hash is None or run is None:
            return data
        before = list(self.pending_diff_streams[session_hash].get(run, []))
        data = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format=True)
        if final:
            return [gr.skip() for _ in data] if block_fn.api_visibility == "private" else data
        if simple_format or not before:
            return data
        return [[] if new == old else [["replace", [], new]] for old, new in zip(before, data, strict=True)]


async def _image(request: Request) -> Response:
    """An image of the page."""
    found = request.app.get_blocks().images.get(request.path_params["name"])
    if found is None:
        return Response(status_code=404)
    return Response(found, media_type="image/jpeg", headers={"Cache-Control": "max-age=86400"})


def build_app(settings: Settings) -> gr.Blocks:
    """The whole app. The model starts loading in the background; the page is up before it is loaded.

    Raises NearlError if the folder for workspaces in the settings cannot be used.
    """
    limits.keep_arenas_few()
    guard.keep_uploads_apart()
    guard.forget_what_was_shown()
    if ZERO_GPU in os.environ:
        import nearl.runs.zero_gpu  # noqa: F401  the Space wants to see while it starts what needs the GPU
    root = _root(settings)
    engine = Engine(settings.backbone, settings.device, settings.weights, settings.offered, settings.memory)
    engine.start()
    registry = Registry(root)
    engine.models.left = registry.let_go
    registry.sweep_regularly()
    threading.Thread(target=_recover, args=(engine, registry), name="recover", daemon=True).start()
    with Page(title=door.TITLE, analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS) as app:
        app.lanes = engine.lanes
        session = gr.State(None)
        app.open_pages = Pages(registry, patience=0.0)  # `Page` has waited
        ctx = Context(engine, app.open_pages, session, gr.State(0), load_ready_prompts(), root.lasts)
        with gr.Column(elem_id="top"):
            header = gr.HTML(chooser.header(engine), js_on_load=None, elem_id="header")
            with gr.Row(elem_id="badges"):
                ctx.badges = {kind.name: gr.HTML("", js_on_load=None, elem_classes="badge") for kind in KINDS}
        models = chooser.build(engine) if engine.models.several else None
        opened = Opening()
        if models is not None:
            chooser.wire(ctx, models, header, opened)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Predict", id="predict"):
                predict.build(ctx, opened)
            with gr.Tab("Explain", id="explain") as explain_item:
                explain.build(ctx, explain_item)
            with gr.Tab("Teach", id="teach") as teach_item:
                teach.build(ctx, teach_item, opened)
            with gr.Tab("Compare", id="compare") as compare_item:
                compare.build(ctx, compare_item, opened)
                if engine.models.several:
                    compared_models.build(ctx)
            with gr.Tab("Find", id="find") as find_item:
                find.build(ctx, find_item)
            with gr.Tab("Learn", id="learn"):
                learn.build()
            with gr.Tab("About", id="about"):
                about.build(ctx.lasts)
        _open(app, ctx, header, opened)  # outside the tabs: a timer in a tab that was never open does not tick
        api.build(ctx)
    return app


def _root(settings: Settings) -> Root:
    """The folder for workspaces and for Gradio's uploads; a temporary one where the usual one is in use.

    From then on every file that this process and its workers write is for the server's user alone.
    """
    os.umask(0o077)
    try:
        root = Root(settings.workspaces or default_root())
    except NearlError as error:
        if settings.workspaces:
            raise
        log.warning("%s Until then, workspaces are kept in a temporary folder.", error)
        root = Root()
    remove_old_uploads(root.uploads, float("inf"))  # left by a server that was killed
    os.environ.setdefault("GRADIO_TEMP_DIR", str(root.uploads))
    return root


def _recover(engine: Engine, registry: Registry) -> None:
    """Resume the runs of an earlier server, once there is a model."""
    with contextlib.suppress(NearlError):
        engine.backbone()
        engine.queue.recover(registry)


def _open(app: gr.Blocks, ctx: Context, header: gr.HTML, opening: Opening) -> None:
    """Give every page a workspace when it opens and leave it when it closes; keep the header up to date with the
    model."""
    kept = gr.Textbox(visible=False)

    @guarded(header)
    def opened(key: str | None, request: gr.Request) -> dict:
        workspace = ctx.pages.open(request.session_hash, key)
        found = opening.drawn(workspace) if ctx.engine.imported.is_set() else {}
        return {
            **found, ctx.session: workspace.id, header: chooser.header(ctx.engine, workspace), kept: workspace.id
        }  # fmt: skip

    @unseen
    def closed(request: gr.Request) -> None:
        ctx.pages.close(request.session_hash)

    @guarded(header)
    def model_state(key: str | None) -> dict:
        known = ctx.pages.known(key)
        loading = ctx.engine.state(known) == "loading"
        return {header: chooser.header(ctx.engine, known), timer: gr.Timer(active=loading)}

    timer = gr.Timer(1.0)
    quiet = {**QUIET, "queue": False}
    timer.tick(model_state, ctx.session, [header, timer], **quiet)
    loaded = app.load(opened, kept, [*opening.outputs, ctx.session, header, kept], js=RECALL, **quiet)
    loaded.then(None, kept, None, js=REMEMBER, api_visibility="private")
    opening.begin(loaded)
    app.unload(closed)


def launch_options(rules: Rules) -> dict:
    """Options of every launch of the page: our theme, and nothing that leaves the machine or keeps images.

    `rules`: which requests are answered.
    """
    return {
        "theme": build_theme(),
        "css": asset_text("charts.css") + asset_text("style.css"),
        "head": f"{NO_REFERRER}<script>{shared_scripts()}{asset_text('head.js')}{asset_text('drop.js')}</script>",
        "i18n": gr.I18n(en=WORDS),
        "favicon_path": PAGE / "favicon.png",
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "max_threads": MAX_EVENTS,
        "state_session_capacity": MAX_SESSIONS,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "max_file_size": UPLOAD_LIMIT,
        "show_error": False,
        "quiet": True,
        "_frontend": False,  # Gradio gives the page 3 seconds to answer itself, and a busy machine may need more
        "allowed_paths": [],
        "app_kwargs": {
            "middleware": [door.middleware(rules), *guard.MIDDLEWARE],
            "routes": [Route("/images/{name}", _image)],
        },
    }
