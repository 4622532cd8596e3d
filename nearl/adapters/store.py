"""Adapters on disk: a folder, or one zip, with ``adapter.safetensors`` and ``adapter.json``. No pickle anywhere.

Beside them is ``README.md``, the card for people, which is written and never read.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nearl import NOTICE
from nearl.errors import NearlError
from nearl.prompts import MAX_CLASSES, PromptSet

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
TENSORS, META = "adapter.safetensors", "adapter.json"
LIMITS = {TENSORS: 256 * 2**20, META: 16 * 2**20}  # bytes
MAX_NAME = 100
FORMERLY = {"alta-vision": "alta"}  # the names that methods had in files of before; today's `alta` is another one
LARGEST = 1e6  # largest absolute value of a tensor's entry; trained values stay far below it (our choice)

Short = Annotated[str, Field(max_length=100)]
Long = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class Meta(BaseModel):
    """What the rest of the program relies on in ``adapter.json``; more may be in it, and stays."""

    model_config = ConfigDict(strict=True, extra="allow")

    format_version: Literal[1]
    method: Short  # full name, such as "nearl" or "nearl:no-anchor"
    backbone: Annotated[dict[str, Any], Field(max_length=100)]  # name, config_sha256, weights
    config: dict[str, Any]
    classes: Annotated[list[Long], Field(min_length=1, max_length=MAX_CLASSES)]
    prompts: dict[str, Any]  # a prompt set
    support_counts: Annotated[dict[Long, Count], Field(max_length=MAX_CLASSES)]  # class -> images it was taught with
    created: Short  # ISO 8601, UTC
    licence: Long
    tensors: dict[str, Any]  # name -> shape
    name: Annotated[str, Field(max_length=MAX_NAME)] | None = None  # what a person called it
    trust: dict[str, Any] | None = None  # see `nearl.reading.trust`
    metrics: dict[str, Any] | None = None  # results on images it was not taught with
    recipe: dict[str, Any] | None = None
    images: dict[Literal["taught", "calibrated"], list[Short]] | None = None
    """Hashes (`nearl.train.samples.fingerprints`) of the images that it was taught with, and of those that its
    probabilities were calibrated with."""


@dataclass
class Adapter:
    """A taught adapter."""

    state: dict[str, Tensor]  # float32
    meta: dict  # what they are, in the layout of `Meta`, and the notice

    @property
    def config(self) -> dict:
        return self.meta["config"]

    @cached_property
    def version(self) -> str:
        """The sha256 of the tensors and taught prompts, by which caches know this adapter."""
        from safetensors.torch import save

        return hashlib.sha256(save(self.state) + json.dumps(self.meta["prompts"]).encode()).hexdigest()

    def check_backbone(self, identity: dict[str, str]) -> None:
        """Raises NearlError unless the adapter was taught on the backbone with this identity."""
        own = self.meta["backbone"]
        if any(own.get(key) != identity[key] for key in ("config_sha256", "weights")):
            raise other_backbone(own.get("name"), identity["name"])


def other_backbone(taught: object, asked: str) -> NearlError:
    """The refusal of an adapter that was taught on the backbone named ``taught`` or, where the names are the same, on
    another version of it."""
    name = public_name(asked)
    detail = f"another version of '{taught}'" if taught == name else f"the model '{taught}'"
    return NearlError(
        f"This adapter was taught on {detail}, not on the '{name}' in use; "
        "load that model, or teach a new adapter on this one."
    )


def new_adapter(
    state: dict[str, Tensor], *, backbone: dict[str, str], name: str | None = None, **about: Any
) -> Adapter:
    """An Adapter of the current format from a method's state dict.

    ``about``: the other fields of `Meta` that are known; config, classes, prompts and support_counts have to be there.
    """
    from nearl.adapters.card import LICENCE

    state = {key: value.detach().float().cpu().contiguous().clone() for key, value in state.items()}
    optional = {"method": "nearl", "recipe": None, "metrics": None, "trust": None, "images": None}
    meta = {
        "format_version": FORMAT_VERSION,
        "backbone": {**backbone, "name": public_name(backbone["name"])},
        **optional,
        **about,
        "name": " ".join(name.split())[:MAX_NAME] if name else None,
        "licence": LICENCE,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "notice": NOTICE,
        "tensors": {key: list(value.shape) for key, value in state.items()},
    }
    meta = json.loads(json.dumps(meta))
    Meta.model_validate(meta)
    return Adapter(state, meta)


def save_adapter(adapter: Adapter, folder: str | Path) -> Path:
    """Write the files into ``folder`` (made if needed), each by rename so that no half file is left."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NearlError(f"'{folder}' is a file; give a folder to write the adapter to.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in adapter_files(adapter).items():
        partial = folder / f".{name}.partial"
        partial.write_bytes(data)
        partial.replace(folder / name)
    return folder


def zip_adapter(adapter: Adapter, path: str | Path) -> Path:
    """Write the adapter as one zip file."""
    path = Path(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in adapter_files(adapter).items():
            archive.writestr(name, data)
    return path


def describe(source: str | Path | bytes) -> dict:
    """The checked content of ``adapter.json`` in what `load_adapter` takes; needs no torch. Raises NearlError too."""
    return _meta(_read(source)[META])


def load_adapter(source: str | Path | bytes, identity: dict[str, str] | None = None) -> Adapter:
    """Read an adapter folder (or the folder of the run that holds it), zip file or zip bytes and check it: JSON,
    format, keys, shapes, dtypes, finite numbers and, if given, the backbone's identity.

    Raises NearlError that says what is wrong.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    raw = _read(source)
    meta = _meta(raw[META])
    try:
        state = load(raw[TENSORS])
    except (SafetensorError, ValueError) as error:
        raise NearlError(f"{TENSORS} of this adapter is damaged or not a safetensors file.") from error
    if meta["tensors"] != {name: list(value.shape) for name, value in state.items()}:
        raise NearlError("The tensors of this adapter are not the ones that its adapter.json lists; it may be damaged.")
    for name, value in state.items():
        if value.dtype != torch.float32:
            raise NearlError(f"The tensor '{name}' of this adapter is {value.dtype}, not float32.")
        if not torch.isfinite(value).all():
            raise NearlError(f"The tensor '{name}' of this adapter holds numbers that are not finite; teach it again.")
        if value.numel() and value.abs().max() > LARGEST:
            raise NearlError(f"The tensor '{name}' of this adapter holds absurdly large numbers; teach it again.")
    adapter = Adapter(state, meta)
    if identity is not None:
        adapter.check_backbone(identity)
    return adapter


def adapter_files(adapter: Adapter, base_model: str | None = None) -> dict[str, bytes]:
    """The files of an adapter folder by name; ``base_model`` (the backbone's name on the Hub) goes into the card."""
    from safetensors.torch import save

    from nearl.adapters.card import CARD, card

    meta = json.dumps(adapter.meta, indent=2, ensure_ascii=False).encode()
    tensors = save(adapter.state, metadata={"notice": NOTICE})
    return {TENSORS: tensors, META: meta, CARD: card(adapter.meta, base_model).encode()}


def public_name(backbone: str) -> str:
    """A backbone's name as it may be published: of a folder on this machine only its last part."""
    schema, colon, folder = backbone.partition(":")
    return f"{schema}:{Path(folder).name}" if colon and schema == "local-dir" else backbone


def _meta(raw: bytes) -> dict:
    """The content of ``adapter.json``, checked by `Meta`."""
    try:
        meta = json.loads(raw)
        json.dumps(meta, ensure_ascii=False, allow_nan=False).encode()  # lone surrogates and NaN cannot be written
    except (ValueError, RecursionError) as error:
        raise NearlError(f"{META} of this adapter is not readable JSON; it may be damaged.") from error
    if not isinstance(meta, dict) or meta.get("format_version") != FORMAT_VERSION:
        version = meta.get("format_version") if isinstance(meta, dict) else None
        raise NearlError(f"This adapter has format version {version}; this program reads version {FORMAT_VERSION}.")
    try:
        Meta.model_validate(meta)
    except ValidationError as error:
        raise NearlError(
            f"{META} of this adapter lacks a proper '{error.errors()[0]['loc'][0]}'; it may be damaged."
        ) from None
    try:
        PromptSet.from_dict(meta["prompts"])
    except NearlError as error:
        raise NearlError(f"The prompts in {META} of this adapter cannot be used: {error}") from error
    meta["method"] = todays_name(meta["method"], meta["config"].get("options"))
    return meta


def todays_name(method: str, options: object) -> str:
    """What the method is called now whose name and options are in a file: `alta` with a rank was of the image tower."""
    vision = method == FORMERLY["alta-vision"] and isinstance(options, dict) and "rank" in options
    return "alta-vision" if vision else method


def _read(source: str | Path | bytes) -> dict[str, bytes]:
    """Both files of an adapter folder or zip as bytes."""
    if not isinstance(source, bytes):
        source = Path(source)
        if source.is_dir():
            if not (source / META).is_file() and (source / "adapter").is_dir():
                source = source / "adapter"  # the folder of a run
            paths = {name: source / name for name in (META, TENSORS)}
            for name, path in paths.items():
                if not path.is_file():
                    raise NearlError(
                        f"The folder '{source.name}' holds no {name}: it is neither an adapter nor a finished run."
                    )
                if path.stat().st_size > LIMITS[name]:
                    raise NearlError(f"{name} in '{source.name}' is too large to be an adapter.")
            return {name: path.read_bytes() for name, path in paths.items()}
        if not source.is_file():
            raise NearlError(f"There is no adapter at '{source}'.")
    name = "this file" if isinstance(source, bytes) else f"'{source.name}'"
    try:
        with zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            found = [info for info in archive.infolist() if Path(info.filename).name in LIMITS]
            entries = {Path(info.filename).name: info for info in found}
            if entries.keys() != LIMITS.keys():
                raise NearlError(f"The zip {name} does not hold {META} and {TENSORS}, so it is not an adapter.")
            if len(found) > len(entries):
                raise NearlError(f"The zip {name} holds more than one adapter; zip one adapter alone.")
            if any(info.file_size > LIMITS[key] for key, info in entries.items()):
                raise NearlError(f"The zip {name} unpacks to more than an adapter can be.")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in entries.values()):
                raise NearlError(f"The zip {name} is packed in an unusual way; pack it again as an ordinary zip.")
            # with a size: a read without one unpacks everything, whatever size the directory states
            return {key: archive.open(info).read(info.file_size) for key, info in entries.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, OSError) as error:
        raise NearlError(f"An adapter is a zip file or a folder with {META} and {TENSORS}; {name} is not.") from error
