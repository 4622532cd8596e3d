"""What the chooser knows of the models that are offered, and how one of them is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from app.engine import Engine
from app.models.memory import gigabytes, label
from app.visitor.shelf import Entry
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import REGISTRY, card, entry_of
from nearl.errors import NearlError

CHOSEN, HERE, AWAY, COMING = "chosen", "here", "away", "coming"


@dataclass(frozen=True)
class Offer:
    """A model that is offered, as a visitor sees it."""

    name: str
    """As it is shown."""
    about: str
    """What it is and what it was trained on."""
    facts: tuple[str, ...]
    """Where it is, its size, its input, and the paper."""
    licence: str
    gate: str
    """The page on which its terms have to be accepted, "" where there is none."""
    card: str
    """The address of its card, "" where it has none."""
    where: str
    """CHOSEN for the one that the visitor reads with, HERE for one on this machine, AWAY for one to download, COMING
    for one whose download the visitor waits for."""
    download: str = ""
    """How much there is to download; "" where that is not known."""


def offers(engine: Engine, workspace: Workspace | None) -> list[Offer]:
    """All models that are offered, in their order."""
    chosen, coming = engine.chosen(workspace), "" if workspace is None else _coming(engine, workspace)
    return [
        _offer(engine, name, CHOSEN if name == chosen else COMING if name == coming else "")
        for name in list(engine.models.names)
    ]


def _coming(engine: Engine, workspace: Workspace) -> str:
    """The name of the model whose download the visitor waits for; "" where there is none."""
    found = engine.downloads.of(workspace)
    return found.name if found is not None and not found.ended else ""


def _offer(engine: Engine, name: str, where: str) -> Offer:
    """`where`: "" to find out."""
    entry, models = entry_of(name), engine.models
    here = models.here(name)
    place = "in this repository" if name in REGISTRY and entry.offline else "on this machine"
    size, side = models.size(name), models.side(name)
    facts = [
        place if here else "not on this machine yet",
        f"{gigabytes(size)} of memory" if size else "",
        f"reads images at {side} × {side} pixels" if side else "",
        entry.citation if " " in entry.citation else "",
    ]
    return Offer(
        label(name),
        entry.description[:1].upper() + entry.description[1:],
        tuple(filter(None, facts)),
        entry.licence,
        entry.gate,
        card(entry),
        where or (HERE if here else AWAY),
        gigabytes(size) if size else "",
    )


def choose(engine: Engine, workspace: Workspace, name: str) -> None:
    """Read with another model from now on, without an adapter, which belonged to the one before; with one that is not
    on this machine as soon as it was downloaded. NearlError, with nothing changed, where it cannot be loaded."""
    if not engine.models.here(name):
        engine.models.check_size(name)
        engine.downloads.begin(workspace, name)
        return
    engine.downloads.cancel(workspace)
    engine.models.get(name)
    if name != engine.chosen(workspace):
        workspace.choose(name)


def aside(workspace: Workspace | None) -> Entry | None:
    """The adapter that was put aside with its model, where none is in use now."""
    if workspace is None or not workspace.aside or workspace.shelf.in_use:
        return None
    return workspace.shelf.entry(workspace.aside)


def put_back(engine: Engine, workspace: Workspace) -> None:
    """Read again with the adapter that was put aside, and with its model. NearlError where it is no longer there."""
    entry = aside(workspace)
    if entry is None:
        raise NearlError("There is no adapter to put back; choose one on your shelf in Teach.")
    adapter = workspace.shelf.load(entry.id)
    choose(engine, workspace, engine.home(workspace, adapter.meta["backbone"]))
    workspace.shelf.use(entry.id, adapter)
