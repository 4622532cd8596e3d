"""Checkpoints in transformers' format: what transformers itself computes, and what is refused."""

import json
import os
import shutil
import subprocess
import sys

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import GatedRepoError
from PIL import Image

from nearl.backbones import REGISTRY, load_backbone
from nearl.backbones.catalogue import ARCHITECTURES, cached, own_windows, three_windows
from nearl.data.formats.windows import THREE_CT
from nearl.errors import NearlError
from nearl.explain.score import Score, Scorer
from nearl.explain.trace import Trace
from nearl.prompts import default_prompts
from nearl.reading.classifier import Classifier
from tests.support.reading import record

TEXTS = ["a brain mri of a glioma", "chest x ray", "No sign of pneumonia in the lung scan " * 3, ""]
OWN = {"transformers-clip": "CLIP", "transformers-siglip": "Siglip"}
SHA = "0123456789" * 4


@pytest.fixture(scope="module", params=list(OWN))
def pair(request, checkpoints, tiny):
    """(backbone, transformers' own model, tokenizer and image processor) of one checkpoint."""
    folder, kind = checkpoints(request.param), OWN[request.param]
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder, attn_implementation="eager").eval()
    processor = getattr(transformers, f"{kind}ImageProcessorPil").from_pretrained(folder)
    return tiny(request.param), model, transformers.AutoTokenizer.from_pretrained(folder), processor


def pictures():
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in ((50, 71), (33, 32), (32, 47))
    ]


@torch.no_grad()
def test_embeddings_and_logits_are_those_of_transformers(pair):
    backbone, model, tokenizer, processor = pair
    length = model.config.text_config.max_position_embeddings
    read = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    pixels = processor(pictures(), return_tensors="pt").pixel_values
    theirs = model(pixel_values=pixels, **read)
    assert torch.equal(backbone.tokenize(TEXTS), read.input_ids)
    torch.testing.assert_close(backbone.pixels(pictures()), pixels, atol=1e-5, rtol=0)
    images = backbone.encode_tokens(backbone.vision.embed(backbone.pixels(pictures())))
    texts = backbone.encode_text(backbone.tokenize(TEXTS))
    torch.testing.assert_close(images, F.normalize(theirs.image_embeds, dim=-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(texts, F.normalize(theirs.text_embeds, dim=-1), atol=1e-5, rtol=0)
    logits = backbone.logit_scale * images @ texts.T + backbone.logit_bias
    torch.testing.assert_close(logits, theirs.logits_per_image, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.encode_image(pixels), images, atol=1e-6, rtol=0)


def test_the_attention_of_a_map_is_that_of_transformers_by_either_kernel(pair):
    backbone, model = pair[:2]
    fused = load_backbone(backbone.name)
    fused.model.inner.set_attn_implementation("sdpa")
    with torch.no_grad():
        own = model.vision_model(backbone.pixels([record(0).image()]), output_attentions=True)
    found = []
    for each in (backbone, fused):
        trace = Trace(Scorer(Classifier(each, default_prompts(["lung", "brain"]))), [record(0)])
        assert len(trace.attention) == each.vision.depth
        for ours, theirs in zip(trace.attention, own.attentions, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
        found.append([trace.logits.detach(), *trace.grad(Score(0), 0, ("norm", 1), ("cam",))])
        if each.vision.attention_pool is not None:
            head, tokens = model.vision_model.head, own.last_hidden_state
            _, weights = head.attention(head.probe, tokens, tokens, average_attn_weights=False)
            torch.testing.assert_close(trace.pool_attention, weights, atol=1e-5, rtol=0)
    assert all(tensor.abs().max() > 0 for tensor in found[0])
    for eager, sdpa in zip(*found, strict=True):
        torch.testing.assert_close(eager, sdpa, atol=1e-5, rtol=1e-4)


def test_old_settings_mean_the_same(checkpoints, tiny, tmp_path):
    folder = shutil.copytree(checkpoints("transformers-clip"), tmp_path / "old")
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 32, "crop_size": 32, "resample": 3,
           "do_resize": True, "do_center_crop": True, "do_normalize": True,
           "image_mean": [0.48145466, 0.4578275, 0.40821073],
           "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    text = json.loads((folder / "config.json").read_text())["text_config"]
    spoil(folder, "config.json", text_config={**text, "bos_token_id": 0, "eos_token_id": 2})  # as OpenAI's own had it
    backbone, now = load_backbone(f"local-dir:{folder}"), tiny("transformers-clip")
    assert backbone.preprocess_cfg == now.preprocess_cfg
    with torch.no_grad():
        assert torch.equal(backbone.encode_text(backbone.tokenize(TEXTS)), now.encode_text(now.tokenize(TEXTS)))


def spoil(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def no_head(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state.pop("logit_scale")
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"nothing"), "could not be loaded"),
        (no_head, "logit_scale"),
        (lambda f: (f / "config.json").write_text("{"), "not a model configuration"),
        (lambda f: spoil(f, "config.json", model_type="bert"), "a 'bert' of transformers"),
        (lambda f: spoil(f, "config.json", model_type="siglip2"), "NaFlex"),
        (lambda f: spoil(f, "preprocessor_config.json", size={"shortest_edge": 40}), "preprocessing"),
        (lambda f: spoil(f, "preprocessor_config.json", resample=0), "preprocessing"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(checkpoints, tmp_path, change, says):
    folder = shutil.copytree(checkpoints("transformers-clip"), tmp_path / "spoiled")
    change(folder)
    with pytest.raises(NearlError, match=says) as error:
        load_backbone(f"local-dir:{folder}")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_a_folder_in_both_formats_is_read_as_open_clips(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints("transformers-clip"), tmp_path / "both")
    shutil.copytree(checkpoints("clip"), folder, dirs_exist_ok=True)
    assert load_backbone(f"local-dir:{folder}").identity["weights"] == load_backbone(
        f"local-dir:{checkpoints('clip')}").identity["weights"]  # fmt: skip


@pytest.fixture
def cache(checkpoints, tmp_path, monkeypatch):
    """A cache of the hub that holds a checkpoint as somebody/model."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--model"
    shutil.copytree(checkpoints("transformers-siglip"), repository / "snapshots" / SHA)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    return repository


def test_a_model_of_the_hub_is_read_from_its_cache(cache, tiny):
    for name in ("hf-hub:somebody/model", f"hf-hub:somebody/model@{SHA}"):
        backbone = load_backbone(name)
        assert backbone.identity == {**tiny("transformers-siglip").identity, "name": name}
        assert torch.equal(backbone.tokenize(TEXTS), tiny("transformers-siglip").tokenize(TEXTS))
        assert cached(REGISTRY["biomedclip"]._replace(source=name))
    assert not any(cached(entry) for entry in REGISTRY.values() if not entry.offline) and cached(REGISTRY["embedded"])
    (cache / "snapshots" / SHA / "model.safetensors").unlink()
    assert not cached(REGISTRY["biomedclip"]._replace(source="hf-hub:somebody/model"))
    with pytest.raises(NearlError, match="safetensors"):
        load_backbone("hf-hub:somebody/model")
    with pytest.raises(NearlError, match="could not be fetched"):
        load_backbone("medsiglip")


def test_weights_in_several_files_are_here_when_all_of_them_are(cache):
    entry, snapshot = REGISTRY["biomedclip"]._replace(source="hf-hub:somebody/model@main"), cache / "snapshots" / SHA
    assert cached(entry)  # by the name of a branch
    (snapshot / "model.safetensors").rename(snapshot / "model-1.safetensors")
    index = snapshot / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}')
    assert not cached(entry)
    (snapshot / "model-2.safetensors").write_bytes(b"x")
    assert cached(entry)
    index.write_text("{")
    assert not cached(entry)


@pytest.mark.parametrize("name", ["", "HF_HOME", "XDG_CACHE_HOME"])
def test_the_cache_is_where_the_hubs_client_has_it(name, tmp_path):
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("HF_H", "XDG_", "HUGGINGFACE"))}
    environment = {**plain, "HOME": str(tmp_path), **({name: str(tmp_path / "there")} if name else {})}
    code = "from huggingface_hub.constants import HF_HUB_CACHE; from nearl.backbones.catalogue import hub_cache; "
    code += "print(HF_HUB_CACHE == str(hub_cache()))"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "True"


def test_a_gated_model_says_where_to_accept_its_terms(monkeypatch):
    def refused(*args, **kwargs):
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr("nearl.backbones.hub.hf_hub_download", refused)
    monkeypatch.setattr("nearl.backbones.hub.go_offline_if_unreachable", lambda: None)
    entry = REGISTRY["medsiglip"]
    with pytest.raises(NearlError, match="accept") as error:
        load_backbone("medsiglip")
    assert entry.gate in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in REGISTRY if REGISTRY[name].source in ARCHITECTURES])
def test_what_the_list_says_of_a_model_fits_its_architecture(name):
    entry, folder = REGISTRY[name], ARCHITECTURES[REGISTRY[name].source]
    if (folder / "open_clip_config.json").exists():
        return
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    assert entry.memory == round(sum(p.numel() for p in model.parameters()) * 4 / 1e6)
    assert entry.size == config.vision_config.image_size


def test_a_models_own_ct_windows():
    assert [(w.center, w.width) for w in own_windows("medsiglip")] == [(-100, 2250), (40, 350), (40, 80)]
    assert three_windows("medsiglip") == own_windows("medsiglip") and three_windows("embedded") == THREE_CT
    assert not own_windows("embedded") and not own_windows("local-dir:somewhere")
