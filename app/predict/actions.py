"""What the Predict tab does with a workspace: bring images, read them, draw where the model looked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.engine import Engine
from app.html import views
from app.predict import findings
from app.predict.study import actions as study
from app.visitor import limits
from app.visitor.maps import MapKey
from app.visitor.viewing import memory_of
from app.visitor.workspace import Workspace
from nearl.backbones.catalogue import own_windows
from nearl.data.images import ImageRecord, decode_many
from nearl.data.sandbox.request import asked_by
from nearl.errors import NearlError
from nearl.prompts import FINDINGS, PromptSet, ready_sets

if TYPE_CHECKING:
    from torch import Tensor

    from nearl.backbones.measured import Measured
    from nearl.explain import Heatmap
    from nearl.reading.claims import Claim, Claims
    from nearl.reading.classifier import Classifier, Prediction

MAX_IMAGES = 64
MAX_FILES = 1200  # the slices of a series are one image
VIEW_PIXELS = 1024  # longer side that is kept of an image to be read
RECOGNISED = 4  # images, at most, by which it is told whether the prompts fit
OFFERED = 3  # ready sets
BEFORE, AFTER, OFF = "before", "after", "off"


@dataclass(frozen=True)
class MapChoice:
    """What the visitor wants to see over the image: a class by name (None: the closest) and off/before/after."""

    when: str = OFF
    class_name: str | None = None


def bring(
    workspace: Workspace,
    paths: Sequence[str | Path | tuple[str, Path]],
    synthetic: bool = False,
    credit: str = "",
    stay: bool = False,
) -> bool:
    """Decode the files into the workspace; unreadable ones are kept as problems. `credit`: whose an example is.

    Whether other images are there now: with `stay` those before stay where no file can be read. NearlError, before any
    is decoded, if these are too many.
    """
    if len(paths) > MAX_FILES:
        raise NearlError(f"These are {len(paths)} files; bring at most {MAX_FILES} at a time.")
    others = workspace.viewed - workspace.viewing.memory  # of other pages of the visitor
    with asked_by(workspace.id or "", memory=limits.EACH_MEMORY - others):
        records, problems = decode_many(paths, max_side=VIEW_PIXELS, images=MAX_IMAGES)
    workspace.check_memory(sum(map(memory_of, records)) - workspace.viewing.memory)  # instead of those there now
    if stay and problems and not records and workspace.viewing.records:
        workspace.viewing.leave_out(problems)
        return False
    workspace.viewing.bring(records, problems, synthetic, credit)
    return True


def prompt_set_from(value: dict | None) -> PromptSet:
    """The editor's content as a checked prompt set. NearlError if it is not one."""
    if not value:
        raise NearlError("There is no class yet; add a class with a prompt, or start from a ready set.")
    return PromptSet.from_dict(value, name="Your own")


def read(engine: Engine, workspace: Workspace, value: dict | None, shown: ImageRecord | None = None) -> None:
    """Read all images with these prompts, before and after teaching; the result is workspace.viewing.prediction. Where
    this is only because of the image that was `shown`: not if others were brought meanwhile."""
    if not workspace.viewing.records:
        raise NearlError(workspace.viewing.missing)
    prompt_set = prompt_set_from(value)
    engine.backbone(workspace)  # before the visitor's lock is held
    from nearl.methods import restore
    from nearl.reading.classifier import Classifier

    def make(prompts: PromptSet) -> Classifier:
        adapter, backbone = workspace.shelf.adapter, engine.backbone(workspace)
        return Classifier(backbone, prompts, adapter and restore(backbone, adapter))

    viewing = workspace.viewing
    with workspace.lock:
        if shown is not None and (viewing.record is not shown or study.still_read(workspace)):
            return
        classifier = viewing.ask(prompt_set, make, engine.models.keeps)
        ready = engine.ready_classes(classifier.backbone) if workspace.shelf.adapter is None else {}
        with engine.device_lock:
            studies = study.as_read(classifier, viewing.records)
            found = classifier.predict(studies)
            if found.adapted is not None and not np.isfinite(found.adapted).all():
                raise NearlError("The adapter in use gives no usable numbers for these images; stop using it in Teach.")
            closer = _closer(workspace, classifier, ready, found)
            viewing.keep(found, closer, study.studied(classifier, viewing.records, studies))


@dataclass(frozen=True)
class Recognised:
    """What the model makes of images before they are read with any prompts."""

    title: str
    """The kind of the image on show; "" where the model does not know it."""
    fits: bool
    """Whether the prompts are for images of the kinds that were brought."""
    sets: list[str]
    """Ready sets for the image on show; none where the prompts fit."""
    beside: Mapping[str, str] = field(default_factory=dict)
    """What to say beside the name of a ready set."""
    earlier: bool = False
    """Whether the prompts are those that the images before were read with."""
    asked: Claims | None = None
    """What is known of the prompts; None where they are not filled in."""
    close: bool = True
    """Whether there is a ready set for such images, or nearly such."""
    measured: bool = True
    """Whether the model was measured and so knows kinds; else `sets` are those with clearly closer words."""

    @property
    def weak(self) -> bool:
        """Whether the image is unlike the model's training images, so that no set fits well."""
        return self.measured and not self.title


def recognisable(engine: Engine, workspace: Workspace) -> bool:
    """Whether `recognise` can tell something: not without images, with an adapter, or for a model that was not measured
    or is still loading."""
    if not workspace.viewing.records or workspace.shelf.adapter is not None or engine.state(workspace) != "ready":
        return False
    backbone = engine.backbone(workspace)
    return backbone.measured is not None and backbone.familiar is not None


def _in_own_windows(engine: Engine, workspace: Workspace) -> None:
    """Draw what is a CT in the windows of the model's training images, where it has some and no adapter is in use."""
    viewing, ready = workspace.viewing, engine.state(workspace) == "ready"
    if viewing.records and workspace.shelf.adapter is None and ready and own_windows(engine.chosen(workspace)):
        from nearl.methods import Frozen
        from nearl.reading.claims import recognised

        frozen = Frozen(engine.backbone(workspace))  # it may have to be loaded, before others wait
        with workspace.lock, engine.device_lock:
            viewing.redraw_all([recognised(frozen, record) for record in viewing.records])


def recognise(engine: Engine, workspace: Workspace, value: dict | None) -> Recognised | None:
    """Draw the scans in the view in which the model recognises their kind, say which kind that is, and keep what was
    found of each. None where that cannot be told (`recognisable`); a CT is then drawn in the model's own windows, where
    it has some."""
    if not recognisable(engine, workspace):
        _in_own_windows(engine, workspace)
        return None
    viewing, backbone = workspace.viewing, engine.backbone(workspace)
    from nearl.methods import Frozen
    from nearl.reading.claims import UNKNOWN, Claims, located, nearest

    frozen = Frozen(backbone)
    with workspace.lock, engine.device_lock:
        seen = [located(frozen, record) for record in viewing.records]
        viewing.redraw_all([record for record, _ in seen])
        some, elsewhere = viewing.records[:RECOGNISED], [kind for _, kind in seen[:RECOGNISED]]
        images = frozen.embed(frozen.pooled(some))
        near = nearest(backbone.measured, backbone.familiar, images, some)
        found = Recognised("", False, [])
        try:
            prompts = prompt_set_from(value)
            claims = Claims(backbone, prompts)
            own = claims.figures is None  # of words without a kind, only the images tell that they were asked about
            each = claims.of(images, some, elsewhere) or ()
            stale = [own and c.doubt and viewing.kinds and c.kind not in viewing.kinds for c in each]
            fits = all(c.fits and not old for c, old in zip(each, stale, strict=True))
            earlier = viewing.prompts is not None and viewing.prompts.digest == prompts.digest
            found = replace(found, fits=fits, earlier=earlier, asked=claims)
        except NearlError:  # an editor that is not filled in
            pass
        for place, ((name, distance), other) in enumerate(zip(near, elsewhere, strict=True)):
            known = distance <= backbone.familiar.far
            kind = backbone.measured.kind_of(name) if known and other == UNKNOWN else other
            viewing.keep_found(place, _recognised(workspace, backbone.measured, kind, name, found))
        return viewing.found_of(0)


def _recognised(workspace: Workspace, measured: Measured, kind: str, near: str, found: Recognised) -> Recognised:
    """What the model makes of an image of this kind or, if unlike all, ``near`` a training set; ``found``: what it
    makes of the prompts."""
    if not kind:
        sets = _closest_set(workspace, measured, near, found.asked)
        return replace(found, title="", sets=sets, beside={}, close=bool(near))
    sets = [] if found.fits else offered(workspace, measured.fitting(kind))
    return replace(found, title=measured.title(kind), sets=sets, beside=measured.beside)


def _closest_set(workspace: Workspace, measured: Measured, near: str, asked: Claims | None) -> list[str]:
    """The ready set for an image that is unlike the model's training images, by the training set ``near`` it: the set
    of that name, or another for that kind. None where the prompts asked about are for that kind or no training set is
    near, and for an example, which comes with its own."""
    kind = measured.kind_of(near)
    fits = asked is not None and _fine(asked, asked.about(kind))
    sets = sorted(measured.fitting(kind), key=lambda name: name != near)
    return [] if fits or not workspace.viewing.own else offered(workspace, sets)[:1]


def _fine(asked: Claims, claim: Claim) -> bool:
    """Whether no other prompts are to be offered."""
    return claim.fits and (asked.prompts.kind == FINDINGS or asked.figures is not None or not claim.doubt)


def recognise_shown(engine: Engine, workspace: Workspace) -> None:
    """Find out of the image on show what kind it is, if that was found of the first ones alone."""
    viewing, first = workspace.viewing, workspace.viewing.found_of(0)
    if viewing.prediction is not None or viewing.found is not None or first is None:
        return
    if not recognisable(engine, workspace):
        return
    backbone = engine.backbone(workspace)
    from nearl.methods import Frozen
    from nearl.reading.claims import nearest

    frozen = Frozen(backbone)
    with workspace.lock, engine.device_lock:
        record, measured, familiar = viewing.record, backbone.measured, backbone.familiar
        if record is not None and viewing.found_of(0) is first:
            ((name, distance),) = nearest(measured, familiar, frozen.embed(frozen.pooled([record])), [record])
            kind = "" if distance > familiar.far else measured.kind_of(name)
            viewing.keep_found(viewing.selected, _recognised(workspace, measured, kind, name, first))


def offered(workspace: Workspace, names: Sequence[str]) -> list[str]:
    """The first of these ready sets; without those for synthetic images where the visitor's own have others."""
    ready = {name for name, path in ready_sets().items() if PromptSet.load(path).synthetic}
    real = [name for name in names if name not in ready]
    return list(names if workspace.viewing.synthetic or not real else real)[:OFFERED]


def fitting(engine: Engine, workspace: Workspace, value: dict | None) -> bool:
    """Keep which ready sets have prompts that are clearly closer to the image on show, not read yet, than these: with a
    model that was not measured. Whether there are any; False where that is known already or cannot be told now."""
    viewing = workspace.viewing
    record, place = viewing.record, viewing.selected
    if record is None or viewing.prediction is not None or viewing.found_of(place) is not None:
        return False
    if workspace.shelf.adapter is not None or engine.state(workspace) != "ready":
        return False
    from nearl.backbones.familiar import closer_sets
    from nearl.reading.classifier import Classifier

    try:
        classifier = Classifier(engine.backbone(workspace), prompt_set_from(value))
        ready = engine.ready_classes(classifier.backbone)
    except NearlError:  # an editor that is not filled in
        return False
    with engine.device_lock:
        image, classes = classifier.image_features([record]), classifier.class_embeddings()
    (sets,) = closer_sets(image, classes, ready, classifier.backbone.logit_scale)
    with workspace.lock:
        if viewing.record is record and viewing.selected == place:
            viewing.keep_found(place, Recognised("", True, sets, measured=False))
    return bool(sets)


def _closer(
    workspace: Workspace, classifier: Classifier, ready: dict[str, Tensor], found: Prediction
) -> list[list[str]]:
    """For each image the ready sets that fit it where these prompts do not: by its kind, or of the nearest kind where
    the model does not know that; by the words that are clearly closer to it with a backbone that was not measured. What
    was taught is not questioned."""
    from nearl.backbones.familiar import closer_sets
    from nearl.reading.claims import Claims, nearest

    records, claims, backbone = workspace.viewing.records, found.claims, classifier.backbone
    if workspace.shelf.adapter is not None or (claims is None and classifier.prompt_set.kind == FINDINGS):
        return [[] for _ in records]  # no ready set is about findings
    images = classifier.image_features(records)
    if claims is None:
        return closer_sets(images, classifier.class_embeddings(), ready, backbone.logit_scale)
    measured, asked = backbone.measured, Claims(backbone, classifier.prompt_set)
    near = [name for name, _ in nearest(measured, backbone.familiar, images, records)]

    def sets(claim: Claim, name: str) -> list[str]:
        if not claim.kind:
            return _closest_set(workspace, measured, name, asked)
        return [] if _fine(asked, claim) else offered(workspace, measured.fitting(claim.kind))

    return list(map(sets, claims, near))


def closest(workspace: Workspace) -> str:
    """The class nearest to the selected image, after teaching where there is an adapter."""
    if findings.asked(workspace) is not None:
        return findings.closest(workspace)
    prediction = workspace.viewing.prediction
    shares = prediction.frozen if prediction.adapted is None else prediction.adapted
    return prediction.classes[int(shares[workspace.viewing.selected].argmax())]


def shown_class(workspace: Workspace) -> str:
    """The class whose map is shown: the one that the visitor has chosen, else that of the answer on show."""
    picked = workspace.maps.picked
    return picked if picked in workspace.viewing.prediction.classes else closest(workspace)


def on_show(workspace: Workspace) -> tuple:
    """The image on show and its reading, of which a map is asked for."""
    return workspace.viewing.record, workspace.viewing.prediction


def reads_with(engine: Engine, workspace: Workspace) -> str:
    """What the images are read with: the id of the adapter, and the model where there are several."""
    return f"{workspace.shelf.in_use}{engine.chosen(workspace) if engine.models.several else ''}"


def _wanted(workspace: Workspace, choice: MapChoice) -> tuple[MapKey, str, str]:
    """(the map that is chosen, its class, why it cannot be drawn or "") of the image on show, which was read."""
    from nearl.explain import MAPS, MapRequest

    prediction, classifier = workspace.viewing.prediction, workspace.viewing.classifier
    adapted = choice.when == AFTER and prediction.adapted is not None
    name = choice.class_name if choice.class_name in prediction.classes else closest(workspace)
    request = MapRequest("gradcam", list(prediction.classes).index(name), adapted=adapted)
    reason = (classifier.method if adapted else classifier.zero_shot).supports(MAPS["gradcam"])
    return MapKey(workspace.viewing.record.digest, request), name, reason


def awaited(workspace: Workspace, choice: MapChoice) -> str:
    """What is said while the chosen map is drawn; "" where none is, or it was drawn before."""
    with workspace.lock:
        if workspace.viewing.prediction is None or choice.when == OFF or not workspace.viewing.records:
            return ""
        key, name, reason = _wanted(workspace, choice)
        return "" if reason or key in workspace.maps else f"Drawing where it looked for “{name}” …"


def map_layer(engine: Engine, workspace: Workspace, choice: MapChoice) -> tuple[str | None, str]:
    """(data address of the map's layer, what it shows and what to beware of in words) for the selected image.

    Without a layer the address is None: no map was asked for (and no words are said), or there is nothing on it.
    """
    from nearl.explain import explain, heat_layer

    if workspace.viewing.prediction is None or choice.when == OFF or not workspace.viewing.records:
        return None, ""
    classifier, record = workspace.viewing.classifier, workspace.viewing.record
    key, name, reason = _wanted(workspace, choice)
    if reason:
        return None, reason

    def draw() -> Heatmap:
        with engine.device_lock:
            return explain(classifier, [record], key.request)[0]

    heatmap = workspace.maps.once(key, draw)
    moment = f"{AFTER if key.request.adapted else BEFORE} teaching"
    if not heatmap.values.any():
        return None, f"No part of the image supports “{name}”, {moment}: the map is empty"
    caution = heatmap.caution(record)
    words = f"Where it looked for “{name}”, {moment}" + (f". {caution}" if caution else "")
    return views.data_uri(heat_layer(heatmap)), words
