"""What the Explain tab shows: maps with their colour bars, what a map says and cannot say, words and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.explain.actions import Measured, Panel
from app.explain.choice import CLASSES, IMAGES
from app.html import render, views
from app.html.views import THUMB_SIDE, VIEW_SIDE, data_uri
from nearl.prompts import ABSENT

if TYPE_CHECKING:
    from nearl.data.images import ImageRecord
    from nearl.explain import MapCard
    from nearl.explain.layers import Profile
    from nearl.explain.words import Words

SMALL_SIDE = 448  # longer side, in pixels, of the images of a view with several
CAN_TELL = (
    "A map shows which parts of this image moved this model's score. It cannot tell whether the answer is right, "
    "what the model missed, or what a finding is."
)


def empty(words: str = "Maps appear here once an image has been read.") -> str:
    return render("explain/empty.html", words=words)


def busy(name: str) -> str:
    return views.quiet(f"Drawing {name}.")


def waiting(record: ImageRecord, name: str, synthetic: bool, of: str = "") -> str:
    """The image alone, while a map of it is drawn. `of`: as in `stage`."""
    return render(
        "explain/waiting.html", picture=data_uri(record.image()), name=record.name, size=record.size, words=name,
        synthetic=synthetic, of=of,
    )  # fmt: skip


def progress(name: str, share: float) -> str:
    """How much of a slow map is drawn, 0..1."""
    return render("explain/progress.html", words=f"Drawing {name}", share=share)


def stage(
    shown: Sequence[Panel], view: str, synthetic: bool, how: dict, file: str = "", of: str = "", known: str = ""
) -> str:
    """The images of a view with their maps, each with its colour bar in the map's own units. `how`: the look, as of
    `nearl.explain.heat_layer`; `file`: what the browser calls the view when it is downloaded, which may be after the
    visitor's file and so is not the name of a file of ours; `of`: the choice that it shows, as JSON, which the page
    compares with its controls; `known`: what is known of such maps in general."""
    from nearl.explain import MAPS

    side = THUMB_SIDE * 2 if view == IMAGES else SMALL_SIDE if len(shown) > 1 else VIEW_SIDE
    heatmap, record = shown[0].heatmap, shown[0].record
    words = [heatmap.name]
    if view == CLASSES:
        words[0] += " for each class, all on one scale"
    elif MAPS[heatmap.method].by_class:
        words[0] += f" for “{heatmap.class_name}”"
        absent = heatmap.against == f"{ABSENT}{heatmap.class_name}"  # of a finding
        words += [f"against {'its absence' if absent else heatmap.against}"] if heatmap.against else []
    places = [("layer", heatmap.layer), ("head", heatmap.head)]
    words += [f"{name} {value + 1}" for name, value in places if value is not None]
    return render(
        "explain/stage.html",
        panels=[_panel(panel, side, how) for panel in shown],
        words=", ".join(words),
        file=file,
        of=of,
        known=known,
        name="" if view == IMAGES else record.name,
        synthetic=synthetic,
        notes=[*_cautions(shown, view), *(panel.note for panel in shown if panel.note)],
    )


def _cautions(shown: Sequence[Panel], view: str) -> list[str]:
    """What to beware of in these maps, with the names of those that it is about where there are several."""
    found: dict[str, list[str]] = {}
    for number, panel in enumerate(shown, start=1):
        if panel.heatmap.adapted is not None and (words := panel.heatmap.caution(panel.record)):
            found.setdefault(words, []).append(f"image {number}" if view == IMAGES else panel.title)
    return [words if len(shown) == 1 else f"{', '.join(names)}: {words}" for words, names in found.items()]


def _panel(panel: Panel, side: int, how: dict) -> dict:
    from nearl.explain import heat_layer
    from nearl.explain.render import colour_bar, ticks

    heatmap, record = panel.heatmap, panel.record
    shown = {
        "picture": data_uri(record.image(), side), "name": record.name, "size": record.size, "title": panel.title,
        "class_name": heatmap.class_name, "layer": None, "scale": None,
    }  # fmt: skip
    if heatmap.blank:
        return shown
    x, y = heatmap.peak_pixel
    units = heatmap.units
    if heatmap.signed:
        units += ", less to more" if heatmap.adapted is None else ", against to for"
    bar = data_uri(colour_bar(heatmap, how.get("colours", "inferno")))
    return shown | {
        "layer": data_uri(heat_layer(heatmap, span=panel.span, **how), side),
        "alt": f"{panel.title}: {heatmap.name} for {heatmap.class_name}, highest at {x} pixels from the left and {y} "
        "from the top",
        "scale": {"bar": bar, "ends": ticks(heatmap, panel.span), "units": units},
    }


def card(method: MapCard, found: Measured | None) -> str:
    """What the chosen map shows, what it cannot tell, and how it did where the truth is known."""
    return render("explain/card.html", method=method, found=found)


def words_line(found: Sequence[Words]) -> str:
    """Each prompt, its words underlined in proportion to their share of the relevance, with the share in per cent."""
    return render("explain/words.html", found=[one for one in found if one.words]) if found else ""


def profile(found: Profile) -> str:
    """How much teaching added in each layer of both towers and, of the last adapted layer, what each synergy query
    read: the share of its attention on the image, and how the rest is divided between the classes."""
    queries, last = [], max(found.queries, default=0)
    for image, *prompts in found.queries.get(last, []):
        queries.append([image, *(value / max(sum(prompts), 1e-12) for value in prompts)])
    return render("explain/profile.html", found=found, queries=queries, last=last)
