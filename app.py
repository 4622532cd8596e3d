"""Start the NEARL-CLIP page: `python app.py`, then open http://127.0.0.1:7860. Also what a Hugging Face Space starts.

For teaching and research. Not for diagnosis.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: nothing leaves this machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line. Exits with status 2 and one sentence where an option cannot be used."""
    parser = argparse.ArgumentParser(prog="app.py", description="The NEARL-CLIP page, on this machine.")
    on_space = bool(os.environ.get("SPACE_ID"))
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to serve on")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
    parser.add_argument("--backbone", default="embedded", help="see: python -m nearl backbones")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    parser.add_argument("--workspaces", metavar="DIR", help="where visitors' images and adapters are kept (a day)")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for this name and password")
    parser.add_argument("--share", action="store_true", help="make a public link through Gradio; needs --auth")
    options = parser.parse_args(arguments)
    if options.auth is not None:
        user, colon, password = options.auth.partition(":")
        if not (user and colon and password):
            parser.error("--auth must be USER:PASSWORD, with both.")
        options.auth = (user, password)
    if options.share and not options.auth:
        parser.error("--share makes the page public, so it needs --auth USER:PASSWORD.")
    if not on_space and not options.auth and options.host not in LOOPBACK:
        print(
            f"Warning: serving on {options.host} lets everyone on the network use this page; "
            "add --auth USER:PASSWORD, or leave --host out.",
            file=sys.stderr,
        )
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    from app.page import Settings, build_app, launch_options
    from nearl.errors import NearlError

    try:
        page = build_app(Settings(options.backbone, options.device, workspaces=options.workspaces))
    except NearlError as error:
        sys.exit(str(error))
    page.queue(default_concurrency_limit=None, max_size=64)  # `app.work.lanes` limits instead
    print(f"{__doc__.splitlines()[2]} Open http://{options.host}:{options.port}", flush=True)
    page.launch(
        server_name=options.host, server_port=options.port, share=options.share, auth=options.auth, **launch_options()
    )


if __name__ == "__main__":
    main()
