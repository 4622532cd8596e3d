"""``python -m nearl``: everything the library does, from a shell. What ``--json`` prints is a contract."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from dataclasses import asdict, replace
from pathlib import Path

from nearl import NOTICE
from nearl.cli_scans import prediction_lines, read_part, scan_options, seen, volume_options
from nearl.errors import NearlError

HELD_OUT_PER_CLASS = 40
HELD_OUT_FRACTION = 0.25


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
    from nearl.model import NearlCLIP

    backbone = _backbone(args)
    model = NearlCLIP(backbone, _config(args, backbone))
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
    from nearl.classifier import Classifier
    from nearl.data.images import decode

    backbone, adapter = _backbone(args), None
    if args.adapter:
        adapter = _adapter(args, backbone)
    classifier = Classifier(backbone, _prompts(args, adapter=adapter), adapter)
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
    from nearl.classifier import Classifier
    from nearl.data.images import decode_one
    from nearl.explain.report import write_maps

    backbone, adapter = _backbone(args), None
    record = replace(seen(decode_one(args.image), args), name="image")  # a file's name may be a person's
    if args.adapter:
        adapter = _adapter(args, backbone)
    classifier = Classifier(backbone, _prompts(args, adapter=adapter), adapter)
    layer, head = (None if value is None else value - 1 for value in (args.layer, args.head))
    how = {"colours": args.colours, "smooth": not args.patches, "contour": args.contour}
    out = _folder(args.out)
    result = write_maps(
        classifier, record, args.class_name, out, args.method, args.against, layer, head, args.opacity, **how
    )
    return {"file": args.image, **result, "notice": NOTICE}, [m["png"] for m in result["maps"]] + [NOTICE]


def faithfulness(args) -> tuple[dict, list[str]]:
    from nearl.explain.faithfulness import study, table

    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    methods = args.methods.split(",") if args.methods else None
    backbone, kinds = _backbone(args), args.kinds.split(",")
    result = study(backbone, kinds, args.images, args.adapter, args.shots, args.curves, methods, args.seed, log)
    return {**result, "notice": NOTICE}, [*table(result), NOTICE]


def finetune(args) -> tuple[dict, list[str]]:
    from nearl.classifier import Classifier
    from nearl.data.labelled import resolve_splits
    from nearl.data.splits import draw_support, hold_out
    from nearl.evaluate import measure
    from nearl.finetune import Recipe
    from nearl.finetune import finetune as teach
    from nearl.store import save_adapter

    out = _folder(args.out)
    backbone = _backbone(args)
    data, _ = resolve_splits(args.data)
    _report(data.problems)
    if args.shots is not None:
        chosen = draw_support(data.labels, args.shots, args.seed)
        rest = data.subset(sorted(set(range(len(data))) - set(chosen)))
        held = rest.subset(draw_support(rest.labels, HELD_OUT_PER_CLASS, args.seed)) if len(rest) else rest
    else:
        chosen, kept = hold_out(data.labels, args.hold_out, args.seed)
        held = data.subset(kept)
    support = data.subset(chosen)
    prompt_set = _prompts(args, data=data).for_classes(data.classes)
    changes = {k: v for k, v in {"steps": args.steps, "lr": args.lr}.items() if v is not None}
    recipe = Recipe.preset(args.preset, seed=args.seed, **changes)
    started = time.monotonic()
    with _Progress(recipe.steps) as bar:
        for progress in teach(backbone, support, prompt_set, _config(args, backbone), recipe):
            bar.show(progress)
    seconds = time.monotonic() - started
    adapter = progress.adapter
    if set(held.labels) == set(range(len(data.classes))):
        adapter.meta["metrics"] = measure(Classifier(backbone, prompt_set, adapter), held)
    save_adapter(adapter, out)
    result = {
        "adapter": str(out),
        "method": adapter.meta["method"],
        "shots": args.shots,
        "seed": args.seed,
        "support_counts": support.counts(),
        "trainable_parameters": sum(value.numel() for value in adapter.state.values()),
        "seconds": round(seconds, 2),
        "held_out": adapter.meta["metrics"],
        "notice": NOTICE,
    }
    lines = [f"Taught {len(support)} images in {seconds:.0f} s; the adapter is in {out}."]
    return result, [*lines, *_metric_lines(adapter.meta["metrics"], "held-out images"), NOTICE]


def evaluate(args) -> tuple[dict, list[str]]:
    from nearl.classifier import Classifier
    from nearl.data.labelled import resolve_splits
    from nearl.evaluate import measure

    backbone, adapter = _backbone(args), None
    train, test = resolve_splits(args.data)
    data = test or train
    _report(data.problems)
    if args.adapter:
        adapter = _adapter(args, backbone)
    result = measure(Classifier(backbone, _prompts(args, data=data, adapter=adapter), adapter), data)
    where = "test images" if test else "images"
    return {**result, "notice": NOTICE}, [*_metric_lines(result, where), NOTICE]


def pretrain(args) -> tuple[dict, list[str]]:
    from nearl.pretrain import pretrain as train

    log = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    result = train(args.config, args.out, args.data_root, not args.restart, args.max_minutes, log)
    return result, [f"The backbone is in {args.out}."]


def phantoms(args) -> tuple[dict, list[str]]:
    from nearl.data.phantoms import write_phantom_folder

    write_phantom_folder(_folder(args.out), args.kind, args.train, args.test, args.seed)
    return {"folder": args.out, "kind": args.kind}, [f"Synthetic {args.kind} images are in {args.out}."]


# --- shared pieces ---------------------------------------------------------------------------------------------------


def _backbone(args):
    from nearl.backbones import load_backbone

    return load_backbone(args.backbone, args.device, args.weights)


def _adapter(args, backbone):
    from nearl.store import load_adapter

    return load_adapter(args.adapter, backbone.identity)


def _config(args, backbone):
    from nearl.model import NearlConfig

    return NearlConfig.for_backbone(backbone, text_context=args.text_context, orthogonal=not args.no_orthogonal)


def _prompts(args, data=None, adapter=None):
    """--prompts FILE, else prompts.json in DATA, else the adapter's, else the class names through a template."""
    from nearl.prompts import PromptSet, default_prompts

    if args.prompts:
        return PromptSet.load(args.prompts)
    if data is not None and data.prompts is not None:
        return PromptSet.from_dict(data.prompts)
    if adapter is not None:
        return PromptSet.from_dict(adapter.meta["prompts"])
    if data is not None:
        return default_prompts(data.classes)
    raise NearlError("Say what to look for: give --prompts FILE, or --adapter DIR with prompts of its own.")


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearlError(f"'{path}' cannot be used as an output folder: {error.strerror}.") from error
    return folder


def _report(problems) -> None:
    for problem in problems:
        print(f"nearl: {problem.reason}", file=sys.stderr)


def _metric_lines(metrics: dict | None, where: str) -> list[str]:
    if metrics is None:
        return ["No images were left over to measure on."]
    rows = (("before teaching", metrics["frozen"]), ("after teaching", metrics["adapted"]))
    return [
        f"{name}: balanced accuracy {m['balanced_accuracy']:.1%} (95 % interval "
        f"{m['balanced_accuracy_interval'][0]:.0%} to {m['balanced_accuracy_interval'][1]:.0%}) on {m['n']} {where}"
        for name, m in rows
        if m
    ]


class _Progress:
    """A bar on a terminal, else a line now and then; always on stderr."""

    def __init__(self, total: int):
        self.total, self.bar = total, None

    def __enter__(self):
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.total, unit="step", file=sys.stderr)
        return self

    def show(self, progress) -> None:
        if self.bar is not None:
            self.bar.update()
            self.bar.set_postfix(loss=f"{progress.loss:.3f}")
        elif progress.step % max(self.total // 10, 1) == 0 or progress.step == self.total:
            left = f"{progress.seconds_left:.0f} s left"
            print(f"step {progress.step}/{self.total}  loss {progress.loss:.3f}  {left}", file=sys.stderr, flush=True)

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()


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

    def prompts(sub) -> None:
        sub.add_argument("--prompts", metavar="FILE", help="a prompt set, JSON or YAML")

    def adapter(sub) -> None:
        sub.add_argument("--adapter", metavar="DIR", help="an adapter folder or zip")

    def config(sub) -> None:
        sub.add_argument("--text-context", default="support", choices=["support", "image"])
        sub.add_argument("--no-orthogonal", action="store_true", help="add the whole update, not its orthogonal part")

    command(backbones, "List the known backbones.", model=False)

    sub = command(info, "Count the trainable parameters of NEARL on a backbone.")
    config(sub)

    sub = command(predict, "Probabilities of the prompts' classes for images, before and after teaching.")
    sub.add_argument("images", nargs="+", metavar="IMG", help="a picture, DICOM, NIfTI, or a folder or zip of them")
    scan_options(sub)
    volume_options(sub)
    prompts(sub)
    adapter(sub)

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
    prompts(sub)
    adapter(sub)

    sub = command(faithfulness, "Measure on phantoms whether maps point at the lesion, against random controls.")
    sub.add_argument("--kinds", default="head_mri,chest_xray,ct_slice,ultrasound,smear,skin", metavar="KIND,...")
    sub.add_argument("--images", type=int, default=200, help="phantoms with a lesion, over all kinds (default: 200)")
    sub.add_argument("--curves", type=int, default=60, help="of these, for deletion, insertion and the slow maps")
    sub.add_argument(
        "--shots", type=int, default=16, help="phantoms per class and kind to teach with, without --adapter"
    )
    sub.add_argument("--methods", metavar="NAME,...", help="default: every map that the model can draw")
    sub.add_argument("--seed", type=int, default=0)
    adapter(sub)

    sub = command(finetune, "Teach an adapter from a folder or zip of labelled images.")
    sub.add_argument("data", metavar="DATA", help="folder or zip with train/<class>/ or just <class>/ folders")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--shots", type=int, help="images per class to teach with (default: all but the held-out ones)")
    sub.add_argument("--hold-out", type=float, default=HELD_OUT_FRACTION, help="held-out share without --shots")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--preset", default="balanced", choices=["quick", "balanced", "thorough"])
    sub.add_argument("--steps", type=int)
    sub.add_argument("--lr", type=float)
    prompts(sub)
    config(sub)

    sub = command(
        evaluate, "Measure on the test images of a labelled folder or zip (all images where there is no test/)."
    )
    sub.add_argument("data", metavar="DATA")
    prompts(sub)
    adapter(sub)

    sub = command(pretrain, "Train the embedded backbone from scratch.", model=False)
    sub.add_argument("config", metavar="CONFIG")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--data-root", metavar="DIR")
    sub.add_argument("--max-minutes", type=float)
    sub.add_argument("--restart", action="store_true", help="do not go on from a checkpoint in DIR")

    sub = command(phantoms, "Write a labelled folder of synthetic images.", model=False)
    sub.add_argument("kind")
    sub.add_argument("--out", required=True, metavar="DIR")
    sub.add_argument("--train", type=int, default=24, help="images per class (default: 24)")
    sub.add_argument("--test", type=int, default=24)
    sub.add_argument("--seed", type=int, default=0)
    return top
