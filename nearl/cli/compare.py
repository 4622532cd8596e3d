"""``nearl compare``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import Command, Result, log, method_options, methods_of, there
from nearl.errors import NearlError


def run(args: argparse.Namespace) -> Result:
    for data in [*args.data, args.test_on]:
        there(data, "folder or zip")

    from nearl.measure.compare import finished, perform, perform_on_ray, plan
    from nearl.measure.compare_report import markdown, write
    from nearl.methods import names

    chosen = [name for name in names() if name != "nearl:image-context"] if args.methods == "all" else methods_of(args)
    changes = {key: getattr(args, key) for key in ("steps", "augment") if getattr(args, key) is not None}
    settings = {
        "backbone": args.backbone,
        "weights": args.weights,
        "device": args.device,
        "prompts": args.prompts or "",
    }
    settings |= {"test_on": args.test_on or "", "same": _pairs(args.same)}
    runs = plan(args.data, chosen, _numbers(args.shots), args.seeds, recipe=tuple(changes.items()), **settings)
    if args.weights == "random" and args.executor == "ray":
        raise NearlError("Random weights differ from machine to machine; use --executor local with them.")
    done = len(list((perform_on_ray if args.executor == "ray" else perform)(runs, args.out, log)))
    rows = finished(runs, args.out)
    shown = _same_for_every_seed(rows, args.seeds)
    files = [str(path) for path in write(shown, args.out)]
    result = {"runs": len(runs), "done_now": done, "rows": rows, "files": files, "notice": NOTICE}
    return result, [markdown(shown), *files, NOTICE]


def _same_for_every_seed(rows: list[dict], seeds: int) -> list[dict]:
    """The rows; those of zero-shot, which has no randomness, are repeated for every seed, to be averaged too."""
    repeated = [{**r, "seed": s} for r in rows if r["method"] == "zero-shot" for s in range(1, seeds)]
    return [*rows, *repeated]


def _pairs(words: list[str]) -> tuple[tuple[str, str], ...]:
    pairs = [tuple(part.strip() for part in text.split("=")) for text in words]
    for pair in pairs:
        if len(pair) != 2 or not all(pair):
            raise NearlError(f"--same takes two names as NAME=NAME, not '{'='.join(pair)}'.")
    return tuple(pairs)  # type: ignore[arg-type]


def _numbers(text: str) -> list[int]:
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise NearlError(f"--shots takes numbers separated by commas, such as 1,4,16, not '{text}'.") from None


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", nargs="+", metavar="DATA", help="folders or zips with train/ and test/ class folders")
    sub.add_argument("--out", required=True, metavar="DIR", help="rows are kept here; finished runs are not repeated")
    method_options(sub)
    sub.add_argument("--shots", default="1,2,4,8,16", help="images per class (default: 1,2,4,8,16)")
    sub.add_argument("--seeds", type=int, default=5, help="number of random draws of the support images (default: 5)")
    sub.add_argument("--augment", choices=["none", "gentle", "strong"])
    sub.add_argument("--prompts", metavar="FILE", help="a prompt set for all DATA (default: each set's own)")
    sub.add_argument("--test-on", metavar="OTHER", help="measure on another source with the same classes too")
    sub.add_argument("--same", action="append", default=[], metavar="NAME=NAME", help="one class of DATA and of OTHER")
    sub.add_argument("--executor", default="local", choices=["local", "ray"], help="ray: tasks of a Ray cluster")


COMMAND = Command("compare", "Compare methods on the same support images: rows, a table and figures.", run, add)
