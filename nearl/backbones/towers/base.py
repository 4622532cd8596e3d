"""What every tower family offers: a step-through view ``embed`` -> ``block(k)`` ... -> ``pool``.

Shapes: B images, C texts, N vision tokens (prefix tokens first, then the grid row by row), L text tokens, D the width
of a tower, P the width of its pooled features, E that of the joint embedding space. Tensors are batch first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor, nn


class Tower(ABC):
    """A stack of frozen Transformer blocks."""

    blocks: nn.ModuleList
    width: int  # D

    @classmethod
    @abstractmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model has a tower of this family. ``cls(model)`` then is its view."""

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self.blocks)

    @abstractmethod
    def split_attention(self) -> list[nn.Linear]:
        """The linear layers of queries, keys and values of every block, three a block in this order.

        A fused layer is first replaced by three views of its weights, so call this on a shadow's tower only. Raises
        NearlError for an attention that cannot be split.
        """

    @abstractmethod
    def hook(self, k: int, after_attention: Callable, beside_mlp: Callable) -> None:
        """Change block ``k`` of a shadow's tower: attention's output a becomes a + after_attention(a), and the MLP's
        output m for its input x becomes m + beside_mlp(x), [B, L, D] each.

        Of a block whose norms follow the residuals, a is what follows the attention's norm, and m what follows the
        MLP's.
        """

    @abstractmethod
    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """The parameters, as modules and names, of the last projection and of all layer norms from the first block on;
        in a text tower also of the embedding's norm."""


def norm_parameters(*modules: nn.Module | None) -> list[tuple[nn.Module, str]]:
    """The parameters of all layer norms inside modules."""
    inside = [part for module in modules if module is not None for part in module.modules()]
    return _parameters(part for part in inside if isinstance(part, nn.LayerNorm))


def all_parameters(*modules: nn.Module | None) -> list[tuple[nn.Module, str]]:
    """All parameters inside modules."""
    return _parameters(part for module in modules if module is not None for part in module.modules())


def _parameters(parts: Iterable[nn.Module]) -> list[tuple[nn.Module, str]]:
    return [(part, name) for part in parts for name, _ in part.named_parameters(recurse=False)]


class VisionTower(Tower):
    """An image tower."""

    visual: nn.Module  # the whole tower as a module
    grid: tuple[int, int]  # rows and columns of patches
    prefix_tokens: int  # tokens before the patches, such as the class token
    heads: int  # attention heads of a block
    token_pooled: bool  # the class token alone is pooled, so the last block's attention is the last to read patches
    entry_norm: bool  # whether a layer norm follows the embedding, before the first block

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Normalised float pixels [B, 3, H, W] -> tokens [B, N, D] as the first block takes them."""

    def block(self, k: int, x: Tensor) -> Tensor:
        """Tokens [B, N, D] -> tokens [B, N, D] after block ``k``."""
        return self.blocks[k](x)

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the last block -> pooled features [B, P], before the linear projection.

        Where there is no linear projection (none, or an MLP), they are the embeddings themselves.
        """

    @property
    @abstractmethod
    def projection(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [E, P] and bias [E] or None of the projection after ``features``; None where there is none."""

    @abstractmethod
    def pool(self, x: Tensor) -> Tensor:
        """Tokens [B, N, D] after the last block -> image embeddings [B, E], not normalised."""

    @abstractmethod
    def first_norm(self, k: int) -> nn.Module:
        """The norm before the attention of block ``k``."""

    @property
    @abstractmethod
    def attention_pool(self) -> nn.Module | None:
        """The attention that pools the patches; None where the tower pools otherwise."""

    @property
    @abstractmethod
    def cam_layer(self) -> nn.Module:
        """The last module whose output [B, N, D] holds patch tokens that carry gradient.

        Where the class token is pooled that is the norm before the last attention, since nothing reads the patches
        after it; where patches are pooled, it is the last module before the pooling.
        """


@dataclass
class TextState:
    """What text blocks and pooling need beside the features."""

    tokens: Tensor  # int64 [C, L], cut to the longest text where that changes nothing
    mask: Tensor | None  # additive attention mask as the blocks take it
    valid: Tensor  # bool [C, L], True where a token belongs to the text


class TextTower(Tower):
    """A text tower."""

    token_table: Tensor  # [vocabulary, D]

    @abstractmethod
    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """Tokens int64 [C, L] -> (features [C, L', D], state); padding that changes nothing is cut off.

        ``words`` [C, L, D]: vectors to read in place of the tokens' rows in ``token_table``.
        """

    @abstractmethod
    def block(self, k: int, x: Tensor, state: TextState) -> Tensor:
        """Features [C, L, D] -> features [C, L, D] after block ``k``."""

    @abstractmethod
    def pool(self, x: Tensor, state: TextState) -> Tensor:
        """Features [C, L, D] after the last block -> text embeddings [C, E], not normalised."""
