"""Start the NEARL-CLIP page: `python app.py`, then open http://127.0.0.1:7860. Also what a Hugging Face Space starts.

For teaching and research. Not for diagnosis.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from app.door.credentials import credentials
from app.door.rules import LOOPBACK, rules
from nearl.errors import NearlError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: nothing leaves this machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Exits with status 2 and one sentence where an option cannot be used."""
    parser = argparse.ArgumentParser(prog="app.py", description="The NEARL-CLIP page, on this machine.")
    on_space = bool(os.environ.get("SPACE_ID"))
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to serve on")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
    parser.add_argument("--backbone", default="embedded", help="see: python -m nearl backbones")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    parser.add_argument("--workspaces", metavar="DIR", help="where visitors' images and adapters are kept (a day)")
    parser.add_argument(
        "--auth", nargs="?", const="", metavar="FILE",
        help="ask for a name and password: those in FILE, one USER:PASSWORD a line, or in the variable NEARL_AUTH",
    )  # fmt: skip
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio; needs --auth")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="a name under which the page is reached through a proxy; * for any",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        options.auth = credentials(options.auth)
    except NearlError as error:
        parser.error(str(error))
    if options.share and not options.auth:
        parser.error("--share makes the page public, so it needs --auth FILE.")
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
        page = build_app(Settings(options.backbone, options.device, workspaces=options.workspaces))
    except NearlError as error:
        sys.exit(str(error))
    page.queue(default_concurrency_limit=None, max_size=64)  # `app.work.lanes` limits instead
    print(f"{__doc__.splitlines()[2]} Open http://{options.host}:{options.port}", flush=True)
    door = rules(options.host, options.allow_host, login=options.auth is not None, share=options.share)
    page.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=options.auth,
        **launch_options(door),
    )


if __name__ == "__main__":
    main()
