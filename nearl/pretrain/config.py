"""A pretraining config: its classes, the files of the training splits, and the phantoms to draw."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml

from nearl.data.phantoms.kinds import CLASSES
from nearl.errors import NearlError

PHANTOM_SEED = 7_000_000_000  # far from the seeds of tests and examples


def data_location(data_root: Path | str | None = None) -> Path:
    """The folder of the sets: the argument, else `NEARL_DATA`, else ../shared/data beside the project."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(data_root or os.environ.get("NEARL_DATA") or beside)


def read_config(path: Path | str) -> dict[str, Any]:
    """Read a pretraining config; raises NearlError if it is not YAML or lacks a section."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise NearlError(f"The pretraining config {path} cannot be read: {error}.") from error
    missing = {"seed", "hold_out", "model", "training", "sets", "families", "findings"} - set(config or {})
    if missing:
        raise NearlError(f"The pretraining config {path} lacks the sections {', '.join(sorted(missing))}.")
    return config


def concepts_of(config: dict[str, Any]) -> list[str]:
    """`set/class` of every class in the config, in its order."""
    return [f"{name}/{label}" for name, entry in config["sets"].items() for label in entry["classes"]]


def twins(config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for every concept, the phantom concept of its set without and with a lesion; itself for real images."""
    concepts = concepts_of(config)
    names = [concept.split("/")[0] for concept in concepts]
    pair = [
        [concepts.index(f"{name}/{label}") if "phantom" in config["sets"][name] else i for label in CLASSES]
        for i, name in enumerate(names)
    ]
    return tuple(torch.tensor(pair).T)


def train_files(
    config: dict[str, Any], root: Path
) -> tuple[list[tuple[Path | int, int]], list[tuple[Path | int, int]]]:
    """(file, concept index) of the images to learn from, and of the held-out ones, from `<set>/train` alone.

    The last `hold_out` of every class in file order is held out, as a block: neighbours are often of one patient. A
    phantom has a seed in place of a file. Raises NearlError if a class does not have the number of images that the
    config states.
    """
    learn, held = [], []
    for index, concept in enumerate(concepts_of(config)):
        name, label = concept.split("/")
        expected = config["sets"][name]["classes"][label]
        if "phantom" in config["sets"][name]:
            files: list[Path | int] = [PHANTOM_SEED + 1_000_000 * index + i for i in range(expected)]
        else:
            folder = root / name / "train" / label
            files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
            if len(files) != expected:
                raise NearlError(f"{folder} has {len(files)} images where the pretraining config states {expected}.")
        cut = len(files) - max(1, round(len(files) * config["hold_out"]))
        learn += [(path, index) for path in files[:cut]]
        held += [(path, index) for path in files[cut:]]
    return learn, held


def manifest_lines(files: list[tuple[Path | int, int]], root: Path) -> list[str]:
    """A line "first 16 hex digits of the sha256, two spaces, set/train/class/file" per image, sorted by path."""
    paths = sorted(path for path, _ in files if isinstance(path, Path))
    return [f"{sha256(path.read_bytes()).hexdigest()[:16]}  {path.relative_to(root).as_posix()}" for path in paths]


def check_manifest(manifest: Path, files: list[tuple[Path | int, int]], root: Path) -> None:
    """Raise NearlError naming an image that is not byte for byte the one that the manifest lists."""
    listed = manifest.read_text(encoding="utf-8").splitlines()
    for line in set(listed) ^ set(manifest_lines(files, root)):
        name = line.split("  ", 1)[1]
        raise NearlError(
            f"The image {name} is not the one that {manifest.name} lists (missing, added or changed); see the model "
            "card for how the images were prepared, or remove the line `manifest` from the config."
        )
