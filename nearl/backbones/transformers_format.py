"""CLIP and SigLIP checkpoints in transformers' format: which folders hold one, the model, its tokenizer and its
preprocessing. Nothing is converted, and no code of a repository is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nearl.backbones import hub
from nearl.backbones.catalogue import HUB
from nearl.backbones.towers import TransformersModel
from nearl.errors import NearlError

KINDS = {"clip": "CLIP", "siglip": "Siglip"}  # model_type in config.json: what transformers' classes begin with
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
RESCALED = 1 / 255


def folder_of(name: str, source: str, random: bool) -> Path | None:
    """The folder of a model in transformers' format, fetched where it is on a hub; None for open_clip's format.

    ``random``: nothing is fetched. Raises NearlError for a repository or folder of neither format.
    """
    if source.startswith(HUB) and not random:
        hub.go_offline_if_unreachable()
        if hub.is_open_clip(name, source):
            return None
        kind_of(hub.transformers_config(name, source))
        return hub.fetch(name, source)
    folder = Path(source.removeprefix("local-dir:"))
    here = source.startswith("local-dir:") or (random and folder.is_dir())
    if not here or (folder / hub.OPEN_CLIP).is_file() or not (folder / hub.TRANSFORMERS).is_file():
        return None
    kind_of(folder / hub.TRANSFORMERS)
    return folder


def kind_of(path: Path) -> str:
    """The key of ``KINDS`` that a config.json names. Raises NearlError for any other model."""
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NearlError(f"The file '{path}' is not a model configuration of transformers.") from error
    if kind == "siglip2":
        raise NearlError(
            "This SigLIP 2 takes images of any size (NaFlex), which NEARL cannot adapt; choose one with a fixed size, "
            "such as 'siglip2-b-16'."
        )
    if kind not in KINDS:
        raise NearlError(
            f"The model is a '{kind}' of transformers and has no open_clip_config.json; NEARL can adapt CLIP and "
            "SigLIP models of transformers, and those of open_clip."
        )
    return kind


def create(folder: Path, device: torch.device, random: bool) -> tuple[TransformersModel, dict]:
    """(model, what identifies its configuration). Raises NearlError for weights that are missing, damaged or pickled.

    On a CPU attention is computed step by step, since the backward pass of the fused kernel is slower there.
    """
    import transformers

    kind = KINDS[kind_of(folder / hub.TRANSFORMERS)]
    model_class = getattr(transformers, f"{kind}Model")
    attention = "eager" if device.type == "cpu" else "sdpa"
    if not random and not any(folder.glob("model*.safetensors")):
        raise NearlError(_no_safe_weights(folder))
    report: dict = {}
    try:
        with _quietly():
            config = model_class.config_class.from_pretrained(folder, local_files_only=True)
            if random:
                inner = transformers.AutoModel.from_config(config, attn_implementation=attention)
            else:
                inner, report = model_class.from_pretrained(
                    folder, config=config, dtype=torch.float32, attn_implementation=attention, use_safetensors=True,
                    local_files_only=True, output_loading_info=True,
                )  # fmt: skip
    except Exception as error:
        detail = str(error).strip().split("\n")[0][:160]
        raise NearlError(f"The model in '{folder}' could not be loaded: {detail.rstrip('.')}.") from error
    unfit = sorted(str(key) for found in ("missing_keys", "mismatched_keys") for key in report.get(found, ()))
    if unfit:
        raise NearlError(f"The model in '{folder}' could not be loaded: its weights do not fit at '{unfit[0]}'.")
    preprocess = preprocessing(folder, kind, config.vision_config.image_size)
    described = json.loads((folder / hub.TRANSFORMERS).read_text(encoding="utf-8"))
    width = getattr(config, "projection_dim", None) if kind == "CLIP" else config.vision_config.hidden_size
    return TransformersModel(inner, preprocess), {"model": described, "preprocess": preprocess, "embed_dim": width}


@contextmanager
def _quietly() -> Iterator[None]:
    """Within it transformers writes no warnings and no progress; what matters of them becomes an error of ours."""
    from transformers import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _no_safe_weights(folder: Path) -> str:
    pickled = any(folder.glob("pytorch_model*.bin")) or not any(folder.glob("model*"))
    where = f"'{folder}' holds no weights as safetensors"
    return (
        f"{where}, and weights in other formats are refused, since reading a pickle can run code; convert them with "
        "https://huggingface.co/spaces/safetensors/convert, whose result is a revision that can be named, as in "
        "'hf-hub:owner/model@refs/pr/1'."
        if pickled
        else f"{where}; put the file model.safetensors there."
    )


def preprocessing(folder: Path, kind: str, side: int) -> dict:
    """open_clip's preprocessing settings for those of the checkpoint. Raises NearlError for steps that it has not."""
    import transformers

    own = getattr(transformers, f"{kind}ImageProcessor").from_pretrained(folder, local_files_only=True).to_dict()
    size, crop = own.get("size") or {}, own.get("crop_size") or {}
    crops = bool(own.get("do_center_crop")) and kind == "CLIP"
    known = (
        own.get("do_resize", True)
        and own.get("do_rescale", True)
        and abs((own.get("rescale_factor") or RESCALED) - RESCALED) < 1e-6
        and (not crops or (crop.get("height"), crop.get("width")) == (side, side))
        and int(own.get("resample", 3)) in RESAMPLING
    )
    squashed = (size.get("height"), size.get("width")) == (side, side)
    if not known or not (squashed or (crops and size.get("shortest_edge") == side)):
        raise NearlError(
            f"The preprocessing of the model in '{folder}' is not one of those that CLIP and SigLIP use (resize to its "
            f"{side} pixels, crop, normalise), so its images would not be what it was trained on."
        )
    plain = own.get("do_normalize", True) is False
    return {
        "size": side,
        "mode": "RGB",
        "mean": [0.0] * 3 if plain else list(own["image_mean"]),
        "std": [1.0] * 3 if plain else list(own["image_std"]),
        "interpolation": RESAMPLING[int(own.get("resample", 3))],
        "resize_mode": "squash" if squashed else "shortest",
        "fill_color": 0,
    }


def crop_centre(image: Image.Image, side: int) -> Image.Image:
    """The middle ``side`` x ``side`` pixels of an image; half a pixel is rounded down, as transformers does."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def tokenizer(folder: Path, length: int) -> Callable[..., Tensor]:
    """A function from C texts to tokens int64 [C, L] by the checkpoint's own tokenizer, padded on the right.

    ``length``: L, unless the caller asks for another. SigLIP's texts are put in lower case, as in its training.
    """
    import transformers

    with _quietly():
        own = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    lower = kind_of(folder / hub.TRANSFORMERS) == "siglip"

    def tokenize(texts: list[str], context_length: int | None = None) -> Tensor:
        read = [text.lower() for text in texts] if lower else list(texts)
        return own(
            read, padding="max_length", truncation=True, max_length=context_length or length, padding_side="right",
            return_tensors="pt",
        ).input_ids  # fmt: skip

    return tokenize
