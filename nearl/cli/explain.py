"""``nearl explain``."""

from __future__ import annotations

import argparse

from nearl import NOTICE
from nearl.cli.options import (
    Command,
    Result,
    adapter_options,
    classifier_of,
    out_folder,
    prompt_options,
    say,
    scan_options,
    there,
    view_of,
)


def run(args: argparse.Namespace) -> Result:
    there(args.image, "file")

    from dataclasses import replace

    from nearl.data.images import decode_one
    from nearl.explain import MapRequest
    from nearl.explain.report import write_maps

    record = replace(view_of(decode_one(args.image), args), name="image")  # a file's name may be a person's
    layer, head = (None if value is None else value - 1 for value in (args.layer, args.head))
    how = {"colours": args.colours, "smooth": not args.patches, "contour": args.contour}
    classifier, out = classifier_of(args), out_folder(args.out)
    classes = classifier.prompt_set.classes
    request = MapRequest.named(classes, args.class_name, args.method, args.against, layer=layer, head=head)
    result = write_maps(classifier, record, request, out, args.opacity, **how)
    notes = [*record.notes, *classifier.text_notes(), *result["left_out"]]
    say(notes)
    return {"file": args.image, **result, "notes": notes, "notice": NOTICE}, [
        *(m["png"] for m in result["maps"]),
        NOTICE,
    ]


def add(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("image", metavar="IMG")
    sub.add_argument("--class", dest="class_name", required=True, metavar="NAME")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--method", default="gradcam", metavar="NAME", help="one map, or all (default: gradcam)")
    sub.add_argument("--against", metavar="NAME", help="compare with this class (default: with all others)")
    sub.add_argument("--layer", type=int, help="from 1 (default: the map's own choice)")
    sub.add_argument("--head", type=int, help="from 1, for attention (default: the mean)")
    sub.add_argument("--opacity", type=float, default=0.6)
    scan_options(sub)
    sub.add_argument("--colours", default="inferno", choices=["inferno", "viridis", "cividis"])
    sub.add_argument("--patches", action="store_true", help="patch by patch instead of smooth")
    sub.add_argument("--contour", type=float, metavar="Q", help="a line around the patches above this quantile")
    prompt_options(sub)
    adapter_options(sub)


COMMAND = Command("explain", "Maps of one class, drawn over the image, before and after teaching.", run, add)
