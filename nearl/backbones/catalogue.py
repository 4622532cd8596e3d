"""The known backbones by name. Imports no model library, so that listing them is quick."""

from __future__ import annotations

from typing import NamedTuple

from nearl.resources import ASSETS


class Entry(NamedTuple):
    """A known backbone."""

    name: str
    source: str  # as open_clip's factory takes it
    description: str
    licence: str
    offline: bool = False  # loads without a network


REGISTRY = {
    entry.name: entry
    for entry in (
        Entry(
            "embedded",
            f"local-dir:{ASSETS / 'backbone'}",
            "small medical CLIP of our own, in this repository; works with no network",
            "CC BY-SA 4.0, see assets/backbone/README.md",
            offline=True,
        ),
        Entry("ViT-B-32/openai", "ViT-B-32/openai", "CLIP ViT-B/32, natural images; the fastest of CLIP's own", "MIT"),
        Entry("ViT-B-16/openai", "ViT-B-16/openai", "CLIP ViT-B/16, natural images; the usual reference", "MIT"),
        Entry("ViT-L-14/openai", "ViT-L-14/openai", "CLIP ViT-L/14, natural images; large, wants a GPU", "MIT"),
        Entry(
            "biomedclip",
            "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
            "BiomedCLIP ViT-B/16 with PubMedBERT, figures and captions of biomedical papers",
            "MIT",
        ),
        Entry("siglip-b-16", "ViT-B-16-SigLIP/webli", "SigLIP ViT-B/16, natural images, sigmoid loss", "Apache-2.0"),
        Entry(
            "quiltnet-b-32",
            "hf-hub:wisdomik/QuiltNet-B-32",
            "QuiltNet ViT-B/32, histology images with narration",
            "MIT",
        ),
    )
}
# Architectures whose own configuration is on a hub, kept here so that they can be built (with random weights) offline.
ARCHITECTURES = {REGISTRY["biomedclip"].source: ASSETS / "architectures" / "biomedclip"}
