"""What a pretrained backbone is to call familiar: the embeddings of the images that it learned from, kept beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from nearl.backbones import Backbone, load_backbone
from nearl.data.images import decode_picture
from nearl.data.phantoms import CLASSES, make_phantom
from nearl.errors import NearlError
from nearl.familiar import Familiar
from nearl.pretrain.config import concepts_of, data_location, read_config, train_files
from nearl.trust import FEWEST_TO_COMPARE

MOST_DRAWN = 100  # phantoms of each class
BATCH = 64


def note_familiar(
    config_path: Path | str,
    folder: Path | str,
    data_root: Path | str | None = None,
    progress: Callable[[str], None] = print,
) -> Familiar:
    """Fit a `Familiar` for the backbone in `folder` and write it beside the weights.

    It is fitted to the images of the config's sets, with the distance that 95 % of the real held-out ones keep. Raises
    NearlError if there are too few of these, or if the config, the data or the backbone do not fit.
    """
    config, backbone = read_config(config_path), load_backbone(f"local-dir:{folder}")
    concepts = [concept.split("/") for concept in concepts_of(config)]
    learn, held = train_files(config, data_location(data_root))
    held = [file for file in held if isinstance(file[0], Path)]
    if len(held) < FEWEST_TO_COMPARE:
        raise NearlError(f"Telling unlike images takes {FEWEST_TO_COMPARE} held-out ones; there are {len(held)}.")

    def picture(source: Path | int, index: int) -> Image.Image:
        name, label = concepts[index]
        if isinstance(source, Path):
            return decode_picture(source).image()
        return Image.fromarray(make_phantom(config["sets"][name]["phantom"], label == CLASSES[1], source).pixels)

    groups: dict[str, list[tuple[Path | int, int]]] = {}
    drawn = dict.fromkeys(range(len(concepts)), 0)
    for source, index in learn:
        drawn[index] += isinstance(source, int)
        if drawn[index] <= MOST_DRAWN:
            groups.setdefault(concepts[index][0], []).append((source, index))
    embedded = {}
    for name, files in groups.items():
        progress(f"{name}: {len(files)} images")
        embedded[name] = _embed(backbone, [lambda f=f: picture(*f) for f in files])
    found = Familiar.fit(embedded, _embed(backbone, [lambda f=f: picture(*f) for f in held]))
    found.save(folder, backbone.identity["weights"])
    return found


@torch.no_grad()
def _embed(backbone: Backbone, pictures: list[Callable[[], Image.Image]]) -> torch.Tensor:
    """Pictures, each made when it is its turn -> unit embeddings [N, E] on the CPU."""
    parts = []
    for start in range(0, len(pictures), BATCH):
        pixels = torch.stack([backbone.to_uint8(make()) for make in pictures[start : start + BATCH]])
        parts.append(backbone.encode_image(backbone.normalise(pixels)).float().cpu())
    return torch.cat(parts)
