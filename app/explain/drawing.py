"""The maps of a view, each drawn once: quick ones at once, slow ones in a thread of their own, which can be watched,
gives way to others between its passes, and ends when something else is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.engine import Engine
from app.explain.choice import CLASSES, COMPARE, IMAGES, Choice
from app.predict import findings
from app.predict.actions import AFTER
from app.visitor.maps import MapKey
from app.visitor.workspace import Workspace
from nearl.data.images import ImageRecord

if TYPE_CHECKING:
    from nearl.explain import Heatmap, MapRequest, Trace
    from nearl.reading.classifier import Classifier

CONTROL_SEED = 0
BATCH = 8


@dataclass(frozen=True, eq=False)
class Ask:
    """Maps of one model, for each of these images and classes."""

    records: Sequence[ImageRecord]
    names: Sequence[str]
    requests: Sequence[MapRequest]
    """One for each name."""

    def missing(self, workspace: Workspace) -> list[ImageRecord]:
        """The images of which a map has not been drawn yet."""
        return [r for r in self.records if any(_key(r, one) not in workspace.maps for one in self.requests)]

    def kept(self, workspace: Workspace) -> list[Heatmap]:
        """All its maps, image by image."""
        return [
            replace(workspace.maps[_key(record, request)], class_name=name)
            for record in self.records
            for request, name in zip(self.requests, self.names, strict=True)
        ]


def _key(record: ImageRecord, request: MapRequest) -> MapKey:
    return MapKey(record.digest, request.canonical())


def asks(workspace: Workspace, choice: Choice) -> list[Ask]:
    """What a settled choice asks the model for, in the order in which it is shown."""
    viewing, one = workspace.viewing, [workspace.viewing.record]
    classes, name, after = list(viewing.prediction.classes), [choice.class_name], choice.when == AFTER
    if choice.view == COMPARE:
        return [_ask(classes, choice, one, name, adapted) for adapted in (False, True)]
    if choice.view == CLASSES:
        return [_ask(classes, choice, one, findings.offered(workspace), after)]
    if choice.view == IMAGES:
        return [_ask(classes, choice, viewing.records, name, after)]
    found = [_ask(classes, choice, one, name, after)]
    return [*found, _ask(classes, choice, one, name, after, CONTROL_SEED)] if choice.control else found


def _ask(
    classes: list[str],
    choice: Choice,
    records: Sequence[ImageRecord],
    names: Sequence[str],
    adapted: bool,
    control: int | None = None,
) -> Ask:
    from nearl.explain import MapRequest

    layer, head = (value - 1 if value else None for value in (choice.layer, choice.head))
    how = {"layer": layer, "head": head, "adapted": adapted, "control": control}
    return Ask(records, names, [MapRequest(choice.method, classes.index(name), **how) for name in names])


def missing(workspace: Workspace, choice: Choice) -> bool:
    """Whether a settled choice needs a map that has not been drawn yet."""
    return any(ask.missing(workspace) for ask in asks(workspace, choice))


def waits(workspace: Workspace, choice: Choice) -> bool:
    """Whether a settled choice needs a slow map that has not been drawn yet."""
    from nearl.explain import MAPS

    return MAPS[choice.method].slow and missing(workspace, choice)


def complete(engine: Engine, workspace: Workspace, choice: Choice) -> None:
    """Draw the slow maps of a choice that are missing, during which others are not kept waiting."""
    from nearl.explain import MAPS

    if MAPS[choice.method].slow:
        Drawing(engine, workspace, choice).run()


def drawn(engine: Engine, workspace: Workspace, choice: Choice) -> list[list[Heatmap]]:
    """The maps of each of `asks`; what is missing is drawn first."""
    with workspace.lock:
        for ask in asks(workspace, choice):
            _quick(engine, workspace, ask)
        return [ask.kept(workspace) for ask in asks(workspace, choice)]


def _quick(engine: Engine, workspace: Workspace, ask: Ask) -> None:
    """Draw what is missing; of a single image every quick map that the same pass gives."""
    from nearl.explain import MAPS, draw, look

    card, maps = MAPS[ask.requests[0].map], workspace.maps
    classifier = workspace.viewing.classifier  # it may have to be made, before others wait
    for batch in _batches(ask.missing(workspace)):
        with engine.device_lock:
            trace = look(classifier, batch, ask.requests[0], card.gradient or len(batch) == 1)
            for request in _distinct(ask):
                for one in _bundle(trace, classifier, request, whole=len(batch) == 1):
                    keys = [_key(record, one) for record in batch]
                    if any(k not in maps for k in keys):
                        maps.keep(zip(keys, draw(trace, one), strict=True))


def _batches(records: Sequence[ImageRecord]) -> list[Sequence[ImageRecord]]:
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


def _distinct(ask: Ask) -> Sequence[MapRequest]:
    from nearl.explain import MAPS

    return ask.requests if MAPS[ask.requests[0].map].by_class else ask.requests[:1]


def _bundle(trace: Trace, classifier: Classifier, request: MapRequest, whole: bool) -> set[MapRequest]:
    """The map that is asked for and, if ``whole``, those that the same pass gives besides."""
    from nearl.explain import available

    wanted = {request}
    if whole:
        for other in available(classifier, trace.scorer.adapted, slow=False):
            of = lambda layer, head, key=other.key: replace(request, map=key, layer=layer, head=head)  # noqa: E731
            wanted.add(of(None, None))
            if other.layers and (other.gradient or other.heads or other.adapter):
                blocks = sorted(trace.updates) if other.adapter else range(trace.tower.depth)
                wanted |= {of(k, None) for k in blocks}
                if other.heads:
                    wanted |= {of(k, h) for k in (None, *blocks) for h in range(trace.tower.heads)}
    return wanted


# ---- slow maps


class Stopped(Exception):
    """Raised between two passes of a drawing that was stopped."""


class Drawing:
    """The slow maps of one choice while they are drawn."""

    def __init__(self, engine: Engine, workspace: Workspace, choice: Choice):
        self.choice, self.digest = choice, workspace.viewing.record.digest
        self.share = 0.0  # of the passes that are done
        self.error: Exception | None = None
        self.followed = False  # whether the page is told how far it is
        self.left = False  # it was stopped for another kind of map, which is not drawn yet
        self._engine, self._workspace, self._classifier = engine, workspace, workspace.viewing.classifier
        self._stop, self._ended = threading.Event(), threading.Event()

    def start(self) -> Drawing:
        """Draw in a thread of its own; an exception is kept in `error`."""
        threading.Thread(target=self._work, name="map", daemon=True).start()
        return self

    def stop(self) -> None:
        """End before the next pass; nothing of it is kept. Harmless once it has ended."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def same(self, workspace: Workspace, choice: Choice) -> bool:
        """Whether it is at work on this choice."""
        wanted = (choice, workspace.viewing.record.digest)
        return not self.stopped and not self.ended and (self.choice, self.digest) == wanted

    def _work(self) -> None:
        try:
            self.run()
        except Stopped:
            pass
        except Exception as error:
            self.error = error
        finally:
            self._ended.set()

    def run(self) -> None:
        """Draw in this thread. Raises Stopped, and NearlError where a map cannot be drawn."""
        from nearl.explain import draw, look

        parts = list(self._parts())
        for number, (batch, request) in enumerate(parts):

            def progress(done: int, total: int, number: int = number) -> None:
                self._check()
                self.share = (number + done / total) / len(parts)
                self._engine.device_lock.give_way()

            with self._engine.device_lock:
                self._check()
                trace = look(self._classifier, batch, request, gradient=False)
                trace.progress = progress
                found = draw(trace, request)
            with self._workspace.lock:  # whoever changes what it is about holds this and stops it
                self._check()
                self._workspace.maps.keep(zip([_key(r, request) for r in batch], found, strict=True))

    def _parts(self) -> Iterator[tuple[Sequence[ImageRecord], MapRequest]]:
        for ask in asks(self._workspace, self.choice):
            for batch in _batches(ask.missing(self._workspace)):
                for request in _distinct(ask):
                    yield batch, request

    def _check(self) -> None:
        if self.stopped:
            raise Stopped


def begin(engine: Engine, workspace: Workspace, choice: Choice) -> Drawing:
    """Start a drawing, or keep the one that is at work on the same choice; any other is stopped."""
    with workspace.lock:
        going = current(workspace)
        if going is None or not going.same(workspace, choice):
            stop(workspace)
            going = workspace.maps.drawing = Drawing(engine, workspace, choice).start()
        return going


def current(workspace: Workspace) -> Drawing | None:
    """What is being drawn, or was drawn last."""
    found = workspace.maps.drawing
    return found if isinstance(found, Drawing) else None


def left(workspace: Workspace) -> Drawing | None:
    """What was stopped with `told` since this was last asked."""
    going = current(workspace)
    if going is None or not going.left:
        return None
    going.left = False
    return going


def stop(workspace: Workspace, told: bool = False) -> Drawing | None:
    """Stop what is being drawn. Returns it; None where nothing was. `told`: it is said again once what takes its place
    is drawn (`left`)."""
    with workspace.lock:
        going = current(workspace)
        if going is None or going.ended or going.stopped:
            return None
        going.left = told
        going.stop()
        return going
