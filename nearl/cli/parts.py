"""What several commands share: options, and what is made of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from nearl.errors import NearlError


def prompt_options(sub: argparse.ArgumentParser) -> None:
    """--prompts."""
    sub.add_argument("--prompts", metavar="FILE", help="a prompt set, JSON or YAML")


def adapter_options(sub: argparse.ArgumentParser) -> None:
    """--adapter."""
    sub.add_argument("--adapter", metavar="DIR", help="an adapter folder or zip, or what finetune wrote")


def config_options(sub: argparse.ArgumentParser) -> None:
    """--text-context and --no-orthogonal."""
    sub.add_argument("--text-context", default="support", choices=["support", "image"])
    sub.add_argument("--no-orthogonal", action="store_true", help="add the whole update, not its orthogonal part")


def backbone_of(args):
    from nearl.backbones import load_backbone

    return load_backbone(args.backbone, args.device, args.weights)


def adapter_of(args, backbone):
    from nearl.adapters.store import load_adapter

    return load_adapter(args.adapter, backbone.identity)


def config_of(args, backbone):
    from nearl.methods.nearl.network import NearlConfig

    return NearlConfig.for_backbone(backbone, text_context=args.text_context, orthogonal=not args.no_orthogonal)


def prompts_of(args, data=None, adapter=None):
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


def out_folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NearlError(f"'{path}' cannot be used as an output folder: {error.strerror}.") from error
    return folder


def say(sentences: Iterable[str]) -> None:
    """What a person should know besides the result, on stderr."""
    for sentence in sentences:
        print(f"nearl: {sentence}", file=sys.stderr)


def metric_lines(metrics: dict | None, where: str) -> list[str]:
    """Balanced accuracy before and after teaching, of `nearl.measure.evaluate.measure` or `study`."""
    if metrics is None or not metrics["n"]:
        return ["No images were left over to measure on."]
    lines = []
    for name, figures in (("before teaching", metrics["frozen"]), ("after teaching", metrics["adapted"])):
        if figures is None:
            continue
        value, (low, high) = figures["balanced_accuracy"], figures["balanced_accuracy_interval"]
        said = "too few images to say" if value is None else f"{value:.1%}"
        lines.append(
            f"{name}: balanced accuracy {said} (95 % interval {low:.0%} to {high:.0%}) on {metrics['n']} {where}"
        )
    return lines
