"""The visitor's adapters: a folder each, with the adapter as `nearl.adapters.store` writes it and entry.json with
its name."""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.visitor.disk import read_json, write_json
from app.visitor.workspace import Workspace
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from app.engine import Engine
    from nearl.adapters.store import Adapter

ENTRY = "entry.json"
KEY = re.compile(r"[0-9a-f]{16}")
MAX_NAME = 60
MAX_ADAPTERS = 24


@dataclass(frozen=True)
class Entry:
    """One adapter on the shelf. `created`: ISO 8601, UTC. `figures`: balanced accuracy on `n` images that it was not
    taught with, {"n", "before": {"value", "interval"}, "after": {...}}, or None where nothing was measured."""

    id: str
    name: str
    classes: list[str]
    created: str
    method: str
    support_counts: dict[str, int]
    figures: dict | None = None
    in_use: bool = False


def items(workspace: Workspace) -> list[Entry]:
    """The shelf, the newest first."""
    folders = (workspace.path / "shelf").glob("*")
    found = [e for e in (entry(workspace, folder.name) for folder in folders) if e is not None]
    return sorted(found, key=lambda e: (e.created, e.id), reverse=True)


def entry(workspace: Workspace, key: str) -> Entry | None:
    """One adapter of this visitor, or None if there is none of that id."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        return None
    content = read_json(workspace.path / "shelf" / key / ENTRY)
    return Entry(**content, id=key, in_use=workspace.state.get("in_use") == key) if content else None


def put(workspace: Workspace, adapter: Adapter, name: str = "") -> str:
    """Put an adapter on the shelf; returns its id. NearlError if the shelf or the workspace is full."""
    from nearl.adapters.store import save_adapter

    check_room(workspace)
    workspace.check_room(sum(value.nbytes for value in adapter.state.values()))
    key = secrets.token_hex(8)
    folder = workspace.path / "shelf" / key
    save_adapter(adapter, folder)
    meta = adapter.meta
    content = {
        "name": _tidy(name) or _free_name(workspace, meta["classes"]),
        "classes": list(meta["classes"]),
        "created": meta["created"],
        "method": meta["method"],
        "support_counts": dict(meta["support_counts"]),
        "figures": _figures(meta.get("metrics")),
    }
    write_json(folder / ENTRY, content)
    return key


def check_room(workspace: Workspace) -> None:
    """Raises NearlError if the shelf is full."""
    if len(items(workspace)) >= MAX_ADAPTERS:
        raise NearlError(f"Your shelf holds {MAX_ADAPTERS} adapters; delete one of them first.")


def load(workspace: Workspace, key: str) -> Adapter:
    """NearlError if there is no such adapter on this visitor's shelf, or it is damaged."""
    from nearl.adapters.store import load_adapter

    _known(workspace, key)
    return load_adapter(workspace.path / "shelf" / key)


def use(engine: Engine, workspace: Workspace, key: str | None) -> None:
    """Read with this adapter from now on; None for none. NearlError if it does not fit the model that is loaded."""
    if not key:
        workspace.set_adapter(None)
        return
    adapter = load(workspace, key)
    check_fits(engine, adapter)
    workspace.set_adapter(adapter, key)


def check_fits(engine: Engine, adapter: Adapter) -> None:
    """Raises NearlError for an adapter of another backbone, or whose tensors do not fit their configuration."""
    backbone = engine.backbone()
    from nearl.methods import restore

    with engine.device_lock:
        restore(backbone, adapter)


def rename(workspace: Workspace, key: str, name: str) -> None:
    _known(workspace, key)
    name = _tidy(name)
    if not name:
        raise NearlError("An adapter needs a name; type one.")
    path = workspace.path / "shelf" / key / ENTRY
    write_json(path, {**read_json(path), "name": name})


def delete(workspace: Workspace, key: str) -> None:
    """Remove an adapter from the shelf; if it is in use, the model is as it was before teaching."""
    _known(workspace, key)
    if workspace.state.get("in_use") == key:
        workspace.set_adapter(None)
    shutil.rmtree(workspace.path / "shelf" / key, ignore_errors=True)


def zip_file(workspace: Workspace, key: str) -> Path:
    """An adapter as one zip to download; its file name says nothing about the visitor."""
    from nearl.adapters.store import zip_adapter

    return zip_adapter(load(workspace, key), workspace.folder / "nearl-adapter.zip")


def add(engine: Engine, workspace: Workspace, path: str | Path) -> str:
    """Put an adapter from a zip on the shelf; returns its id. NearlError if it is not fit for use with this model."""
    backbone = engine.backbone()
    from nearl.adapters.store import load_adapter

    adapter = load_adapter(path, backbone.identity)
    check_fits(engine, adapter)
    return put(workspace, adapter, adapter.meta.get("name") or "")


def push(workspace: Workspace, key: str, repo: str, token: str | None, private: bool = False) -> str:
    """Publish an adapter on the Hub with the visitor's own token; returns its address."""
    from nearl.adapters import hub

    return hub.push(load(workspace, key), repo, token=token, private=private)


def pull(engine: Engine, workspace: Workspace, repo: str, token: str | None = None) -> str:
    """Put an adapter from the Hub on the shelf; returns its id."""
    backbone = engine.backbone()
    from nearl.adapters import hub

    adapter = hub.pull(repo, token=token, identity=backbone.identity)
    check_fits(engine, adapter)
    return put(workspace, adapter, adapter.meta.get("name") or repo.rpartition("/")[2])


def compare(
    engine: Engine, workspace: Workspace, keys: Sequence[str], record: ImageRecord | None = None
) -> list[tuple[str, list[str], list[float]]]:
    """(name, classes, shares 0..1) that each of these adapters gives one image, asked with the prompts it was taught
    with. The image is `record`, or that on show in Predict. NearlError if there is none."""
    if record is None:
        if not workspace.records:
            raise NearlError("There is no image to compare on yet; choose an example or bring one in Predict.")
        record = workspace.records[workspace.selected]
    backbone = engine.backbone()
    from nearl.reading.classifier import Classifier

    found = []
    for key in keys:
        adapter = load(workspace, key)
        with engine.device_lock:
            classifier = Classifier(backbone, PromptSet.from_dict(adapter.meta["prompts"]), adapter)
            prediction = classifier.predict([record])
        found.append((entry(workspace, key).name, list(prediction.classes), [float(p) for p in prediction.adapted[0]]))
    return found


def _known(workspace: Workspace, key: str) -> None:
    if entry(workspace, key) is None:
        raise NearlError("There is no such adapter on your shelf; choose one of those that are there.")


def _tidy(name: object) -> str:
    return " ".join(str(name or "").split())[:MAX_NAME]


def _free_name(workspace: Workspace, classes: list[str]) -> str:
    """The classes in short, with a number where that name is taken."""
    stem = _tidy(", ".join(classes[:3]) + (" …" if len(classes) > 3 else ""))
    taken = {e.name for e in items(workspace)}
    names = [stem, *(f"{stem} ({number})" for number in range(2, MAX_ADAPTERS + 2))]
    return next(name for name in names if name not in taken)


def _figures(metrics: object) -> dict | None:
    """Balanced accuracy before and after, from what `nearl.measure.evaluate.study` wrote into the adapter; a
    stranger's adapter
    may hold anything there."""
    from nearl.report.content import readable

    if not readable(metrics) or metrics["adapted"] is None:
        return None
    parts = {"before": metrics["frozen"], "after": metrics["adapted"]}
    shown = {
        word: {"value": part["balanced_accuracy"], "interval": part["balanced_accuracy_interval"]}
        for word, part in parts.items()
    }
    return {"n": metrics["n"], **shown}
