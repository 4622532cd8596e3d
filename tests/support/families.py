"""The tiny models of the tests, a configuration of open_clip or of transformers for every tower family."""

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
    "transformers-clip": {
        "model_type": "clip", "projection_dim": 32,
        "vision_config": {
            "image_size": 32, "patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3,
            "num_attention_heads": 3,
        },
        "text_config": {
            "vocab_size": 1000, "max_position_embeddings": 24, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 2,
        },
    },
    "transformers-siglip": {
        "model_type": "siglip",
        "vision_config": {
            "image_size": 32, "patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "text_config": {
            "vocab_size": 200, "max_position_embeddings": 12, "hidden_size": 40, "intermediate_size": 64,
            "num_hidden_layers": 3, "num_attention_heads": 2, "projection_size": 48,
        },
    },
}  # fmt: skip
