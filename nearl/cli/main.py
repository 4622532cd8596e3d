"""``python -m nearl``: everything the library does, from a shell. What ``--json`` prints is a contract."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict, replace

from nearl import NOTICE
from nearl.cli import compare as cli_compare
from nearl.cli import gap as cli_gap
from nearl.cli import runs as cli_runs
from nearl.cli.parts import (
    adapter_of,
    adapter_options,
    backbone_of,
    config_of,
    config_options,
    metric_lines,
    out_folder,
    prompt_options,
    prompts_of,
    say,
)
from nearl.cli.scans import prediction_lines, read_part, scan_options, seen, volume_options
from nearl.errors import NearlError


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 with one sentence on bad input, 130 if interrupted."""
    args = parser().parse_args(argv)
    logging.getLogger().setLevel(logging.CRITICAL)  # open_clip and the hub client talk; our errors say it in a sentence
    warnings.filterwarnings("ignore")
    try:
        result, lines = args.run(args)
    except NearlError as error:
        sys.exit(_fail(str(error)))
    except KeyboardInterrupt:
        print("nearl: stopped.", file=sys.stderr)
        sys.exit(130)
    try:
        print(json.dumps(result, ensure_ascii=False) if args.json else "\n".join(lines), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if result.get("predictions") and all(row["error"] for row in result["predictions"]):
        sys.exit(_fail("none of the files could be read."))


def _fail(sentence: str) -> int:
    print(f"nearl: {sentence}", file=sys.stderr)
    return 2


# --- commands: each returns (what --json prints, lines for people) --------------------------------------------------


def backbones(args) -> tuple[dict, list[str]]:
    from nearl.backbones import REGISTRY

    rows = [{k: v for k, v in asdict(entry).items() if k != "source"} for entry in REGISTRY.values()]
    for row in rows:
        source = REGISTRY[row["name"]].source
        row["source"] = "in this repository" if source.startswith("local-dir:") else source
    lines = [
        f"{r['name']:16} {'offline' if r['offline'] else 'download':9} {r['description']} ({r['licence']})"
        for r in rows
    ]
    lines += ["", "Any 'hf-hub:owner/model' in open_clip's format with a ViT works too, and 'local-dir:FOLDER'."]
    return {"backbones": rows}, lines


def info(args) -> tuple[dict, list[str]]:
    from nearl.methods.nearl.network import NearlCLIP

    backbone = backbone_of(args)
    model = NearlCLIP(backbone, config_of(args, backbone))
    parts = model.parameters_by_part()
    vision, text = backbone.vision, backbone.text
    about = {
        "name": backbone.name,
        "weights": args.weights,
        "vision": {"depth": vision.depth, "width": vision.width, "grid": list(vision.grid)},
        "text": {"depth": text.depth, "width": text.width},
        "embed_dim": backbone.embed_dim,
        "image_size": list(backbone.image_size),
        "parameters": sum(p.numel() for p in backbone.model.parameters()),
        "config_sha256": backbone.identity["config_sha256"],
    }
    total = sum(parts.values())
    lines = [f"{backbone.name}: {about['parameters']:,} frozen parameters, {total:,} trainable in NEARL"]
    lines += [f"  {name:24} {count:>10,}" for name, count in parts.items()]
    return {"backbone": about, "trainable_parameters": total, "by_part": parts, "config": model.config.to_dict()}, lines


def predict(args) -> tuple[dict, list[str]]:
    from nearl.data.images import decode
    from nearl.reading.classifier import Classifier

    backbone, adapter = backbone_of(args), None
    if args.adapter:
        adapter = adapter_of(args, backbone)
    classifier = Classifier(backbone, prompts_of(args, adapter=adapter), adapter)
    rows, lines = [], []
    for file in args.images:
        try:
            read = [read_part(classifier, seen(record, args), args) for record in decode(file)]
        except NearlError as error:
            rows.append({"file": file, "frozen": None, "adapted": None, "error": str(error)})
            lines.append(str(error))
            continue
        for number, row in enumerate(read, start=1):
            rows.append({"file": file, **({"part": number} if len(read) > 1 else {}), **row, "error": None})
            lines += prediction_lines(rows[-1])
    untaught, unknown = classifier.untaught(), classifier.unknown_words()
    lines += [f"Never taught: {', '.join(untaught)}."] if untaught else []
    if unknown:
        lines.append(f"Not known to this model: {', '.join(unknown)}; choose other words or a larger backbone.")
    return {"predictions": rows, "untaught": untaught, "unknown_words": unknown, "notice": NOTICE}, [*lines, NOTICE]


def explain(args) -> tuple[dict, list[str]]:
    from nearl.data.images import decode_one
    from nearl.explain.report import write_maps
    from nearl.reading.classifier import Classifier

    backbone, adapter = backbone_of(args), None
    record = replace(seen(decode_one(args.image), args), name="image")  # a file's name may be a person's
    if args.adapter:
        adapter = adapter_of(args, backbone)
    classifier = Classifier(backbone, prompts_of(args, adapter=adapter), adapter)
    layer, head = (None if value is None else value - 1 for value in (args.layer, args.head))
    how = {"colours": args.colours, "smooth": not args.patches, "contour": args.contour}
    out = out_folder(args.out)
    result = write_maps(
        classifier, record, args.class_name, out, args.method, args.against, layer, head, args.opacity, **how
    )
    return {"file": args.image, **result, "notice": NOTICE}, [m["png"] for m in result["maps"]] + [NOTICE]


def faithfulness(args) -> tuple[dict, list[str]]:
    from nearl.explain.faithfulness import study, table

    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    methods = args.methods.split(",") if args.methods else None
    backbone, kinds = backbone_of(args), args.kinds.split(",")
    result = study(backbone, kinds, args.images, args.adapter, args.shots, args.curves, methods, args.seed, log)
    return {**result, "notice": NOTICE}, [*table(result), NOTICE]


def evaluate(args) -> tuple[dict, list[str]]:
    from nearl.data.sets.labelled import resolve_splits
    from nearl.measure.evaluate import measure
    from nearl.reading.classifier import Classifier

    backbone, adapter = backbone_of(args), None
    train, test = resolve_splits(args.data)
    data = test or train
    say(problem.reason for problem in data.problems)
    if args.adapter:
        adapter = adapter_of(args, backbone)
    result = measure(Classifier(backbone, prompts_of(args, data=data, adapter=adapter), adapter), data)
    where = "test images" if test else "images"
    return {**result, "notice": NOTICE}, [*metric_lines(result, where), NOTICE]


def pretrain(args) -> tuple[dict, list[str]]:
    from nearl.pretrain import pretrain as train

    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    result = train(args.config, args.out, args.data_root, not args.restart, args.max_minutes, log)
    return result, [f"The backbone is in {args.out}."]


def familiar(args) -> tuple[dict, list[str]]:
    from nearl.pretrain.familiar import note_familiar

    found = note_familiar(args.config, args.folder, args.data_root, lambda line: print(line, file=sys.stderr))
    sets = list(found.names)
    return {"sets": sets, "far": found.far}, [f"{args.folder} now says which images it has learned from."]


def phantoms(args) -> tuple[dict, list[str]]:
    from nearl.data.phantoms.kinds import write_phantom_folder

    write_phantom_folder(out_folder(args.out), args.kind, args.train, args.test, args.seed)
    return {"folder": args.out, "kind": args.kind}, [f"Synthetic {args.kind} images are in {args.out}."]


# --- arguments -------------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="nearl", description=f"NEARL-CLIP on frozen open_clip models. {NOTICE}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run, text: str, model: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        if model:
            sub.add_argument("--backbone", default="embedded", help="a name from `nearl backbones` (default: embedded)")
            sub.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
            sub.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
        return sub

    command(backbones, "List the known backbones.", model=False)

    sub = command(info, "Count the trainable parameters of NEARL on a backbone.")
    config_options(sub)

    sub = command(predict, "Probabilities of the prompts' classes for images, before and after teaching.")
    sub.add_argument("images", nargs="+", metavar="IMG", help="a picture, DICOM, NIfTI, or a folder or zip of them")
    scan_options(sub)
    volume_options(sub)
    prompt_options(sub)
    adapter_options(sub)

    sub = command(explain, "Maps of one class as pictures over the image, before and after teaching.")
    sub.add_argument("image", metavar="IMG")
    sub.add_argument("--class", dest="class_name", required=True, metavar="NAME")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--method", default="gradcam", metavar="NAME", help="one map, or all (default: gradcam)")
    sub.add_argument("--against", metavar="NAME", help="compare with this class (default: with all others)")
    sub.add_argument("--layer", type=int, help="from 1 (default: the method's own choice)")
    sub.add_argument("--head", type=int, help="from 1, for attention (default: the mean)")
    sub.add_argument("--opacity", type=float, default=0.6)
    scan_options(sub)
    sub.add_argument("--colours", default="inferno", choices=["inferno", "viridis", "cividis"])
    sub.add_argument("--patches", action="store_true", help="patch by patch instead of smooth")
    sub.add_argument("--contour", type=float, metavar="Q", help="a line around the patches above this quantile")
    prompt_options(sub)
    adapter_options(sub)

    sub = command(faithfulness, "Measure on phantoms whether maps point at the lesion, against random controls.")
    sub.add_argument("--kinds", default="head_mri,chest_xray,ct_slice,ultrasound,smear,skin", metavar="KIND,...")
    sub.add_argument("--images", type=int, default=200, help="phantoms with a lesion, over all kinds (default: 200)")
    sub.add_argument("--curves", type=int, default=60, help="of these, for deletion, insertion and the slow maps")
    sub.add_argument(
        "--shots", type=int, default=16, help="phantoms per class and kind to teach with, without --adapter"
    )
    sub.add_argument("--methods", metavar="NAME,...", help="default: every map that the model can draw")
    sub.add_argument("--seed", type=int, default=0)
    adapter_options(sub)

    cli_runs.add(command)

    cli_compare.add(command)

    cli_gap.add(command)

    sub = command(
        evaluate, "Measure on the test images of a labelled folder or zip (all images where there is no test/)."
    )
    sub.add_argument("data", metavar="DATA")
    prompt_options(sub)
    adapter_options(sub)

    sub = command(pretrain, "Train the embedded backbone from scratch.", model=False)
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")
    sub.add_argument("--max-minutes", type=float)
    sub.add_argument("--restart", action="store_true", help="do not go on from a checkpoint in DIR")

    sub = command(familiar, "Note beside a pretrained backbone which images it has learned from.", model=False)
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")

    sub = command(phantoms, "Write a labelled folder of synthetic images.", model=False)
    sub.add_argument("kind")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--train", type=int, default=24, help="images per class (default: 24)")
    sub.add_argument("--test", type=int, default=24)
    sub.add_argument("--seed", type=int, default=0)
    return top
