"""``nearl info``."""

from __future__ import annotations

import argparse

from nearl.cli.options import Command, Result, backbone_of, config_options


def run(args: argparse.Namespace) -> Result:
    from nearl.methods.nearl.network import NearlCLIP, NearlConfig

    backbone = backbone_of(args)
    config = NearlConfig.for_backbone(backbone, text_context=args.text_context, orthogonal=not args.no_orthogonal)
    model = NearlCLIP(backbone, config)
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


COMMAND = Command("info", "Count the trainable parameters of NEARL on a backbone.", run, config_options)
