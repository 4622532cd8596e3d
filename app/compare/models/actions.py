"""One image read by every model that is offered, as it is before teaching."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from app.engine import Engine
from app.models.memory import label
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import own_windows
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.prompts import PromptSet

READ, WAITS, AWAY, FAILED = "read", "waits", "away", "failed"


@dataclass(frozen=True)
class Column:
    """What one model says of the image."""

    model: str
    """Its name, as it is shown."""
    state: str
    """READ, WAITS for its turn, AWAY from this machine, or FAILED."""
    shares: tuple[float, ...] = ()
    """The probability of each class, before teaching."""
    note: str = ""
    """What to know of it, in sentences; for one that FAILED, why."""


def columns(engine: Engine, workspace: Workspace) -> Iterator[tuple[ImageRecord, PromptSet, list[Column]]]:
    """The image that is open, the prompts it was last read with, and what every model says of it: at first that they
    wait, then again whenever one has read it. Nothing is downloaded. NearlError without an image or prompts."""
    viewing = workspace.viewing
    record, prompts = viewing.record, viewing.prompts
    if record is None:
        raise NearlError("There is no image to read yet; choose an example or bring one in Predict.")
    if prompts is None:
        raise NearlError("The image was not read yet; read it in Predict first, with the prompts that you mean.")
    names = list(engine.models.names)
    here = [name for name in names if engine.models.here(name)]
    found = {name: Column(label(name), WAITS if name in here else AWAY) for name in names}
    yield record, prompts, list(found.values())
    engine.backbone()  # once the first one is there
    for name in here:
        try:
            found[name] = _column(engine, name, record, prompts)
        except NearlError as error:
            found[name] = Column(label(name), FAILED, note=str(error))
        yield record, prompts, list(found.values())


def _column(engine: Engine, name: str, record: ImageRecord, prompts: PromptSet) -> Column:
    from nearl.reading.classifier import Classifier
    from nearl.reading.words import unread

    backbone = engine.models.get(name)
    with engine.device_lock:
        classifier = Classifier(backbone, prompts)
        seen = classifier.recognised(record) if own_windows(name) else record
        prediction = classifier.predict([seen])
        unknown = classifier.unknown_words()
        cut = unread(backbone, prompts)
    calibrated = prediction.claims is not None and len(prompts.questions) == 1  # findings never are
    notes = ["Calibrated, since it was measured here."] if calibrated else []
    notes += ["It sees the CT in three windows at once, as in its training."] if seen is not record else []
    if prediction.unfamiliar is not None and prediction.unfamiliar[0]:
        notes.append("This image is unlike those that it was trained on, so its answer is little more than a guess.")
    if unknown:
        notes.append("It ignores some words of the prompts, which it does not know.")
    if cut:
        notes.append("It does not read some of the prompts to the end.")
    return Column(label(name), READ, tuple(map(float, prediction.frozen[0])), " ".join(notes))


def agreement(classes: tuple[str, ...], found: list[Column]) -> str:
    """How many of the models are closest to the same class, in a sentence; "" until all have read the image, and where
    only one has."""
    if any(one.state == WAITS for one in found):
        return ""
    closest = Counter(classes[one.shares.index(max(one.shares))] for one in found if one.state == READ)
    if closest.total() < 2:
        return ""
    (name, most), *_ = closest.most_common()
    if most == closest.total():
        return f"All {most} models are closest to “{name}”." if most > 2 else f"Both models are closest to “{name}”."
    if most == 1:
        return "Each of the models is closest to a different class."
    return f"{most} of {closest.total()} models are closest to “{name}”."
