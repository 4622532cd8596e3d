"""What a pretrained backbone counts as familiar: statistics of its training images, kept beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from nearl.backbones import load_backbone
from nearl.backbones.familiar import FEWEST_TO_COMPARE, Familiar
from nearl.data.images import ImageRecord, decode_picture
from nearl.data.phantoms.kinds import CLASSES, make_phantom
from nearl.errors import NearlError
from nearl.methods import Frozen
from nearl.pretrain.config import concepts_of, data_location, read_config, train_files

MOST_LEARNED = 100  # images of each class
MOST_DRAWN = 60  # phantoms of each class
MOST_TESTED = 60  # test images of each class


def note_familiar(
    config_path: Path | str,
    folder: Path | str,
    data_root: Path | str | None = None,
    progress: Callable[[str], None] = print,
) -> Familiar:
    """Fit a `Familiar` for the backbone in `folder` and write it beside the weights.

    Three parts of the config's sets have a part of their own: images learned from (`MOST_LEARNED` of each class, so
    that it takes minutes) say what is usual, the real held-out ones set the limit, and test images, where there are
    any, say how many are called unlike by mistake.
    Raises NearlError if there are too few held-out ones, or if the config, the data or the backbone do not fit.
    """
    config, backbone = read_config(config_path), load_backbone(f"local-dir:{folder}")
    frozen = Frozen(backbone)
    concepts = [concept.split("/") for concept in concepts_of(config)]
    root = data_location(data_root)
    learn, held = train_files(config, root)
    held = [file for file in held if isinstance(file[0], Path)]
    if len(held) < FEWEST_TO_COMPARE:
        raise NearlError(f"Telling unlike images takes {FEWEST_TO_COMPARE} held-out ones; there are {len(held)}.")

    def embedded(files: list[tuple[Path | int, int]]) -> Tensor:
        records = [_record(source, *concepts[index], config) for source, index in files]  # type: ignore[call-arg]
        return frozen.embed(frozen.pooled(records)).cpu()

    groups: dict[str, list[tuple[Path | int, int]]] = {}
    for index, (name, _) in enumerate(concepts):
        files = [file for file in learn if file[1] == index]
        most = MOST_LEARNED if files and isinstance(files[0][0], Path) else MOST_DRAWN
        groups.setdefault(name, []).extend(files[:: -(-len(files) // most) or 1])
    learned = {}
    for name, files in groups.items():
        progress(f"{name}: {len(files)} images")
        learned[name] = embedded(files)
    found = Familiar.fit(learned, embedded(held))
    if tests := _test_files(concepts, root):
        progress(f"test: {len(tests)} images")
        found = found.measured(embedded(tests))
    found.save(folder, backbone.identity["weights"])
    return found


def _test_files(concepts: list[list[str]], root: Path) -> list[tuple[Path | int, int]]:
    """(file, concept index) of test images, spread evenly over those of each class."""
    tests: list[tuple[Path | int, int]] = []
    for index, (name, label) in enumerate(concepts):
        files = sorted(p for p in (root / name / "test" / label).glob("*") if p.is_file() and _readable(p))
        tests += [(file, index) for file in files[:: -(-len(files) // MOST_TESTED) or 1]]
    return tests


def _readable(path: Path) -> bool:
    try:
        decode_picture(path, max_side=8)
    except NearlError:
        return False
    return True


def _record(source: Path | int, name: str, label: str, config: dict[str, Any]) -> ImageRecord:
    """The image of a file, or the phantom of a seed."""
    if isinstance(source, Path):
        return decode_picture(source)
    phantom = make_phantom(config["sets"][name]["phantom"], label == CLASSES[1], source)
    return ImageRecord.from_pixels(f"{name} {source}", phantom.pixels)
