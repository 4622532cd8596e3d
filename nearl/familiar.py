"""Whether other words than the visitor's are closer to an image, for a model that was not taught anything."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

MARGIN = 2.5  # of logits by which the image's closest class has to be closer than any of the classes asked about
BESIDE = 1.0  # and within which of the best set the others are named too (both our choice)


@torch.no_grad()
def closer_sets(
    images: Tensor, classes: Tensor, sets: Mapping[str, Tensor], logit_scale: float, most: int = 3
) -> list[list[str]]:
    """For each of the unit embeddings ``images`` [B, E] the names of up to ``most`` prompt sets that describe it
    clearly better than ``classes`` [C, E] do, the closest first; none where no set does.

    ``sets``: unit class embeddings [C_i, E] by name. A set is as close as the closest of its classes, in logits
    (``logit_scale`` x cosine). It has to lead by `MARGIN`. On 10 images per class of the fourteen sets that come with
    words, asked about with those of brain MRI, the embedded model named another set for all but some clinical skin
    photographs; asked about with their own words, for none of the sets that it was pretrained on.
    """
    if not sets:
        return [[] for _ in images]
    names = list(sets)
    nearest = lambda group: logit_scale * (images @ group.T).amax(1)  # noqa: E731
    leads = torch.stack([nearest(sets[name]) for name in names], 1) - nearest(classes)[:, None]
    found = []
    for lead in leads:
        best = lead.max()
        order = lead.argsort(descending=True)[:most].tolist()
        found.append([names[i] for i in order if best > MARGIN and lead[i] > max(MARGIN, best - BESIDE)])
    return found
