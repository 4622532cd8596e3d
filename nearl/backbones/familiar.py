"""What an untaught model is at home with: whether an image is like those it was pretrained on, and whether another
prompt set describes it better than the visitor's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.stats import binom
from torch import Tensor

from nearl.errors import NearlError

FILE = "familiar.safetensors"  # beside the weights
BROKEN = f"The file {FILE} beside the model"
USUAL = "0.95"  # share of new images of the same kind that must not be called unlike
FEWEST_TO_COMPARE = 19  # distances with which that share can be promised
RIDGE = 0.01  # of the mean variance, added to every variance (our choice)
MARGIN = 2.5  # logits by which another set must be closer to an image than every class asked about (our choice)
BESIDE = 1.0  # logits from the closest set within which other sets are named too (our choice)


def threshold(scores: np.ndarray, coverage: str) -> float:
    """The split-conformal threshold: the ceil((M + 1) c)-th smallest of M scores (Vovk et al. 2005).

    Where M >= c / (1 - c), a new score of the same kind is at most this with probability at least c.
    """
    return float(np.sort(scores)[math.ceil((len(scores) + 1) * Fraction(coverage)) - 1])


def tolerance(scores: np.ndarray) -> float:
    """The smallest of M scores that, with 95 % confidence, 95 % of new scores do not exceed (Wilks 1941).

    A conformal threshold keeps that share on average only, over many draws of the M. Below 59 scores, where no such
    limit can be told, it is the conformal one.
    """
    above = int(binom.ppf(1 - float(USUAL), len(scores), 1 - float(USUAL))) - 1  # so few may be larger
    if above < 0:
        return threshold(scores, USUAL)
    return float(np.sort(scores)[len(scores) - 1 - above])


@dataclass(frozen=True)
class Familiar:
    """Where the images lie that a backbone was pretrained on, to recognise those that are unlike them.

    The distance of an image is the Mahalanobis distance to the nearest mean (Lee et al. 2018, arXiv 1807.03888, who
    take the means of classes).
    """

    names: tuple[str, ...]  # of the S sets of images
    means: Tensor  # float32 [S, E], mean unit image embedding of each set
    whiten: Tensor  # float32 [E, E], takes the mean covariance within a set to the identity
    far: float  # the largest distance that still counts as alike
    mistaken: tuple[int, int] | None = None  # of how many test images of these sets were how many called unlike

    @classmethod
    def fit(cls, groups: Mapping[str, Tensor], held: Tensor) -> Familiar:
        """What fits unit image embeddings [N_s, E] of each set.

        ``held``: embeddings [M, E] of images of these sets that were kept out of training; they alone set the limit
        (`tolerance`).
        """
        means = torch.stack([rows.float().mean(0) for rows in groups.values()])
        covariances = [torch.cov(rows.float().T, correction=0) for rows in groups.values()]
        values, vectors = torch.linalg.eigh(torch.stack(covariances).mean(0))
        whiten = vectors / (values.clamp(min=0) + RIDGE * values.mean()).sqrt()
        found = cls(tuple(groups), means, whiten, 0.0)
        return cls(found.names, means, whiten, tolerance(found.distances(held).numpy()))

    def measured(self, images: Tensor) -> Familiar:
        """The same with the number of mistakes on new images of these sets, unit embeddings [N, E]."""
        return replace(self, mistaken=(int(self.unlike(images).sum()), len(images)))

    def caution(self) -> str:
        """How often familiar images are called unlike, in a sentence."""
        if not self.mistaken or not self.mistaken[1]:
            return "Some familiar images are flagged by mistake."
        wrong, count = self.mistaken
        share = f"{100 * wrong / count:.0f}\u202f%"
        return (
            f"This warning is wrong for {share} of images of the kinds that the model knows "
            f"({wrong} of {count} test images)."
        )

    def distances(self, images: Tensor) -> Tensor:
        """Unit image embeddings [N, E] -> float32 [N]."""
        return self.apart(images).amin(1)

    def apart(self, images: Tensor) -> Tensor:
        """Unit image embeddings [N, E] -> their distances from each set, float32 [N, S]."""
        return torch.cdist(images.float().cpu() @ self.whiten, self.means @ self.whiten)

    def unlike(self, images: Tensor) -> np.ndarray:
        """Unit image embeddings [N, E] -> bool [N]: farther from every set than ``far``."""
        return (self.distances(images) > self.far).numpy()

    def save(self, folder: Path | str, weights: str) -> None:
        """Write it to a backbone's folder. ``weights``: that backbone's ``identity["weights"]``."""
        about = {"names": "\n".join(self.names), "far": str(self.far), "weights": weights}
        about |= {"mistaken": "{} {}".format(*self.mistaken)} if self.mistaken else {}
        tensors = {"means": self.means.contiguous(), "whiten": self.whiten.contiguous()}
        save_file(tensors, Path(folder) / FILE, metadata=about)

    @classmethod
    def load(cls, folder: Path | str, weights: str, width: int) -> Familiar | None:
        """Read what `save` wrote; None where there is nothing, or it belongs to other weights.

        ``width``: E of the backbone. Raises NearlError for a broken file.
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
                counts = tuple(int(number) for number in about.get("mistaken", "").split())
                means, whiten = content.get_tensor("means").float(), content.get_tensor("whiten").float()
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise NearlError(f"{BROKEN} cannot be read; remove it or download it again.") from error
        if means.shape != (len(names), width) or whiten.shape != (width, width):
            raise NearlError(f"{BROKEN} belongs to another model; remove it or download it again.")
        return cls(names, means, whiten, far, counts if len(counts) == 2 else None)


@torch.no_grad()
def closer_sets(
    images: Tensor, classes: Tensor, sets: Mapping[str, Tensor], logit_scale: float, most: int = 3
) -> list[list[str]]:
    """Return, for each image, the names of up to ``most`` prompt sets that describe it clearly better than ``classes``.

    ``images`` [B, E], ``classes`` [C, E] and, by name, ``sets`` [C_i, E] are unit embeddings. The distance of a set is
    that of its closest class in logits (``logit_scale`` x cosine), and it must lead by `MARGIN`. Closest first; empty
    where no set leads.
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


@torch.no_grad()
def fitting_sets(images: Tensor, sets: Mapping[str, Tensor], logit_scale: float) -> list[str]:
    """The names of the prompt sets of the kind of these images, the closest first: those within `BESIDE` logits of the
    closest. Arguments as of `closer_sets`; the distance of a set is the mean over the images."""
    means = {name: float(logit_scale * (images @ classes.T).amax(1).mean()) for name, classes in sets.items()}
    best = max(means.values(), default=0.0)
    return sorted((name for name, value in means.items() if value >= best - BESIDE), key=lambda name: -means[name])
