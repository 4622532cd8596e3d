"""Parses the command line, runs one command and prints its result. What ``--json`` prints is a contract."""

from __future__ import annotations

import os
import sys

from nearl import NOTICE
from nearl.cli.arguments import Parser
from nearl.cli.options import model_options
from nearl.cli.registry import COMMANDS
from nearl.errors import NearlError


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit: 0 if it succeeded, 1 if some of the files could not be read or a dry run found
    problems, 2 with one sentence on bad input, 130 if interrupted."""
    args = parser().parse_args(argv)
    import logging
    import warnings

    logging.getLogger().setLevel(logging.CRITICAL)  # open_clip and the hub client log what our errors say already
    warnings.filterwarnings("ignore")
    try:
        result, lines = COMMANDS[args.command].run(args)
    except NearlError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print("nearl: stopped.", file=sys.stderr)
        sys.exit(130)
    try:
        print(_json(result) if args.json else "\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if problems := result.get("problems"):
        sys.exit(_fail(" ".join(problems), status=1))
    rows = result.get("predictions", [])
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        if failed == len(rows):
            sys.exit(_fail("none of the files could be read."))
        sys.exit(_fail(f"{failed} of {len(rows)} files could not be read.", status=1))


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(prog="nearl", description=f"NEARL-CLIP on frozen open_clip models. {NOTICE}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.text, description=command.text)
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        if command.model:
            model_options(sub)
        command.add(sub)
    return top


def _json(result: dict) -> str:
    import json

    return json.dumps(result, ensure_ascii=False)


def _fail(sentence: str, status: int = 2) -> int:
    print(f"nearl: {sentence}", file=sys.stderr)
    return status
