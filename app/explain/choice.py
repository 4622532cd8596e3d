"""What a visitor may choose in the Explain tab, and what of it a workspace can show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from app.predict import findings
from app.predict.actions import AFTER, BEFORE, closest
from app.visitor.workspace import Workspace
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.explain import MapCard

ONE, COMPARE, CLASSES, IMAGES = "one", "compare", "classes", "images"
DEFAULT = "gradcam"  # a map that can be drawn of every model


@dataclass(frozen=True)
class Choice:
    """What the visitor asks to see."""

    view: str = ONE
    """ONE map, COMPARE before and after teaching, all CLASSES or all IMAGES."""
    when: str = BEFORE
    """BEFORE or AFTER teaching."""
    class_name: str = ""
    """"" for the class closest to the image."""
    method: str = DEFAULT
    """Key of a map in `nearl.explain`."""
    layer: int = 0
    """From 1; 0 for the map's own choice."""
    head: int = 0
    """From 1; 0 for the mean of all."""
    control: bool = False
    """Whether the same map of a scrambled model is shown too."""


def settle(workspace: Workspace, choice: Choice) -> Choice:
    """The choice, as near as possible to the one asked for, that this workspace can show.

    NearlError without a reading.
    """
    from nearl.explain import MAPS

    viewing = workspace.viewing
    if viewing.prediction is None or not viewing.records:
        raise NearlError("There is no reading yet; read an image in Predict first.")
    if choice.class_name not in findings.offered(workspace):
        choice = replace(choice, class_name=closest(workspace))
    if choice.method not in {card.key for card in offered(workspace)}:
        choice = replace(choice, method=DEFAULT)
    card = MAPS[choice.method]
    whens, views = whens_of(workspace, card), views_of(workspace, card)
    return replace(
        choice,
        when=choice.when if choice.when in whens else whens[0],
        view=choice.view if choice.view in views else ONE,
        layer=min(choice.layer, viewing.classifier.backbone.vision.depth) if card.layers else 0,
        head=min(choice.head, heads(workspace)) if card.heads else 0,
    )


def refusal(workspace: Workspace, card: MapCard, when: str) -> str:
    """ "" if a map can be drawn of the model BEFORE or AFTER teaching, else why not, in a sentence."""
    classifier = workspace.viewing.classifier
    if when == AFTER and classifier.method is None:
        return f"“{card.name}” after teaching needs an adapter; teach first, or use one of your shelf."
    if when == BEFORE and card.adapter:
        return f"“{card.name}” shows what teaching changed, so there is none before it."
    method = classifier.method if when == AFTER else classifier.zero_shot
    return method.supports(card) or card.unfit(method.tower)


def whens_of(workspace: Workspace, card: MapCard) -> list[str]:
    """The moments, BEFORE and AFTER teaching, of which a map can be drawn."""
    return [when for when in (BEFORE, AFTER) if not refusal(workspace, card, when)]


def offered(workspace: Workspace) -> list[MapCard]:
    """The maps that can be drawn now."""
    from nearl.explain import MAPS

    return [card for card in MAPS.values() if whens_of(workspace, card)]


def missing(workspace: Workspace, card: MapCard) -> str:
    """Why a map cannot be drawn after teaching, where something was taught; else ""."""
    return refusal(workspace, card, AFTER) if workspace.viewing.prediction.adapted is not None else ""


def heads(workspace: Workspace) -> int:
    return workspace.viewing.classifier.backbone.vision.heads


def views_of(workspace: Workspace, card: MapCard) -> list[str]:
    """The views that make sense for a map of this workspace."""
    viewing = workspace.viewing
    possible = {
        ONE: True,
        COMPARE: len(whens_of(workspace, card)) == 2,
        CLASSES: card.by_class and len(findings.offered(workspace)) > 1,
        IMAGES: len(viewing.records) > 1,
    }
    return [view for view, can in possible.items() if can]
