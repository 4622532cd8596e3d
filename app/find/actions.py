"""What the Find tab does: find, among the images to teach with, those closest to a sentence or an image."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.context import shown_name
from app.engine import Engine
from app.teach.images.looking import counts, label_of
from app.visitor.workspace import Workspace
from nearl.data.images import ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.reading.gallery import Gallery, Hit, Places, Seer

SHOWN = 10  # images in a row of answers
LONGEST = 300  # characters of a sentence, as of a prompt
NOTHING = "There are no images to search yet: bring labelled images in Teach, or take a ready task there."
BYTES = 2 * 4  # of a number of an embedding, before and after


@dataclass(frozen=True)
class Picture:
    """One image that was found."""

    record: ImageRecord
    label: str
    similarity: float
    """Cosine, -1..1."""
    taught: bool
    """Whether the adapter in use was taught with it, as far as it says."""


@dataclass(frozen=True)
class Found:
    """What was found, and how far to trust it."""

    sentence: str
    """What was asked with; "" for an image."""
    query: ImageRecord | None
    before: list[Picture]
    after: list[Picture] | None
    """None without an adapter."""
    total: int
    """Images that were searched."""
    all_taught: bool = False
    """Whether the adapter in use was taught with all of them, as far as it says."""
    refused: str = ""
    """Why nothing is shown, in a sentence."""
    notes: list[str] = field(default_factory=list)
    figures: dict | None = None
    """Of `nearl.measure.retrieval.study`: how often an image finds its class; None where it cannot be measured."""
    held: bool = False
    """Whether separate test images asked for the figures."""


@dataclass(frozen=True)
class Going:
    """How far the index is."""

    done: int
    total: int


def about(workspace: Workspace) -> str:
    """Which images are searched, in a sentence; "" where there are none."""
    data = workspace.support.data
    if data is None or not len(data):
        return ""
    named = ", ".join(f"{shown_name(name)} {count[0]}" for name, count in counts(data).items())
    return f"The {len(data)} images that you teach with: {named}."


def search(engine: Engine, workspace: Workspace, sentence: str | None, anyway: bool = False) -> Iterator[Going | Found]:
    """Index the images that are new, which yields how far it is, then find: with a sentence, or without one with the
    image on show in Predict. ``anyway``: also where that image is unlike all of them. It begins again where another
    model or adapter was chosen meanwhile."""
    begun = None
    while begun != (now := (engine.chosen(workspace), workspace.shelf.in_use)):
        begun = now
        for found in _search(engine, workspace, sentence, anyway):
            if isinstance(found, Going) or begun == (engine.chosen(workspace), workspace.shelf.in_use):
                yield found


def _search(engine: Engine, workspace: Workspace, sentence: str | None, anyway: bool) -> Iterator[Going | Found]:
    """As `search`, with the model and adapter that are chosen when it begins."""
    from nearl.reading.index import Index

    if not about(workspace):
        raise NearlError(NOTHING)
    query = _query(workspace, sentence)
    seer = _seer(engine, workspace)
    kept = Index(workspace.support.index)
    try:
        gallery = yield from _indexed(engine, workspace, seer, kept)
    finally:
        kept.close()
    data = workspace.support.needed()
    with engine.device_lock:
        places = seer.sentence(sentence) if query is None else seer.images([query.still()])
    taught = gallery.subset(range(len(data)))
    notes = _notes(seer, sentence, workspace)
    refused = "" if query is None or anyway else taught.unlike(places)
    figures, held = _figures(seer, gallery, workspace)
    if refused:
        yield Found("", query, [], None, len(data), False, refused, notes, figures, held)
        return
    if query is not None and query.digest in {record.digest for record in data.records}:
        notes.append("The image itself is among them and is left out.")
    best = max(float((ask @ taught.places.moments[when].T).max()) for when, ask in places.moments.items())
    if query is None and best <= 0:
        notes.append("Nothing here is close to this sentence: no similarity is above zero.")
    known = _taught(seer, data.records)
    rows = {when: _pictures(workspace, taught, places, when, query, known) for when in places.moments}
    every = len(known) == len(data)
    yield Found(sentence or "", query, rows["before"], rows.get("after"), len(data), every, "", notes, figures, held)


def _query(workspace: Workspace, sentence: str | None) -> ImageRecord | None:
    if sentence is None:
        if workspace.viewing.record is None:
            raise NearlError("There is no image in Predict to search with; bring one there, or describe it in words.")
        return workspace.viewing.record
    if len(sentence) > LONGEST:
        raise NearlError(f"The sentence is {len(sentence)} characters long; shorten it to at most {LONGEST}.")
    return None


def _seer(engine: Engine, workspace: Workspace) -> Seer:
    from nearl.methods import Task, make, restore
    from nearl.prompts import default_prompts
    from nearl.reading.gallery import Seer

    backbone, adapter = engine.backbone(workspace), workspace.shelf.adapter
    zero_shot = make("zero-shot", Task(backbone, default_prompts(["image"])))
    with engine.device_lock:
        return Seer(zero_shot, None if adapter is None else restore(backbone, adapter))


def _indexed(engine: Engine, workspace: Workspace, seer: Seer, kept) -> Generator[Going, None, Gallery]:
    """The images to teach with and, after them, the separate test images."""
    from nearl.reading.gallery import Entry, index_records

    entries, records = [], []
    for part, data in (("train", workspace.support.needed()), ("test", workspace.support.held_out)):
        if data is not None:
            groups = data.groups or [""] * len(data)
            named = (label_of(data, i) for i in range(len(data)))
            entries += [Entry(r.name, n, part, g) for r, n, g in zip(data.records, named, groups, strict=True)]
            records += data.records
    workspace.check_room(len(records) * seer.backbone.embed_dim * BYTES)
    going = index_records(seer, entries, records, kept, engine.device_lock)
    while True:
        try:
            yield Going(next(going), len(records))
        except StopIteration as end:
            return end.value


def _pictures(
    workspace: Workspace, gallery: Gallery, places: Places, when: str, query: ImageRecord | None, known: set[int]
) -> list[Picture]:
    from nearl.reading.gallery import nearest

    data = workspace.support.needed()
    hits: list[Hit] = nearest(places.moments[when], gallery.places.moments[when], SHOWN + 1)
    own = "" if query is None else query.digest
    return [
        Picture(data.records[hit.index], label_of(data, hit.index), hit.score, hit.index in known)
        for hit in hits
        if data.records[hit.index].digest != own
    ][:SHOWN]


def _notes(seer: Seer, sentence: str | None, workspace: Workspace) -> list[str]:
    notes = []
    if sentence is not None:
        if unknown := seer.unknown(sentence):
            notes.append(f"The model ignores words that it does not know: {', '.join(unknown)}.")
        (rest,) = seer.backbone.unread([sentence])
        if rest:
            notes.append(f"The model reads only the beginning of the sentence; it does not read “{rest}”.")
    return notes


def _taught(seer: Seer, records: Sequence[ImageRecord]) -> set[int]:
    """The places of the images that the adapter says it was taught with."""
    from nearl.data.sets.labelled import LabelledSet
    from nearl.train.samples import fingerprints

    seen = None if seer.method is None else seer.method.adapter().meta.get("images")
    if not seen:
        return set()
    some = LabelledSet(["image"], list(records), [0] * len(records))
    taught = set(seen["taught"])
    return {place for place, one in enumerate(fingerprints(seer.backbone, some)) if one in taught}


def _figures(seer: Seer, gallery: Gallery, workspace: Workspace) -> tuple[dict | None, bool]:
    """How often an image finds its class. Without separate test images only before teaching: after it, images that
    were taught with find each other."""
    from nearl.measure.retrieval import study

    if isinstance(workspace.support.needed(), FindingsSet):  # an image has no one class to find
        return None, False
    try:
        found = study(seer, gallery).get("images")
    except NearlError:  # one class, or one image of each
        return None, False
    held = bool(found and found["split"])
    if found and not held:
        found = {**found, "after": None}
    return found, held
