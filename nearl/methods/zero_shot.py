"""Zero-shot: the frozen model with the class prompts, nothing learned."""

from __future__ import annotations

from nearl.methods.base import Card, Method
from nearl.methods.shows import Shows


class ZeroShot(Method):
    """logits = scale <f, t_c>, t_c the normalised mean of the class's unit prompt embeddings."""

    card = Card(
        "zero-shot",
        "Zero-shot",
        "The frozen model compares an image with the prompts of each class. Several prompts of one class are averaged.",
        "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020",
        "nothing",
    )
    shows = frozenset({Shows.TOKENS, Shows.LINEAR, Shows.WORDS})
