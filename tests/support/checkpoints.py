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


VISION = {"image_size": 32, "layers": 3, "width": 48, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
BERT = {
    "model_type": "bert", "vocab_size": 200, "hidden_size": 40, "num_hidden_layers": 6, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 40, "pad_token_id": 0,
}  # fmt: skip
TIMM = {"timm_model_pretrained": False, "image_size": 32}
# Depths differ between the towers, in both directions, and widths always.
FAMILIES = {
    "clip": {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT},
    "clip-quickgelu": {
        "embed_dim": 32, "quick_gelu": True, "vision_cfg": {**VISION, "layers": 2}, "text_cfg": {**TEXT, "layers": 5},
    },
    "custom-text": {"embed_dim": 32, "custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "biomedclip": {
        "embed_dim": 32,
        "vision_cfg": {**TIMM, "timm_model_name": "nearl_test_token_vit", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {
            "hf_model_name": "somebody/bert", "hf_tokenizer_name": "somebody/bert", "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 40,
        },
    },
    "bert-pooler": {
        "embed_dim": 32,
        "vision_cfg": {**TIMM, "timm_model_name": "nearl_test_token_vit", "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": {
            "hf_model_name": "somebody/bert", "hf_tokenizer_name": "somebody/bert", "hf_proj_type": "linear",
            "hf_pooler_type": "cls_pooler", "context_length": 40,
        },
    },
    "siglip": {
        "embed_dim": 48, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {**TIMM, "timm_model_name": "nearl_test_map_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            **TEXT, "context_length": 12, "layers": 3, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        },
    },
}  # fmt: skip
WORDS = ("a", "of", "the", "scan", "brain", "chest", "x", "ray", "lung", "mri", "normal", "tumor", "no", "sign", "in",
         "pneumonia", "glioma", "one", "two", "medical", "image")  # fmt: skip


def write_checkpoint(folder: Path, family: str, seed: int = 0, portable: bool = False) -> Path:
    """A folder in open_clip's format with random weights, and what its tokenizer needs.

    ``portable``: weights from ``numpy.random.RandomState``, whose stream never changes, so that every version of torch
    and open_clip writes the same numbers (for `tests.fixtures`).
    """
    folder.mkdir(parents=True, exist_ok=True)
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
