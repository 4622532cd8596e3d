"""Which words of the prompts carried a class's score: relevance (see maps/relevance.py) in the text tower."""

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
    """One prompt and its words."""

    prompt: str
    words: list[str]
    shares: list[float]  # of the relevance, one for each word; they sum to one, or all are 0


def words(trace: Trace, class_index: int, image: int = 0) -> list[Words]:
    """The words of each prompt of a class, for one image of the trace; the score is the class's own logit.

    What is before the first and after the last word (start and end tokens, padding) is left out of the shares. How the
    pooling reads the last tokens is taken from the gradient that reaches them (our choice). Raises NearlError for a
    class that is not there, and for a method that does not show ``Shows.WORDS``.
    """
    method, backbone, tower = trace.method, trace.backbone, trace.backbone.text
    if Shows.WORDS not in method.shows:
        raise NearlError(Shows.WORDS.value.format(title=method.card.title))
    if not 0 <= class_index < len(trace.scorer.classes):
        raise NearlError(f"There is no class number {class_index + 1} among these prompts.")
    texts = method.task.prompt_set.texts()[class_index]
    tokens = backbone.tokenize(texts)
    with torch.no_grad():  # logit / scale = <image, class>
        image_embedding = F.normalize(trace.tower.pool(trace.tokens[image : image + 1].detach()).float(), dim=-1)[0]
    last = method.updates("text").get(tower.depth - 1, tower.blocks[-1])
    capture = Capture(dict(enumerate(tower.blocks)), {"last": last}, leaf=tower.blocks[0])
    with backbone.lock, torch.enable_grad(), capture as seen:
        embedding = method.encode_text(PromptTokens(tokens, [len(texts)]))[0]
        weights = [seen.attention[k][0] for k in range(tower.depth)]
        read = [*weights, seen.outputs["last"][0]]
        *grads, end = torch.autograd.grad((image_embedding * embedding).sum(), read, allow_unused=True)
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)]
    readout = torch.linalg.vector_norm(end, dim=-1)
    readout = readout / readout.sum(1, keepdim=True).clamp(min=torch.finfo(readout.dtype).tiny)
    relevance = carry(readout, weights, grads) - readout  # less what the pooling reads directly, the same for all words
    return [_shares(backbone, text, ids, row) for text, ids, row in zip(texts, tokens, relevance, strict=True)]


def _shares(backbone: Backbone, text: str, ids: Tensor, relevance: Tensor) -> Words:
    """Relevance of tokens -> shares of words; a tokenizer splits at spaces first, so a word's tokens are adjacent."""
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
