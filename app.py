"""Start the NEARL-CLIP page: `python app.py`, then open http://127.0.0.1:7860. Also what a Hugging Face Space starts.

For teaching and research. Not for diagnosis.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace

from app.door.credentials import ENVIRONMENT as AUTH
from app.door.credentials import credentials
from app.door.rules import HOSTS, LOOPBACK, rules
from app.visitor.disk import ENVIRONMENT as WORKSPACES
from nearl.backbones.catalogue import offerable
from nearl.cli.arguments import Parser
from nearl.errors import NearlError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: nothing leaves this machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

VARIABLES = {  # the environment variable of each option, which counts where the option is not given
    "--host": "NEARL_HOST",
    "--port": "NEARL_PORT",
    "--root-path": "NEARL_ROOT_PATH",
    "--proxy": "NEARL_PROXY",
    "--allow-host": HOSTS,
    "--backbone": "NEARL_BACKBONE",
    "--backbones": "NEARL_BACKBONES",
    "--model-memory": "NEARL_MODEL_MEMORY",
    "--device": "NEARL_DEVICE",
    "--workspaces": WORKSPACES,
    "--auth": "NEARL_AUTH_FILE",
    "--share": "NEARL_SHARE",
}
# Gradio's own, which count after these.
GRADIO = {"--host": "GRADIO_SERVER_NAME", "--port": "GRADIO_SERVER_PORT", "--root-path": "GRADIO_ROOT_PATH"}


def given(option: str, default: str | None = None) -> str | None:
    """What the environment says of an option, else `default`. An empty variable says nothing."""
    names = (VARIABLES[option], GRADIO.get(option, ""))
    return next((value for name in names if (value := os.environ.get(name, "").strip())), default)


def parser() -> Parser:
    """The command line, with what the environment says of each option as its default."""
    found = Parser(prog="app.py", description="The NEARL-CLIP page, on this machine.")
    add = lambda option, help, **how: found.add_argument(  # noqa: E731
        option, help=f"{help} [{VARIABLES[option]}]", **{"default": given(option), **how}
    )
    usual = "0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1"
    add("--host", "address to serve on", default=given("--host", usual))
    add("--port", "port to serve on", type=int, default=given("--port", "7860"))
    add("--root-path", "where a reverse proxy has the page: /nearl, or the whole address", metavar="PATH")
    add("--proxy", "a reverse proxy that may say who a visitor is, besides one on this machine", metavar="ADDRESS")
    add("--backbone", "the model, see: python -m nearl backbones; of several the first", metavar="NAME")
    several = "models that visitors choose among: names of the list, hf-hub:... and local-dir:..., separated by commas"
    add("--backbones", several, metavar="NAMES")
    kept = "memory that all models together may take; those that were used longest ago leave first"
    add("--model-memory", kept, type=float, default=given("--model-memory", "4"), metavar="GB")
    add("--device", "cpu, cuda, cuda:1, mps; auto: a GPU if there is one", default=given("--device", "auto"))
    add("--workspaces", "where visitors' images and adapters are kept (a day)", metavar="DIR", default=None)
    names = f"ask for a name and password: those in FILE, one USER:PASSWORD a line, or in the variable {AUTH}"
    add("--auth", names, nargs="?", const="", metavar="FILE")
    public = given("--share", "").lower() in ("1", "true", "yes")
    add("--share", "make a public link through Gradio; needs --auth", action="store_true", default=public)
    name = "a name under which the page is reached through a proxy; * for any"
    add("--allow-host", name, action="append", default=[], metavar="NAME")
    return found


def parse(arguments: list[str] | None = None) -> Namespace:
    """Parse the command line. Exits with status 2 and one sentence where an option cannot be used."""
    on_space, words = bool(os.environ.get("SPACE_ID")), parser()
    options = words.parse_args(arguments)
    if options.root_path and "://" not in options.root_path:
        options.root_path = f"/{options.root_path.strip('/')}"
    try:
        offered = offerable(options.backbones or "")
        options.backbone = options.backbone or (offered[0] if offered else "embedded")
        options.backbones = [name for name in offered if name != options.backbone]
        options.auth = credentials(options.auth)
    except NearlError as error:
        words.error(str(error))
    if options.model_memory <= 0:
        words.error("--model-memory is a number of gigabytes above 0.")
    if options.share and not options.auth:
        words.error("--share makes the page public, so it needs --auth FILE.")
    if not on_space and not options.auth and options.host not in LOOPBACK:
        print(
            f"Warning: serving on {options.host} lets everyone on the network use this page; "
            "add --auth FILE, or leave --host out.",
            file=sys.stderr,
        )
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    from app.page import Settings, build_app, launch_options

    try:
        models = {"offered": options.backbones, "memory": options.model_memory * 1e9}
        page = build_app(Settings(options.backbone, options.device, workspaces=options.workspaces, **models))
    except NearlError as error:
        sys.exit(str(error))
    page.queue(default_concurrency_limit=None, max_size=64)  # `app.work.lanes` limits instead
    print(f"{__doc__.splitlines()[2]} Open http://{options.host}:{options.port}", flush=True)
    if options.proxy:
        os.environ["FORWARDED_ALLOW_IPS"] = f"127.0.0.1,{options.proxy}"  # the server reads it when it starts
    names = [*options.allow_host, options.root_path or ""]
    door = rules(options.host, names, login=options.auth is not None, share=options.share)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        root_path=options.root_path,
        auth=options.auth,
        **launch_options(door),
    )


if __name__ == "__main__":
    main()
