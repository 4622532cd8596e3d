"""Names -> frozen models."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import open_clip
import torch
from open_clip.factory import get_model_config, parse_model_name
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms import CenterCrop

from nearl.backbones import hub, transformers_format
from nearl.backbones.catalogue import ARCHITECTURES, REGISTRY
from nearl.backbones.embedded import ROWS, unpack_table
from nearl.backbones.familiar import Familiar
from nearl.backbones.measured import Measured
from nearl.backbones.towers import (
    TextTower,
    TransformersModel,
    VisionTower,
    is_dual_encoder,
    text_tower,
    vision_tower,
)
from nearl.errors import NearlError

LONGEST_TEXT = 2048  # tokens, more than any text of a prompt set has


@dataclass
class Backbone:
    """A frozen model of open_clip or transformers with its two step-through towers."""

    name: str
    model: nn.Module
    identity: dict[str, str]
    """Name, sha256 of the configuration and a fingerprint of the weights; an adapter is bound to it."""
    vision: VisionTower
    text: TextTower
    embed_dim: int  # E
    tokenizer_source: str  # as open_clip's tokenizer factory takes it; ``local-dir:FOLDER`` for transformers' format
    device: torch.device
    weights: str = "pretrained"  # or "random"
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held during every pass through the model, since maps hook it and training shares it."""

    @cached_property
    def _preprocess(self) -> tuple[Callable, Callable]:
        steps = image_transform_v2(PreprocessCfg(**self.model.visual.preprocess_cfg), is_train=False).transforms
        *geometry, normalise = steps
        if isinstance(self.model, TransformersModel):
            side = self.image_size[0]
            crop = partial(transformers_format.crop_centre, side=side)
            geometry = [crop if isinstance(step, CenterCrop) else step for step in geometry]

        def shape(image: Image.Image) -> Tensor:
            for step in geometry:
                image = step(image)
            return image

        return shape, normalise

    @property
    def preprocess_cfg(self) -> dict:
        """open_clip's preprocessing settings: size, mean, std, interpolation, resize_mode, fill_color."""
        return self.model.visual.preprocess_cfg

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's input, pixels."""
        size = self.model.visual.image_size
        return tuple(size) if isinstance(size, tuple | list) else (size, size)

    def to_uint8(self, image: Image.Image) -> Tensor:
        """PIL image -> uint8 [3, H, W] by the model's own resize and crop, before normalisation."""
        return (self._preprocess[0](image.convert("RGB")) * 255).round().to(torch.uint8)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 or float-in-0..1 [..., 3, H, W] -> normalised float32 on the backbone's device."""
        images = images.to(self.device)
        images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        return self._preprocess[1](images)

    def pixels(self, images: Iterable[Image.Image]) -> Tensor:
        """PIL images -> normalised model input, float32 [B, 3, H, W], on the backbone's device."""
        return self.normalise(torch.stack([self.to_uint8(image) for image in images]))

    @cached_property
    def tokenizer(self) -> Callable[..., Tensor]:
        """A function from C texts to tokens int64 [C, L]. Built on first use, since some need a download."""
        try:
            if isinstance(self.model, TransformersModel):
                folder = Path(parse_model_name(self.tokenizer_source)[1])
                return transformers_format.tokenizer(folder, self.model.context_length)
            return open_clip.get_tokenizer(self.tokenizer_source)
        except Exception as error:
            raise NearlError(hub.unreachable(self.name)) from error

    def tokenize(self, texts: list[str]) -> Tensor:
        """C texts -> tokens int64 [C, L] on the backbone's device."""
        return self.tokenizer(list(texts)).to(self.device)

    def knows(self, word: str) -> bool:
        """Whether the text tower was trained on the word.

        A token whose row in the embedding table is zero was never seen in training; only the embedded backbone has such
        rows. A word of several tokens is known if all of them are.
        """
        fixed = set(self.tokenize([""]).unique().tolist())
        tokens = [token for token in self.tokenize([word])[0].tolist() if token not in fixed]
        return bool(self.text.token_table[tokens].abs().sum(-1).all())

    def read_as(self, texts: list[str]) -> list[tuple[int, ...]]:
        """The tokens of each text as the text tower reads them, cut at its context length; -1 for every token that it
        was never trained on, since it cannot tell those apart."""
        tokens = self.tokenize(texts)
        known = self.text.token_table[tokens].abs().sum(-1).bool()
        return [tuple(row) for row in tokens.where(known, -1).tolist()]

    def unread(self, texts: list[str]) -> list[str]:
        """For each text the words that the text tower does not read since they lie beyond its context length; "" for
        a text that it reads to the end."""

        def fits(some: list[str]) -> list[bool]:
            long, read = self.tokenizer(some, context_length=LONGEST_TEXT), self.tokenizer(some)
            whole = (long[:, length:] == padding).all(1)
            return (whole & (long[:, :length] == read).all(1)).tolist()  # the padding can be the end token too

        length = self.tokenizer([""]).shape[1]
        padding = int(self.tokenizer([""], context_length=LONGEST_TEXT)[0, -1])
        result = []
        for text, whole in zip(texts, fits(list(texts)) if texts else [], strict=True):
            words = text.split()
            read = [] if whole else fits([" ".join(words[:n]) for n in range(1, len(words) + 1)])
            rest = "" if whole else " ".join(words[sum(read) :])
            if rest and not any(read):  # one word longer than all, or a script without spaces
                rest = text.strip()[sum(fits([text.strip()[:n] for n in range(1, len(text.strip()))])) :]
            result.append(rest)
        return result

    @cached_property
    def familiar(self) -> Familiar | None:
        """What it was pretrained on, where its folder says so; else None. Raises NearlError for a broken file."""
        schema, folder = parse_model_name(self.tokenizer_source)
        return Familiar.load(folder, self.identity["weights"], self.embed_dim) if schema == "local-dir" else None

    @cached_property
    def measured(self) -> Measured | None:
        """What its untaught answers are worth, where its folder says so; else None. Raises NearlError for a broken
        file."""
        schema, folder = parse_model_name(self.tokenizer_source)
        return Measured.load(folder, self.identity["weights"]) if schema == "local-dir" else None

    @property
    def logit_scale(self) -> Tensor:
        """exp(s) of the softmax over cosine similarities, a float32 scalar."""
        return self.model.logit_scale.detach().float().exp().reshape(())

    @property
    def logit_bias(self) -> Tensor:
        """What the model adds to every logit (SigLIP), a float32 scalar; zero where there is none.

        Probabilities are a softmax over the classes, in which it cancels.
        """
        bias = getattr(self.model, "logit_bias", None)
        return self.logit_scale.new_zeros(()) if bias is None else bias.detach().float().reshape(())

    def encode_image(self, images: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> unit image embeddings [B, E] of the frozen model."""
        return self.model.encode_image(images, normalize=True)

    def encode_tokens(self, x: Tensor) -> Tensor:
        """Embedded patches [B, N, D], as ``vision.embed`` gives them -> unit image embeddings [B, E] float32."""
        for k in range(self.vision.depth):
            x = self.vision.block(k, x)
        return nn.functional.normalize(self.vision.pool(x).float(), dim=-1)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens [C, L] -> unit text embeddings [C, E] of the frozen model, without needless padding."""
        x, state = self.text.embed(tokens)
        for k in range(self.text.depth):
            x = self.text.block(k, x, state)
        return nn.functional.normalize(self.text.pool(x, state), dim=-1)


def best_device() -> str:
    """The device that "auto" means: a GPU of NVIDIA or AMD, or of a Mac, where there is one, else the CPU."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_backbone(
    name: str = "embedded", device: str | torch.device = "cpu", weights: str = "pretrained", seed: int = 0
) -> Backbone:
    """Build, load and freeze a backbone.

    ``name``, in this order: a name of ``REGISTRY``; ``hf-hub:owner/model``, with ``@revision`` in transformers' format;
    ``local-dir:FOLDER`` in open_clip's format (``open_clip_config.json`` + safetensors) or transformers' (a
    ``config.json`` of a CLIP or SigLIP + safetensors); an architecture that open_clip knows, with ``/tag`` for its
    weights (``ViT-B-16/openai``). ``weights="random"`` builds the architecture alone, which needs no download;
    ``seed`` fixes these weights on one machine. ``device``: "cpu", "cuda", "cuda:1", "mps", ...; "auto": `best_device`.
    Raises NearlError for unknown names, models without a ViT, and weights that cannot be reached.
    """
    if weights not in ("pretrained", "random"):
        raise NearlError(f"weights must be 'pretrained' or 'random', not '{weights}'.")
    try:
        device = torch.device(best_device() if device == "auto" else device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise NearlError(f"The device '{device}' is not available here; use 'cpu'.") from error
    source = REGISTRY[name].source if name in REGISTRY else name
    random = weights == "random"
    if random:
        source = str(ARCHITECTURES.get(source, source))
    folder = transformers_format.folder_of(name, source, random)
    with torch.random.fork_rng(enabled=random):
        if random:
            torch.manual_seed(seed)
        if folder is not None:
            model, cfg = transformers_format.create(folder, device, random)
            architecture = f"local-dir:{folder}"
        else:
            source, options = _local_options(source, random)
            architecture = source if parse_model_name(source)[0] else source.partition("/")[0]
            model, cfg = _create(name, source, options, random)
    if not is_dual_encoder(model):
        raise NearlError(f"'{name}' is not a model with one image and one text encoder, so NEARL cannot adapt it.")
    model = model.eval().requires_grad_(False).to(device)
    identity = {
        "name": name,
        "config_sha256": hashlib.sha256(json.dumps(cfg, sort_keys=True, default=str).encode()).hexdigest(),
        "weights": _fingerprint(model),
    }
    return Backbone(
        name, model, identity, vision_tower(model), text_tower(model), cfg["embed_dim"], architecture, device, weights
    )


def _local_options(source: str, random: bool) -> tuple[str, dict]:
    """Source and open_clip options that keep a local folder local: a BERT text tower finds its config there."""
    if random and Path(source).is_dir():
        source = f"local-dir:{source}"
    schema, folder = parse_model_name(source)
    if schema != "local-dir":
        return source, {}
    path = Path(folder) / "open_clip_config.json"
    if not path.is_file():
        raise NearlError(
            f"The folder '{folder}' holds no open_clip_config.json and no config.json of transformers, so no model is "
            "there."
        )
    try:
        text_cfg = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise NearlError(f"The file '{path.name}' in '{folder}' is not a model configuration of open_clip.") from error
    if "hf_model_name" in text_cfg and (Path(folder) / "config.json").is_file():
        return source, {"text_cfg": {**text_cfg, "hf_model_name": folder, "hf_model_pretrained": False}}
    return source, {}


def _create(name: str, source: str, options: dict, random: bool) -> tuple[nn.Module, dict]:
    schema, _ = parse_model_name(source)
    architecture, _, tag = (source, "", "") if schema else source.partition("/")
    if not schema and architecture not in open_clip.list_models():
        known = [*REGISTRY, *open_clip.list_models()]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else "see `python -m nearl backbones` for the list."
        raise NearlError(f"There is no backbone called '{name}'; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not schema and not random and tag not in tags:
        raise NearlError(
            f"'{architecture}' needs one of its weights ({', '.join(tags[:6])}...) after a slash, "
            f"as in '{architecture}/{tags[0]}'." if tags else f"There are no public weights for '{architecture}'."
        )  # fmt: skip
    if not random and schema != "local-dir":
        hub.go_offline_if_unreachable()
    try:
        cfg = get_model_config(architecture)
        packed = schema == "local-dir" and not random and _packed_weights(Path(source[len("local-dir:") :]))
        empty = bool(random or packed)
        with _without_weights_by_intent(empty):
            model = open_clip.create_model(
                architecture, pretrained=None if schema or random else tag, load_weights=not empty,
                require_pretrained=not empty, pretrained_text=False, **options,
            )  # fmt: skip
        if packed:
            model.load_state_dict(unpack_table(load_file(packed), cfg["text_cfg"]["vocab_size"]))
    except Exception as error:
        if schema == "local-dir":
            detail = re.split(r"[\n:]", str(error).strip())[0][:160]
            raise NearlError(f"The model in '{source[10:]}' could not be loaded: {detail}.") from error
        raise NearlError(hub.unreachable(name)) from error
    return model, cfg


@contextmanager
def _without_weights_by_intent(intended: bool) -> Iterator[None]:
    """Within it, if ``intended``, open_clip does not warn that a model has no pretrained weights."""
    root = logging.getLogger()  # open_clip's own
    known = lambda record: not (intended and "No pretrained weights" in record.getMessage())  # noqa: E731
    root.addFilter(known)
    try:
        yield
    finally:
        root.removeFilter(known)


def _packed_weights(folder: Path) -> Path | None:
    """The weights file in the folder if its token table is packed, which open_clip itself cannot read."""
    path = folder / "open_clip_model.safetensors"
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as content:
        return path if ROWS in content.keys() else None  # noqa: SIM118  not a dict


def _fingerprint(model: nn.Module) -> str:
    """A sha256 over names, shapes and the first 64 values of every tensor, to tell weights apart quickly."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().reshape(-1)[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()
