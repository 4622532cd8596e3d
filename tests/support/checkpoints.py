"""Tiny checkpoints of every tower family, with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from tests.support.families import BERT, FAMILIES
from tests.support.tokenizers import write_clip_tokenizer, write_siglip_tokenizer


@register_model
def nearl_test_map_vit(pretrained=False, **kwargs):
    """SigLIP's layout: no class token, attention pooling."""
    kwargs = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
    model = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=2, class_token=False, **kwargs
    )
    model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 0}
    return model


@register_model
def nearl_test_token_vit(pretrained=False, **kwargs):
    """BiomedCLIP's layout: class token."""
    kwargs = {k: v for k, v in kwargs.items() if k in ("num_classes", "global_pool")}
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=4, num_heads=2, **kwargs)
    model.default_cfg = {"input_size": (3, 32, 32), "num_classes": 0}
    return model


WORDS = ("a", "of", "the", "scan", "brain", "chest", "x", "ray", "lung", "mri", "normal", "tumor", "no", "sign", "in",
         "pneumonia", "glioma", "one", "two", "medical", "image")  # fmt: skip


def write_checkpoint(folder: Path, family: str, seed: int = 0, portable: bool = False) -> Path:
    """A folder in open_clip's or transformers' format with random weights, and what its tokenizer needs.

    ``portable``: weights from ``numpy.random.RandomState``, whose stream never changes, so that every version of torch
    and open_clip writes the same numbers (for `tests.fixtures`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "model_type" in FAMILIES[family]:
        return write_transformers(folder, FAMILIES[family], seed)
    config = {"model_cfg": FAMILIES[family], "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    options = {}
    if "hf_model_name" in FAMILIES[family]["text_cfg"]:
        (folder / "config.json").write_text(json.dumps(BERT))
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
        text = {**FAMILIES[family]["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}
        options["text_cfg"] = text
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, **options)
    with torch.no_grad():
        draw = np.random.RandomState(seed).standard_normal
        for name, parameter in sorted(model.named_parameters()) if portable else ():
            if parameter.ndim:
                size = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.02
                offset = float(parameter.ndim == 1 and name.endswith("weight"))
                parameter.copy_(torch.from_numpy(offset + size * draw(tuple(parameter.shape))))
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:  # far from the near-identity of fresh weights
                parameter.mul_(2.0)
    save_file(
        {k: v.contiguous().clone() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def write_transformers(folder: Path, settings: dict, seed: int = 0) -> Path:
    """A folder in transformers' format, as `save_pretrained` writes it, with random weights."""
    import transformers

    kind = {"clip": "CLIP", "siglip": "Siglip"}[settings["model_type"]]
    ends = {}
    if kind == "CLIP":
        ends = write_clip_tokenizer(folder, WORDS)
    else:
        write_siglip_tokenizer(folder, WORDS)
    config = getattr(transformers, f"{kind}Config")(**{**settings, "text_config": {**settings["text_config"], **ends}})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embedding" not in name:
                parameter.mul_(2.0)
        if kind == "Siglip":
            model.logit_scale.fill_(3.0)
            model.logit_bias.fill_(-4.0)
    model.save_pretrained(folder)
    size = {"size": {"height": 32, "width": 32}, "resample": 2}
    if kind == "CLIP":
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    getattr(transformers, f"{kind}ImageProcessor")(**size).save_pretrained(folder)
    return folder
