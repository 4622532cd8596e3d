"""Every tower family, stepped block by block, against its own encode_image and encode_text."""

import shutil
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F

from nearl.backbones import REGISTRY, load_backbone
from nearl.backbones.registry import best_device
from nearl.backbones.towers import VISION_TOWERS, vision_tower
from nearl.backbones.towers.timm_vit import TimmVision
from nearl.errors import NearlError
from tests.support.checkpoints import FAMILIES

TEXTS = ["a brain mri of a glioma", "chest x ray", "no sign of pneumonia in the lung scan", "normal"]


@torch.no_grad()
def test_stepping_equals_encode_image(backbone):
    images = torch.randn(3, 3, *backbone.image_size)
    x = backbone.vision.embed(images)
    for k in range(backbone.vision.depth):
        x = backbone.vision.block(k, x)
    assert x.shape == (3, backbone.vision.prefix_tokens + 16, backbone.vision.width)
    assert backbone.vision.grid == (4, 4)
    torch.testing.assert_close(backbone.vision.pool(x), backbone.model.encode_image(images), atol=1e-5, rtol=0)


@torch.no_grad()
def test_stepping_trimmed_text_equals_encode_text(backbone):
    tokens = backbone.tokenize(TEXTS)
    expected = backbone.model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(backbone.encode_text(tokens), expected, atol=1e-5, rtol=0)
    alone = torch.cat([backbone.encode_text(row[None]) for row in tokens])
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_in_place_of_torchs_own_gives_the_same_and_the_same_gradients(checkpoints, fused):
    backbone = load_backbone(f"local-dir:{checkpoints('clip')}")
    original = open_clip.create_model(backbone.name).eval()
    images, tokens = torch.randn(3, 3, *backbone.image_size), backbone.tokenize(TEXTS)
    for block in (*backbone.vision.blocks, *backbone.text.blocks):
        assert not isinstance(block.attn, torch.nn.MultiheadAttention)
        block.attn.fused_attn = fused
    found = []
    for model in (original, backbone.model):
        seen = images.clone().requires_grad_()
        model.encode_image(seen).square().sum().backward()
        found.append((model.encode_image(images), seen.grad, model.encode_text(tokens)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_padding_is_cut_where_that_is_exact(tiny):
    for family, cut in (("clip", True), ("custom-text", True), ("biomedclip", True), ("siglip", False)):
        backbone = tiny(family)
        tokens = backbone.tokenize(["chest x ray"])
        _, state = backbone.text.embed(tokens)
        assert (state.tokens.shape[1] < tokens.shape[1]) == cut
        assert state.valid.all()


def test_backbone_is_frozen_and_in_eval_mode(backbone):
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_identity_tells_weights_and_configurations_apart(tmp_path, checkpoints):
    from tests.support.checkpoints import write_checkpoint

    first = load_backbone(f"local-dir:{checkpoints('clip')}").identity
    again = load_backbone(f"local-dir:{shutil.copytree(checkpoints('clip'), tmp_path / 'copy')}").identity
    other_weights = load_backbone(f"local-dir:{write_checkpoint(tmp_path / 'other', 'clip', seed=1)}").identity
    other_config = load_backbone(f"local-dir:{checkpoints('custom-text')}").identity
    assert (first["config_sha256"], first["weights"]) == (again["config_sha256"], again["weights"])
    assert first["config_sha256"] == other_weights["config_sha256"] and first["weights"] != other_weights["weights"]
    assert first["config_sha256"] != other_config["config_sha256"]


def test_preprocessing_is_open_clips_own(tiny):
    import numpy as np
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    backbone = tiny("clip")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    expected = image_transform_v2(PreprocessCfg(**backbone.preprocess_cfg), is_train=False)(image)
    torch.testing.assert_close(backbone.normalise(backbone.to_uint8(image)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("RN50", "random", "ModifiedResNet"),
        ("coca_ViT-B-32", "random", "one image and one text encoder"),
        ("vit-b-16/opnai", "pretrained", "did you mean 'ViT-B-16/openai'"),
        ("nonsense", "pretrained", "no backbone called 'nonsense'"),
        ("ViT-B-16", "pretrained", "needs one of its weights"),
        ("ViT-B-16/none", "pretrained", "needs one of its weights"),
        ("hf-hub:somebody/something", "pretrained", "could not be fetched"),
        ("ViT-B-16/openai", "pretrained", "could not be fetched"),
        ("local-dir:nowhere", "pretrained", "no open_clip_config.json"),
        ("embedded", "half", "'pretrained' or 'random'"),
    ],
)
def test_refusals_are_one_sentence(name, weights, says, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(NearlError, match=says) as error:
        load_backbone(name, weights=weights)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))


def test_folder_without_weights_is_refused(tmp_path, checkpoints):
    folder = shutil.copytree(checkpoints("clip"), tmp_path / "bare")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(NearlError, match="could not be loaded"):
        load_backbone(f"local-dir:{folder}")


def test_damaged_weights_and_config_are_refused(tmp_path, checkpoints):
    folder = shutil.copytree(checkpoints("clip"), tmp_path / "damaged")
    data = (folder / "open_clip_model.safetensors").read_bytes()
    (folder / "open_clip_model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(NearlError, match="could not be loaded"):
        load_backbone(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(NearlError, match="not a model configuration"):
        load_backbone(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(True, False, "cuda"), (True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_gpu_that_there_is(monkeypatch, cuda, mps, best):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    assert best_device() == best


def test_unknown_device_is_refused():
    with pytest.raises(NearlError, match="device 'nonsense'"):
        load_backbone("embedded", device="nonsense")


def test_safetensors_come_before_a_pickle(tmp_path, checkpoints):
    folder = shutil.copytree(checkpoints("clip"), tmp_path / "both")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"not a model")
    load_backbone(f"local-dir:{folder}")


def test_registry_lists_one_offline_backbone_and_a_licence_for_each():
    assert [entry.name for entry in REGISTRY.values() if entry.offline] == ["embedded"]
    assert all(entry.licence and entry.description for entry in REGISTRY.values())


@torch.no_grad()
def test_embedded_backbone_loads_offline_and_steps():
    backbone = load_backbone("embedded")
    assert backbone.vision.depth >= 6 and backbone.vision.grid[0] >= 14
    images = torch.randn(2, 3, *backbone.image_size)
    x = backbone.vision.embed(images)
    for k in range(backbone.vision.depth):
        x = backbone.vision.block(k, x)
    torch.testing.assert_close(F.normalize(backbone.vision.pool(x), dim=-1), backbone.encode_image(images))


def test_families_cover_both_directions_of_unequal_depth(tiny):
    difference = {tiny(family).vision.depth - tiny(family).text.depth for family in FAMILIES}
    assert min(difference) < 0 < max(difference)


class Foreign(TimmVision):
    """A family of its own: a model that open_clip does not know, around timm's blocks."""

    @classmethod
    def fits(cls, model):
        return hasattr(model, "foreign")


@torch.no_grad()
def test_a_family_is_one_class_and_one_registry_line(tiny):
    backbone, images = tiny("biomedclip"), torch.randn(2, 3, 32, 32)
    visual = SimpleNamespace(trunk=backbone.model.visual.trunk, head=backbone.model.visual.head)
    model = SimpleNamespace(foreign=True, visual=visual)
    with pytest.raises(NearlError, match="only a Vision Transformer"):
        vision_tower(model)
    VISION_TOWERS.register("foreign", Foreign)
    tower = vision_tower(model)
    x = tower.embed(images)
    for k in range(tower.depth):
        x = tower.block(k, x)
    assert isinstance(tower, Foreign)
    torch.testing.assert_close(tower.pool(x), backbone.model.encode_image(images), atol=1e-5, rtol=0)


def test_what_maps_and_methods_ask_of_a_tower(backbone):
    vision = backbone.vision
    assert vision.heads > 0 and len(vision.blocks) == vision.depth
    assert vision.token_pooled == (vision.cam_layer is vision.first_norm(vision.depth - 1))
    assert not (vision.token_pooled and vision.attention_pool is not None)
