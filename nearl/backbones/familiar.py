"""What a model that was not taught anything is at home with: whether an image is like those it was pretrained on, and
whether other words than the visitor's are closer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nearl.errors import NearlError
from nearl.reading.trust import USUAL, threshold

FILE = "familiar.safetensors"  # beside the weights
BROKEN = f"The file {FILE} beside the model"
RIDGE = 0.01  # of the mean variance, added to every variance (our choice)
MARGIN = 2.5  # of logits by which the image's closest class has to be closer than any of the classes asked about
BESIDE = 1.0  # and within which of the best set the others are named too (both our choice)


@dataclass(frozen=True)
class Familiar:
    """Where the images lie that a backbone was pretrained on, to tell those that are unlike them.

    names: the sets [S]. means float32 [S, E]: of their unit image embeddings. whiten float32 [E, E]: takes the
    covariance within a set, averaged over the sets, to the identity. far: the largest distance still called alike.
    An image's distance is the Mahalanobis distance to the nearest mean (Lee et al. 2018, arXiv 1807.03888; there of
    classes).
    """

    names: tuple[str, ...]
    means: Tensor
    whiten: Tensor
    far: float

    @classmethod
    def fit(cls, groups: Mapping[str, Tensor], held: Tensor) -> Familiar:
        """``groups``: unit image embeddings [N_s, E] of each set; ``held``: [M, E] of images of these sets that were
        not learned from, of which 95 % are to be called alike."""
        means = torch.stack([rows.float().mean(0) for rows in groups.values()])
        covariances = [torch.cov(rows.float().T, correction=0) for rows in groups.values()]
        values, vectors = torch.linalg.eigh(torch.stack(covariances).mean(0))
        whiten = vectors / (values.clamp(min=0) + RIDGE * values.mean()).sqrt()
        found = cls(tuple(groups), means, whiten, 0.0)
        return cls(found.names, means, whiten, threshold(found.distances(held).numpy(), USUAL))

    def distances(self, images: Tensor) -> Tensor:
        """Unit image embeddings [N, E] -> float32 [N]."""
        return torch.cdist(images.float().cpu() @ self.whiten, self.means @ self.whiten).amin(1)

    def unlike(self, images: Tensor) -> np.ndarray:
        """Unit image embeddings [N, E] -> bool [N]: farther from every set than ``far``."""
        return (self.distances(images) > self.far).numpy()

    def save(self, folder: Path | str, weights: str) -> None:
        """``weights``: the fingerprint of the backbone that it holds for, `Backbone.identity["weights"]`."""
        about = {"names": "\n".join(self.names), "far": str(self.far), "weights": weights}
        tensors = {"means": self.means.contiguous(), "whiten": self.whiten.contiguous()}
        save_file(tensors, Path(folder) / FILE, metadata=about)

    @classmethod
    def load(cls, folder: Path | str, weights: str, width: int) -> Familiar | None:
        """What `save` wrote; None where there is nothing, or it holds for other weights. NearlError for a broken file.

        ``width``: E of the backbone.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as content:
                about = content.metadata() or {}
                if about.get("weights") != weights:
                    return None
                names, far = tuple(about["names"].split("\n")), float(about["far"])
                means, whiten = content.get_tensor("means").float(), content.get_tensor("whiten").float()
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise NearlError(f"{BROKEN} cannot be read; take it away or fetch it again.") from error
        if means.shape != (len(names), width) or whiten.shape != (width, width):
            raise NearlError(f"{BROKEN} is of another model; take it away or fetch it again.")
        return cls(names, means, whiten, far)


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
