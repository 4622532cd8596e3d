"""What the page does with a visitor's adapters and the model: use, bring, publish, fetch and compare them.

Where nothing else is said, NearlError is raised with one sentence and nothing has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.engine import Engine
from app.models.memory import label
from app.predict.study.actions import as_read
from app.visitor.workspace import Workspace
from app.work.run import forget_adapter
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter

UNUSABLE = "This adapter gives no usable numbers; ask for the file again or teach it again."


def use(engine: Engine, workspace: Workspace, key: str | None) -> None:
    """Read with this adapter of the shelf from now on, and with the model that it belongs to; or with no adapter."""
    adapter = workspace.shelf.load(key) if key else None
    if adapter is not None:
        model = check_fits(engine, workspace, adapter)
        if model != engine.chosen(workspace):
            workspace.choose(model)
    workspace.shelf.use(key, adapter)


@dataclass(frozen=True)
class Home:
    """The model that an adapter belongs to, where there are several."""

    model: str
    """As it is shown."""
    where: str
    """"own" for the one that the visitor reads with; "here", "away" for one that has to be downloaded first, "none" for
    one that is not offered."""


def homes(engine: Engine, workspace: Workspace) -> dict[str, Home]:
    """By the id of each adapter on the shelf, the model that it belongs to; nothing where there is one model alone."""
    found, chosen = {}, engine.chosen(workspace)
    for item in workspace.shelf.items() if engine.models.several else ():
        name = engine.models.owner(item.backbone)
        where = "own" if name == chosen else "none" if not name else "here" if engine.models.here(name) else "away"
        found[item.id] = Home(label(name or item.backbone.get("name") or "an unknown model"), where)
    return found


def take(engine: Engine, workspace: Workspace, key: str) -> str:
    """Read with an adapter that has just been put on the shelf, unless it belongs to another model than the one in use;
    says so then, in a sentence."""
    home = homes(engine, workspace).get(key)
    if home is None or home.where == "own":
        use(engine, workspace, key)
        return ""
    return f"It is on your shelf, and belongs to the model “{home.model}”; switch to that one there to use it."


def delete(workspace: Workspace, key: str) -> None:
    """Delete an adapter for good, the copies in the runs that it came from too."""
    workspace.shelf.delete(key)
    forget_adapter(workspace, key)


def check_fits(engine: Engine, workspace: Workspace, adapter: Adapter) -> str:
    """The name of the model that an adapter belongs to, one of those offered.

    Raises NearlError for an adapter of another backbone, whose tensors do not fit their configuration, that says
    nonsense about how far to trust it, or that gives no numbers for a grey image.
    """
    engine.backbone()  # once there is one at all
    model = engine.home(workspace, adapter.meta["backbone"])
    backbone = engine.models.get(model)
    from nearl.methods import restore
    from nearl.reading.classifier import Classifier

    grey = ImageRecord.from_pixels("grey", np.full((32, 32, 3), 128, np.uint8))
    with engine.device_lock:
        method = restore(backbone, adapter)
        try:
            found = Classifier(backbone, PromptSet.from_dict(adapter.meta["prompts"]), method).predict([grey]).adapted
        except NearlError:
            raise
        except (RuntimeError, ValueError, ArithmeticError, TypeError, LookupError) as error:
            raise NearlError(UNUSABLE) from error
    if found is None or not np.isfinite(found).all():
        raise NearlError(UNUSABLE)
    return model


def add(engine: Engine, workspace: Workspace, path: str | Path) -> str:
    """Put an adapter from a zip on the shelf; returns its id."""
    from nearl.adapters.store import load_adapter

    adapter = load_adapter(path)
    check_fits(engine, workspace, adapter)
    return workspace.shelf.put(adapter, adapter.meta.get("name") or "")


def zip_file(workspace: Workspace, key: str) -> Path:
    """An adapter as one zip to download; its file name says nothing about the visitor."""
    from nearl.adapters.store import zip_adapter

    return zip_adapter(workspace.shelf.load(key), workspace.download("nearl-adapter.zip"))


def push(workspace: Workspace, key: str, repo: str, token: str | None, private: bool = False) -> str:
    """Publish an adapter on the Hub with the visitor's own token; returns its address."""
    from nearl.adapters import hub

    return hub.push(workspace.shelf.load(key), repo, token=token, private=private)


def pull(engine: Engine, workspace: Workspace, repo: str, token: str | None = None) -> str:
    """Put an adapter from the Hub on the shelf; returns its id."""
    from nearl.adapters import hub

    adapter = hub.pull(repo, token=token)
    check_fits(engine, workspace, adapter)
    return workspace.shelf.put(adapter, adapter.meta.get("name") or repo.rpartition("/")[2])


def compare(
    engine: Engine, workspace: Workspace, keys: Sequence[str], record: ImageRecord | None = None
) -> list[tuple[str, list[str], list[float], list[str] | None]]:
    """(name, classes or findings, probabilities, findings said to be present or None) that each of these adapters gives
    one image, asked with the prompts it was taught with. The image is `record`, or that on show in Predict."""
    record = record or workspace.viewing.record
    if record is None:
        raise NearlError("There is no image to compare on yet; choose an example or bring one in Predict.")
    from nearl.methods import restore
    from nearl.reading.classifier import Classifier

    found: list[tuple[str, list[str], list[float], list[str] | None]] = []
    for key in keys:
        adapter, name = workspace.shelf.load(key), workspace.shelf.entry(key).name
        backbone = engine.models.get(engine.home(workspace, adapter.meta["backbone"]))
        with engine.device_lock:
            classifier = Classifier(backbone, PromptSet.from_dict(adapter.meta["prompts"]), restore(backbone, adapter))
            prediction = classifier.predict(as_read(classifier, [record]))
        shares, names = [float(p) for p in prediction.adapted[0]], list(prediction.classes)
        if not (findings := classifier.prompt_set.findings):
            found.append((name, names, shares, None))
            continue
        said = zip(findings, shares[::2], classifier.limits(True), strict=True)
        found.append((name, list(findings), shares[::2], [one for one, share, limit in said if share >= limit]))
    return found
