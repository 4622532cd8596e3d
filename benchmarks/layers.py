"""Where the time of one layer goes: the frozen block, and what NEARL adds after it.

``PYTHONPATH=. python benchmarks/layers.py [--backbone NAME --weights random]``

The smallest processor time of each part over some rounds, in milliseconds: an image layer in reading (all patches,
float32), and an image and a text layer in a training step, forward and backward, as the training loop runs them (half
of the patches, bf16 where it is fast). "queries" contains the projection of the tokens, and the products of weights
that all layers of a pass share; "added" is norm, queries and adapter together. "floor" is what NEARL's large products
(into the USEformer, and into and out of the adapter's rank) would add if they ran at the speed of the block's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from nearl.backbones import Backbone, load_backbone
from nearl.methods.nearl.network import NearlCLIP
from nearl.methods.nearl.oca import token_norm
from nearl.train.loop import autocast
from nearl.train.recipe import Recipe

K = 1  # the number of the layer


def least(work: Callable[[], Tensor], back: bool, context: Callable, rounds: int) -> float:
    """Milliseconds of processor time."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        with context():
            out = work()
        if back:
            out.float().sum().backward()
        spent.append(time.process_time() - began)
    return round(1000 * min(spent), 2)


def parts(backbone: Backbone, side: str, tokens: Tensor, back: bool, rounds: int) -> dict:
    """Milliseconds of the parts of a layer for tokens [B, N, D]."""
    network, tower = NearlCLIP(backbone), getattr(backbone, side)
    use, oca = network.useformer, getattr(network, f"oca_{side}")[str(K)]
    torch.nn.init.normal_(oca.w_o.weight, std=0.02)
    other = torch.randn(1, 2, backbone.text.width)
    state = backbone.text.embed(backbone.tokenize(["a scan of the head"] * len(tokens)))[1]
    run = tower.blocks[K] if side == "vision" else lambda x: tower.block(K, x, state)
    project, out = (use.in_vision, use.to_vision) if side == "vision" else (use.in_text, use.to_text)

    def queries(normed: Tensor) -> Tensor:
        s, shared = use.start(len(tokens))
        read = {"vision": normed, "text": other} if side == "vision" else {"text": normed}
        return out(use.step(K, s, shared, **read))

    f, normed = tokens.requires_grad_(back), token_norm(tokens.detach()).requires_grad_(back)
    z = torch.randn(len(tokens), 8, tower.width, requires_grad=back)

    def layer() -> Tensor:
        normed = token_norm(f)
        return oca(f, queries(normed), normed)

    names = {
        "block": lambda: run(f), "norm": lambda: token_norm(f), "projection": lambda: project(normed),
        "queries": lambda: queries(normed), "adapter": lambda: oca(f, z, normed), "added": layer,
    }  # fmt: skip

    def context():
        return autocast(backbone, Recipe()) if back else contextlib.nullcontext()

    with torch.set_grad_enabled(back):
        found = {name: least(work, back, context, rounds) for name, work in names.items()}
    products = tower.width * (project.out_features + 3 * oca.w_q.out_features)
    block = 12 * tower.width**2 + 2 * tokens.shape[1] * tower.width
    return found | {
        "added_over_block": round(found["added"] / found["block"], 3),
        "floor": round(products / block, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    backbone = load_backbone(args.backbone, weights=args.weights)
    vision, text = backbone.vision, backbone.text
    count = vision.grid[0] * vision.grid[1] + vision.prefix_tokens
    length = len(text.embed(backbone.tokenize(["a scan of the head"]))[0][0])
    for side, what, shape, back in (
        ("vision", "reading", (args.batch, count, vision.width), False),
        ("vision", "step", (args.batch, count // 2, vision.width), True),
        ("text", "step", (4, length, text.width), True),
    ):
        row = {"backbone": args.backbone, "layer": side, "of": what, "tokens": list(shape[:2])}
        print(json.dumps(row | parts(backbone, side, torch.randn(shape), back, args.rounds)), flush=True)
