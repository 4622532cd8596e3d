"""The tower families: one class each, with one registry line. Nothing outside this package knows their insides.

NEARL adds to the tokens between two blocks of *both* towers, so every family is driven block by block through the view
that `nearl.backbones.towers.base` describes. What depends on open_clip 3.3, timm or transformers is here.
"""

from __future__ import annotations

from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from nearl.backbones.towers.base import TextState, TextTower, VisionTower
from nearl.backbones.towers.bert import HuggingFaceText
from nearl.backbones.towers.huggingface import (
    ClipText,
    ClipVision,
    SiglipText,
    SiglipVision,
    TransformersModel,
)
from nearl.backbones.towers.native import OpenClipText, OpenClipVision
from nearl.backbones.towers.timm_vit import TimmVision
from nearl.errors import NearlError
from nearl.registry import Registry

__all__ = [
    "TEXT_TOWERS",
    "VISION_TOWERS",
    "TextState",
    "TextTower",
    "TransformersModel",
    "VisionTower",
    "is_dual_encoder",
    "text_tower",
    "vision_tower",
]

VISION_TOWERS: Registry[type[VisionTower]] = Registry("image tower")
VISION_TOWERS.register("open_clip", OpenClipVision)
VISION_TOWERS.register("timm", TimmVision)
VISION_TOWERS.register("transformers-clip", ClipVision)
VISION_TOWERS.register("transformers-siglip", SiglipVision)

TEXT_TOWERS: Registry[type[TextTower]] = Registry("text tower")
TEXT_TOWERS.register("open_clip", OpenClipText)
TEXT_TOWERS.register("bert", HuggingFaceText)
TEXT_TOWERS.register("transformers-clip", ClipText)
TEXT_TOWERS.register("transformers-siglip", SiglipText)


def vision_tower(model: nn.Module) -> VisionTower:
    """The view of a model's image tower. Raises NearlError where no family fits."""
    for family in VISION_TOWERS.values():
        if family.fits(model):
            return family(model)  # type: ignore[call-arg]
    kind = type(getattr(model.visual, "trunk", model.visual)).__name__
    raise NearlError(
        f"This model sees with a {kind}, but NEARL adapts the tokens between Transformer blocks, which only a Vision "
        "Transformer has; choose a ViT model such as 'ViT-B-16/openai'."
    )


def text_tower(model: nn.Module) -> TextTower:
    """The view of a model's text tower. Raises NearlError where no family fits."""
    for family in TEXT_TOWERS.values():
        if family.fits(model):
            return family(model)  # type: ignore[call-arg]
    text = getattr(model, "text", model)
    raise NearlError(
        f"This model reads text with a {type(getattr(text, 'transformer', text)).__name__}, whose blocks NEARL cannot "
        "step through; choose a model with a CLIP, SigLIP or BERT text tower."
    )


def is_dual_encoder(model: nn.Module) -> bool:
    """True for open_clip's ``CLIP`` and ``CustomTextCLIP`` and for those of transformers; CoCa, for one, is neither."""
    return isinstance(model, CLIP | CustomTextCLIP | TransformersModel)
