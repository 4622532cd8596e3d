"""What a method lets maps see of how it reads. Maps name what they need; a method answers what it can show."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from torch import Tensor, nn


class Shows(Enum):
    """One thing that a method can show. The value says why not where it cannot, with the names of map and method."""

    TOKENS = "No map can be drawn of {title}, which adds tokens of its own to the image's; see the map before teaching."
    """The image tower's tokens are the patches of the image, in their places."""
    LINEAR = "“{name}” needs a score that is a sum over the patches, which that of {title} is not; choose another map."
    """A logit is a linear function of the tower's pooled tokens, scaled to unit length, and a constant."""
    UPDATES = "“{name}” shows what adapters between the blocks add, and {title} has none; choose another map."
    """``Method.updates("vision")`` is not empty."""
    WORDS = "The words' shares cannot be told apart with {title}."
    """A class embedding is read from the tokens of its prompts alone, in their places, by ``Method.encode_text``."""


class Update(NamedTuple):
    """One adapter's update of each token, as shares of the token's length."""

    novel: Tensor  # float32 [B, N], what was added at a right angle to the token
    parallel: Tensor  # float32 [B, N], what was proposed along it and removed; above zero: in the same direction


class Queries(NamedTuple):
    """Where the attention of a method's queries is computed, once a step."""

    module: nn.Module  # gives weights [B, heads x M, N + T], over the image's N tokens and then T ``sources``
    steps: list[int | None]  # for each step the vision block that it follows; None: it follows a text block alone
    heads: int
    sources: list[str]  # what is attended to after the image's tokens
