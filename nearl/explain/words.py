"""Which words of the prompts carried a class's score: the same relevance, in the text tower (see relevance.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.backbones import Backbone
from nearl.errors import NearlError
from nearl.explain.capture import Capture
from nearl.explain.maps.relevance import carry
from nearl.explain.trace import Trace
from nearl.methods.shows import Shows
from nearl.train.batches import PromptTokens


@dataclass(frozen=True)
class Words:
    """One prompt's words and the share of the relevance that each carries (they sum to one, or all are 0)."""

    prompt: str
    words: list[str]
    shares: list[float]


def words(trace: Trace, class_index: int, image: int = 0) -> list[Words]:
    """Of each prompt of a class, for one image of the trace: the score is the class's own logit.

    What stands before the first and after the last word (start and end tokens, padding) is left out of the shares. How
    the pooling reads the last tokens is told from the gradient that reaches them (our choice).
    Raises NearlError for a class that is not there, for per-image context, where no prompt stands by itself, and for
    adapters of other methods than NEARL.
    """
    scorer, backbone = trace.scorer, trace.backbone
    if Shows.WORDS not in scorer.method.shows:
        raise NearlError(Shows.WORDS.value.format(title=scorer.method.card.title))
    if not 0 <= class_index < len(scorer.classes):
        raise NearlError(f"There is no class number {class_index + 1} among these prompts.")
    texts = scorer.classifier.prompt_set.texts()[class_index]
    tokens = backbone.tokenize(texts)
    tower = backbone.text
    with torch.no_grad():  # logit / scale = <image, class>; the image's unit embedding is not needed by itself
        image_embedding = _image_embedding(trace, image)
    capture = Capture(dict(enumerate(tower.blocks)), {"last": _last(trace)}, leaf=tower.blocks[0])
    with backbone.lock, torch.enable_grad(), capture as seen:
        embedding = scorer.method.encode_text(PromptTokens(tokens, [len(texts)]))[0]
        weights = [seen.attention[k][0] for k in range(tower.depth)]
        last = seen.outputs["last"][0]
        *grads, end = torch.autograd.grad((image_embedding * embedding).sum(), [*weights, last], allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    readout = torch.linalg.vector_norm(end, dim=-1)
    readout = readout / readout.sum(1, keepdim=True).clamp(min=torch.finfo(readout.dtype).tiny)
    relevance = carry(readout, weights, grads) - readout  # less what the pooling reads directly, the same for all words
    return [_shares(backbone, text, ids, row) for text, ids, row in zip(texts, tokens, relevance, strict=True)]


def _last(trace: Trace):
    tower = trace.backbone.text
    return trace.scorer.method.updates("text").get(tower.depth - 1, tower.blocks[-1])


def _image_embedding(trace: Trace, image: int) -> Tensor:
    pooled = trace.tower.pool(trace.tokens[image : image + 1].detach())
    return F.normalize(pooled.float(), dim=-1)[0]


def _shares(backbone: Backbone, text: str, ids: Tensor, relevance: Tensor) -> Words:
    """Tokens to words: a tokenizer splits at spaces first, so the words' own tokens follow one another."""
    parts = text.split()
    special = set(backbone.tokenize([""])[0].tolist())
    counts = [sum(t not in special for t in row) for row in backbone.tokenize(parts).tolist()]
    inside = [i for i, t in enumerate(ids.tolist()) if t not in special and i < len(relevance)]
    sums, start = [], 0
    for count in counts:
        sums.append(float(relevance[inside[start : start + count]].clamp(min=0).sum()))
        start += count
    total = sum(sums)
    return Words(text, parts, [s / total if total > 0 else 0.0 for s in sums])
