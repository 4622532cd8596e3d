"""The page: header, tabs and what belongs to all of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import gradio as gr

from app import api, views
from app.context import ASSETS, Context, load_ready_prompts
from app.engine import Engine
from app.tabs import about, adapt, explain, learn, predict
from app.theme import build_theme
from app.workspace import Registry

log = logging.getLogger("nearl.app")

TITLE = "NEARL-CLIP"
UPLOAD_LIMIT = "256mb"
CACHE_SECONDS = (600, 3600)  # look every ten minutes for uploaded files older than an hour, and delete them

# Links such as <a data-tab="Teach"> open a tab. A group of radio buttons gets its label as its name, which Gradio
# leaves out, so that a screen reader says it.
HEAD = """<meta name="referrer" content="no-referrer"><script>
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-tab]");
  if (!link) return;
  event.preventDefault();
  [...document.querySelectorAll("button[role=tab]")].find((b) => b.textContent.trim() === link.dataset.tab)?.click();
  window.scrollTo(0, 0);
});
document.addEventListener("focusin", (event) => {
  const group = event.target.closest("fieldset:not([aria-label])");
  const label = group?.querySelector("[data-testid=block-info]")?.textContent.trim();
  if (label) group.setAttribute("aria-label", label);
});
</script>"""

WORDS = {"common": {"upload": "Add files"}}  # the name of a button that Gradio leaves without one


@dataclass(frozen=True)
class Settings:
    """What the command line chose."""

    backbone: str = "embedded"
    device: str = "auto"
    weights: str = "pretrained"


def build_app(settings: Settings) -> gr.Blocks:
    """The whole app. The model starts loading in the background; the page is there before it is."""
    engine = Engine(settings.backbone, settings.device, settings.weights)
    engine.start()
    registry = Registry()
    registry.sweep_regularly()
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS) as app:
        session = gr.State(None)
        ctx = Context(engine, registry, session, load_ready_prompts())
        header = gr.HTML(_header(engine), js_on_load=None, elem_id="header")
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with gr.Tab("Predict", id="predict"):
                predict_tab = predict.build(ctx)
            with gr.Tab("Explain", id="explain") as explain_item:
                explain.build(ctx, explain_item)
            with gr.Tab("Teach", id="teach"):
                adapt.build(ctx, predict_tab)
            with gr.Tab("Learn", id="learn"):
                learn.build()
            with gr.Tab("About", id="about"):
                about.build()
        api.build(ctx)
        _session_events(app, ctx, header)
    return app


def _header(engine: Engine) -> str:
    return views.header(views.model_line(engine.label, engine.state), engine.notice)


def _session_events(app: gr.Blocks, ctx: Context, header: gr.HTML) -> None:
    """A workspace for every page that opens; it is left behind when the page closes. The header follows the model."""
    pages: dict[str, str] = {}

    def opened(request: gr.Request) -> tuple[str, str]:
        workspace = ctx.registry.get(None)
        pages[request.session_hash] = workspace.id
        return workspace.id, _header(ctx.engine)

    def closed(request: gr.Request) -> None:
        ctx.registry.leave(pages.pop(request.session_hash, None))

    def model_state() -> tuple[str, dict]:
        loading = ctx.engine.state == "loading"
        return _header(ctx.engine), gr.Timer(active=loading)

    timer = gr.Timer(1.0)
    quiet = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    timer.tick(model_state, None, [header, timer], **quiet)
    app.load(opened, None, [ctx.session, header], **quiet)
    app.unload(closed)


def launch_options() -> dict:
    """What every launch of the page has in common: our look, and nothing that leaves the machine or keeps images."""
    return {
        "theme": build_theme(),
        "css_paths": ASSETS / "style.css",
        "head": HEAD,
        "i18n": gr.I18n(en=WORDS),
        "favicon_path": ASSETS / "favicon.png",
        "footer_links": [],
        "run_history": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
        "max_file_size": UPLOAD_LIMIT,
        "show_error": False,
        "quiet": True,
        "allowed_paths": [],
    }
