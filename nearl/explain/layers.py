"""How much adapters between the blocks added, layer by layer, and what a method's queries attended to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nearl.errors import NearlError
from nearl.explain.capture import Capture
from nearl.explain.trace import Trace, parts
from nearl.methods.shows import Shows


@dataclass(frozen=True)
class Profile:
    """Means over all tokens, in per cent of their length."""

    vision: dict[int, tuple[float, float]]  # block -> (novel, parallel)
    text: dict[int, tuple[float, float]]  # the same; empty where prompts are read again for every image
    queries: dict[int, list[list[float]]]  # block -> [M][1 + T]: share of attention to the image, then to each source
    classes: list[str]  # the T sources, the classes of the prompts that the queries read


def profile(trace: Trace, image: int = 0) -> Profile:
    """The profile of one image of a trace; the text side is that of the prompts in use.

    Raises NearlError where nothing was added between blocks.
    """
    if not trace.method.updates("vision") and not trace.method.updates("text"):
        raise NearlError("Nothing has been taught yet, so there is nothing that teaching added.")
    count, queries = trace.tokens.shape[1], {}
    for k, weights in trace.query_attention.items():
        w = weights[image]
        queries[k] = torch.cat([w[:, :count].sum(1, keepdim=True), w[:, count:]], 1).tolist()
    vision = {k: (_percent(u.novel[image]), _percent(u.parallel[image])) for k, u in trace.updates.items()}
    text = _text_profile(trace) if Shows.WORDS in trace.method.shows else {}
    return Profile(vision, text, queries, [] if trace.queries is None else list(trace.queries.sources))


@torch.no_grad()
def _text_profile(trace: Trace) -> dict[int, tuple[float, float]]:
    method, backbone = trace.method, trace.backbone
    prompts = method.task.tokens()
    calls = {k: (adapter, parts) for k, adapter in method.updates("text").items()}
    with backbone.lock, Capture({}, calls=calls) as seen:
        _, state = backbone.text.embed(prompts.tokens)
        method.encode_text(prompts)
    return {
        k: (_percent(found[0].novel, state.valid), _percent(found[0].parallel, state.valid))
        for k, found in seen.results.items()
    }


def _percent(x: Tensor, valid: Tensor | None = None) -> float:
    """Mean size, in per cent, of the values that are valid."""
    return 100 * float((x if valid is None else x[valid]).abs().mean())
