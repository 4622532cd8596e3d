"""The known backbones by name. Imports no library, so that listing them is quick."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nearl.errors import NearlError
from nearl.resources import ASSETS

if TYPE_CHECKING:
    from nearl.data.formats.windows import Window

HUB, LOCAL = "hf-hub:", "local-dir:"
INDEX = "model.safetensors.index.json"  # of weights in several files
WEIGHTS = (  # the names that they have in repositories
    "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", INDEX,
)  # fmt: skip


class Entry(NamedTuple):
    """A known backbone."""

    name: str
    source: str  # as `load_backbone` takes it
    description: str
    licence: str
    citation: str
    size: int  # height and width of the model's input, pixels; 0 where that is not known
    memory: int  # MB of the weights in float32, 0 where that is not known; teaching takes more
    weights: str = ""  # where on the hub they are, hf-hub:owner/name; "" where that is the source
    gate: str = ""  # the page on which its terms have to be accepted first; "" where there are none
    ct_windows: tuple[tuple[str, float, float], ...] = ()
    """Name, centre and width of the windows in which its training images from CT were shown, as red, green and blue."""
    offline: bool = False  # loads without a network


CLIP = "Radford et al. 2021, arXiv 2103.00020"
REGISTRY = {
    entry.name: entry
    for entry in (
        Entry(
            "embedded",
            f"local-dir:{ASSETS / 'backbone'}",
            "small medical CLIP of our own, in this repository; works with no network",
            "CC BY-SA 4.0, see assets/backbone/README.md",
            "assets/backbone/README.md",
            size=224,
            memory=51,
            offline=True,
        ),
        Entry(
            "ViT-B-32/openai",
            "ViT-B-32/openai",
            "CLIP ViT-B/32, natural images; the fastest of CLIP's own",
            "MIT",
            CLIP,
            size=224,
            memory=605,
            weights="hf-hub:timm/vit_base_patch32_clip_224.openai",
        ),
        Entry(
            "ViT-B-16/openai",
            "ViT-B-16/openai",
            "CLIP ViT-B/16, natural images; the usual reference",
            "MIT",
            CLIP,
            size=224,
            memory=598,
            weights="hf-hub:timm/vit_base_patch16_clip_224.openai",
        ),
        Entry(
            "ViT-L-14/openai",
            "ViT-L-14/openai",
            "CLIP ViT-L/14, natural images; large, wants a GPU",
            "MIT",
            CLIP,
            size=224,
            memory=1710,
            weights="hf-hub:timm/vit_large_patch14_clip_224.openai",
        ),
        Entry(
            "biomedclip",
            "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "BiomedCLIP ViT-B/16 with PubMedBERT, figures and captions of biomedical papers",
            "MIT",
            "Zhang et al. 2023, arXiv 2303.00915",
            size=224,
            memory=784,
        ),
        Entry(
            "siglip-b-16",
            "ViT-B-16-SigLIP/webli",
            "SigLIP ViT-B/16, natural images, sigmoid loss",
            "Apache-2.0",
            "Zhai et al. 2023, arXiv 2303.15343",
            size=224,
            memory=813,
            weights="hf-hub:timm/ViT-B-16-SigLIP",
        ),
        Entry(
            "siglip2-b-16",
            "hf-hub:google/siglip2-base-patch16-224",
            "SigLIP 2 ViT-B/16, natural images, many languages",
            "Apache-2.0",
            "Tschannen et al. 2025, arXiv 2502.14786",
            size=224,
            memory=1501,
        ),
        Entry(
            "quiltnet-b-32",
            "hf-hub:wisdomik/QuiltNet-B-32",
            "QuiltNet ViT-B/32, histology images with narration",
            "MIT",
            "Ikezogwo et al. 2023, arXiv 2306.11207",
            size=224,
            memory=605,
        ),
        Entry(
            "plip",
            # the revision in which the hub's own converter put the weights as safetensors; `main` has a pickle only
            "hf-hub:vinid/plip@3fc8e7c7f7c6c0ab1db66f36a666706fec3ec46d",
            "PLIP ViT-B/32, pathology images with posts about them",
            "none is stated; for research, see its card",
            "Huang et al. 2023, doi 10.1038/s41591-023-02504-3",
            size=224,
            memory=605,
        ),
        Entry(
            "pubmedclip",
            "hf-hub:flaviagiammarino/pubmed-clip-vit-base-patch32",
            "PubMedCLIP ViT-B/32, radiology images and captions of papers (ROCO)",
            "MIT",
            "Eslami et al. 2023, arXiv 2112.13906",
            size=224,
            memory=605,
        ),
        Entry(
            "medsiglip",
            "hf-hub:google/medsiglip-448",
            "MedSigLIP, X-ray, CT, MRI, skin, eye and tissue images with their reports; large, wants a GPU",
            "Health AI Developer Foundations terms of use",
            "Sellergren et al. 2025, arXiv 2507.05201",
            size=448,
            memory=3513,
            gate="https://huggingface.co/google/medsiglip-448",
            ct_windows=(("Wide", -100, 2250), ("Soft tissue", 40, 350), ("Brain", 40, 80)),
        ),
    )
}
# Architectures whose own configuration is on a hub, kept here so that they can be built (with random weights) offline.
ARCHITECTURES = {
    REGISTRY[name].source: ASSETS / "architectures" / folder
    for name, folder in (
        ("biomedclip", "biomedclip"),
        ("plip", "clip_b_32"),
        ("pubmedclip", "clip_b_32"),
        ("medsiglip", "medsiglip"),
        ("siglip2-b-16", "siglip2_b_16"),
    )
}


def entry_of(name: str) -> Entry:
    """What is known of a backbone by a name as `load_backbone` takes it; of one that is not in the list only where it
    is from."""
    if name in REGISTRY:
        return REGISTRY[name]
    local = name.startswith(LOCAL)
    where = "a model in a folder of this machine" if local else "a model of the Hugging Face Hub, see its card"
    return Entry(name, name, where, "not known here", "", size=0, memory=0, offline=local)


def offerable(names: str) -> list[str]:
    """The backbones that a page is to offer, by names separated by commas. Raises NearlError for a name that is neither
    in the list nor on the hub nor a folder here."""
    found = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    for name in found:
        if name.startswith(LOCAL) and not Path(name.removeprefix(LOCAL)).is_dir():
            raise NearlError(f"There is no folder '{name.removeprefix(LOCAL)}' with a backbone to offer.")
        if name not in REGISTRY and not name.startswith((HUB, LOCAL)):
            close = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.5)
            hint = f"did you mean '{close[0]}'?" if close else "see `python -m nearl backbones` for the list."
            raise NearlError(f"'{name}' is no backbone that can be offered; {hint}")
    return found


def own_windows(name: str) -> tuple[Window, ...]:
    """The CT windows of a backbone's training images, as red, green and blue; () where it has none of its own."""
    from nearl.data.formats.windows import Window

    return tuple(Window(*window) for window in REGISTRY[name].ct_windows) if name in REGISTRY else ()


def three_windows(name: str) -> tuple[Window, ...]:
    """The CT windows to show as red, green and blue: the backbone's own, else the usual ones."""
    from nearl.data.formats.windows import THREE_CT

    return own_windows(name) or THREE_CT


def card(entry: Entry) -> str:
    """The address of a model's card on the hub; "" where it has none."""
    source = entry.weights or entry.source
    return f"https://huggingface.co/{split(source)[0]}" if source.startswith(HUB) else ""


def split(source: str) -> tuple[str, str | None]:
    """(owner/name, revision or None) of ``hf-hub:owner/name@revision``."""
    name, _, revision = source.removeprefix(HUB).partition("@")
    return name, revision or None


def hub_cache() -> Path:
    """Where huggingface_hub keeps its downloads, told as it does without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return Path(os.path.expandvars(named or Path(home) / "hub")).expanduser()


def cached(entry: Entry) -> bool:
    """Whether the weights are on this machine, all of them: in the repository or a folder, or downloaded from a hub."""
    if entry.offline:
        return True
    name, revision = split(entry.weights or entry.source)
    repository = repository_cache(name)
    if revision and (repository / "refs" / revision).is_file():  # a branch or a pull request
        revision = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    found = (repository / "snapshots").glob
    return any(_whole(path) for file in WEIGHTS for path in found(f"{revision or '*'}/{file}"))


def repository_cache(name: str) -> Path:
    """Where huggingface_hub keeps its downloads of a repository, owner/name."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def _whole(path: Path) -> bool:
    """Whether a file of weights is there, with the files that it names where it is an index."""
    if path.name != INDEX or not path.is_file():
        return path.is_file()
    try:
        parts = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return all((path.parent / part).is_file() for part in parts)
