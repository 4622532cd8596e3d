"""What the adapters added: for each token, how much of the update was orthogonal to it (new, and kept) and how much was
parallel (incremental, and taken out), after Peng et al., NEARL-CLIP, arXiv 2508.04101.

All figures are in units of the token's own length, so that layers and towers can be compared (our choice).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nearl.errors import NearlError
from nearl.explain.capture import Capture
from nearl.explain.card import Method
from nearl.methods.shows import Shows

if TYPE_CHECKING:
    from nearl.explain.score import Score
    from nearl.explain.trace import Trace


def _layers(trace: Trace, layer: int | None, part: str):
    updates = trace.updates.values() if layer is None else [trace.updates[layer]]
    stacked = torch.stack([getattr(update, part).abs() for update in updates])
    return trace.to_grid(100 * stacked.mean(0))


def novel(trace: Trace, score: Score, layer: int | None, head: int | None):
    return _layers(trace, layer, "novel")


def parallel(trace: Trace, score: Score, layer: int | None, head: int | None):
    return _layers(trace, layer, "parallel")


_SHARED = {"units": "% of the token's length", "layers": True, "by_class": False, "adapter": True, "same_units": True}
_SHARED["needs"] = (Shows.UPDATES,)
METHODS = (
    Method(
        "novelty",
        "What teaching added",
        novel,
        "How far teaching moved what the model holds of each patch, in directions that were new to it.",
        "It shows where the model was changed, not whether the change speaks for this class.",
        **_SHARED,
    ),
    Method(
        "parallel",
        "What teaching held back",
        parallel,
        "How much of each proposed change only repeated what was already there; NEARL takes this part out.",
        "It shows what was thrown away, so nothing in the answer depends on it directly.",
        **_SHARED,
    ),
)


@dataclass(frozen=True)
class Profile:
    """Layer by layer, the mean over all tokens in per cent of their length: ``vision`` and ``text`` map a block's
    number to (novel, parallel). ``queries``: block -> [M][1 + C], the share of attention that each synergy query gives
    to the image's tokens, then to each taught class's prompts (``classes``)."""

    vision: dict[int, tuple[float, float]]
    text: dict[int, tuple[float, float]]
    queries: dict[int, list[list[float]]]
    classes: list[str]


def profile(trace: Trace, image: int = 0) -> Profile:
    """Of one image of an adapted trace. The text side is that of the prompts in use; with per-image context it has no
    tokens of its own to follow and is left empty.

    Raises NearlError where the trace is of the frozen model.
    """
    if not trace.scorer.adapted or Shows.UPDATES not in trace.scorer.method.shows:
        raise NearlError("Nothing has been taught yet, so there is nothing that teaching added.")
    mean = lambda u, i: (100 * float(u.novel[i].mean()), 100 * float(u.parallel[i].abs().mean()))  # noqa: E731
    count = trace.tokens.shape[1]
    queries = {}
    for k, weights in trace.query_attention.items():
        w = weights[image]
        queries[k] = torch.cat([w[:, :count].sum(1, keepdim=True), w[:, count:]], 1).tolist()
    method = trace.scorer.method
    watched = method.queries()
    vision = {k: mean(update, image) for k, update in trace.updates.items()}
    text = _text_profile(trace) if Shows.WORDS in method.shows else {}
    return Profile(vision, text, queries, watched.sources if watched else list(method.taught.classes))


@torch.no_grad()
def _text_profile(trace: Trace) -> dict[int, tuple[float, float]]:
    method, backbone = trace.scorer.method, trace.backbone
    prompts = method.task.tokens()
    parts = lambda module, args, out: module.parts(args, out)  # noqa: E731
    calls = {k: (adapter, parts) for k, adapter in method.updates("text").items()}
    with backbone.lock, Capture({}, calls=calls) as seen:
        _, state = backbone.text.embed(prompts.tokens)
        method.encode_text(prompts)
    valid = state.valid.float()
    mean = lambda x: 100 * float((x.abs() * valid).sum() / valid.sum())  # noqa: E731
    return {k: (mean(found[0].novel), mean(found[0].parallel)) for k, found in seen.results.items()}
