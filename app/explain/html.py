"""HTML of the Explain tab: maps with their colour bars, what a map says and cannot say, words and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.explain.actions import CLASSES, IMAGES, Measured, Panel
from app.html.views import THUMB_SIDE, VIEW_SIDE, data_uri, esc, per_cent

if TYPE_CHECKING:
    from nearl.explain import Heatmap
    from nearl.explain.card import Method
    from nearl.explain.maps.novelty import Profile
    from nearl.explain.words import Words

SMALL_SIDE = 448  # longer side, in pixels, of the pictures of a view with several
CAN_TELL = (
    "A map shows which parts of this picture moved this model's score. It cannot tell whether the answer is right, "
    "what the model missed, or what a finding is."
)


def empty(words: str = "") -> str:
    lead = words or "Maps appear here once an image has been read."
    return (
        f'<div class="viewer empty"><p>{esc(lead)}</p>'
        '<p class="quiet"><a href="#predict" data-tab="Predict">Choose an image in Predict</a></p></div>'
    )


def busy(slow: bool) -> str:
    words = "Covering the image piece by piece; this takes a while." if slow else "Drawing the map."
    return f'<p class="quiet" role="status">{words}</p>'


def stage(shown: Sequence[Panel], view: str, synthetic: bool, how: dict) -> str:
    """The pictures of a view, each with its colour bar in the map's own units."""
    from nearl.explain import METHODS

    several = len(shown) > 1
    base_side = THUMB_SIDE * 2 if view == IMAGES else SMALL_SIDE if several else VIEW_SIDE
    figures = "".join(_panel(panel, base_side, how) for panel in shown)
    tag = '<span class="tag">Synthetic</span>' if synthetic else ""
    heatmap, record = shown[0].heatmap, shown[0].record
    by_class = METHODS[heatmap.method].by_class and view != CLASSES
    about = f" for “{esc(heatmap.class_name)}”" if by_class else ""
    against = f", against {esc(heatmap.against)}" if heatmap.against and by_class else ""
    name = "" if view == IMAGES else f'<span class="file">{esc(record.name)}</span>'
    words = f"{esc(heatmap.name)}{about}{against}{_place(heatmap)}"
    kind = "several" if several else "one"
    empty = "" if view == IMAGES or heatmap.blank else heatmap.caution(record.image())
    caution = f"<p>{esc(empty)}</p>" if empty else ""
    return (
        f'<div class="viewer maps {kind}"><div class="panels" data-count="{min(len(shown), 4)}">{figures}</div>'
        f'<div class="map-caption">{name}<span>{words}</span>{tag}</div>{caution}</div>'
    )


def _place(heatmap: Heatmap) -> str:
    parts = [("layer", heatmap.layer), ("head", heatmap.head)]
    return "".join(f", {name} {value + 1}" for name, value in parts if value is not None)


def _panel(panel: Panel, side: int, how: dict) -> str:
    from nearl.explain import heat_layer

    heatmap = panel.heatmap
    picture = data_uri(panel.record.image(), side)
    alt = f"{panel.title}: {heatmap.name} for {heatmap.class_name}"
    layer = ""
    if not heatmap.blank:
        x, y = heatmap.peak_pixel
        alt += f", highest at {x} pixels from the left and {y} from the top"
        layer = (
            f'<img class="map" src="{data_uri(heat_layer(heatmap, span=panel.span, **how), side)}" alt="{esc(alt)}">'
        )
    width, height = panel.record.size
    return (
        f'<figure><div class="stage" style="aspect-ratio:{width}/{height}">'
        f'<img class="base" src="{picture}" alt="{esc(panel.record.name)}">{layer}</div>'
        f"<figcaption>{esc(panel.title)}</figcaption>{_scale(panel, how)}</figure>"
    )


def _scale(panel: Panel, how: dict) -> str:
    from nearl.explain.render import colour_bar, ticks

    heatmap = panel.heatmap
    if heatmap.blank:
        return (
            f'<p class="scale-words">No part of the image speaks for “{esc(heatmap.class_name)}”: the map is empty.</p>'
        )
    low, middle, high = ticks(heatmap, panel.span)
    bar = data_uri(colour_bar(heatmap, how.get("colours", "inferno")))
    units = esc(heatmap.units)
    if heatmap.signed:
        units += ", less to more" if heatmap.adapted is None else ", against to for"
    return (
        f'<div class="scale"><img src="{bar}" alt=""><div class="ends"><span>{low}</span><span>{middle}</span>'
        f'<span>{high}</span></div><p class="scale-words">{units}</p></div>'
    )


def card(method: Method, found: Measured | None) -> str:
    """What the chosen map shows, what it cannot tell, and how it did where the truth is known."""
    check = ""
    if found is not None:
        text = f"on synthetic pictures it points at the lesion in {per_cent(found.hits)}; "
        text += f"chance in {per_cent(found.chance)}, the scrambled model in {per_cent(found.control)}"
        word = "Checked"
        if not found.beats_control:
            word = "Not told apart from a scrambled model"
        if not found.beats_chance:
            word = "Not better than chance"
        kind = "quiet" if word == "Checked" else "note caution"
        check = f'<p class="{kind}"><strong>{word}:</strong> {text}.</p>'
    limit = f'<p class="quiet"><strong>What it cannot tell:</strong> {esc(method.limit)}</p>'
    return f'<section class="map-card"><p>{esc(method.sentence)}</p>{limit}{check}</section>'


def words_line(found: Sequence[Words]) -> str:
    """Each prompt, its words underlined in proportion to their share of the relevance, with the share in per cent."""
    if not found:
        return ""
    rows = ""
    for one in found:
        top = max(one.shares, default=0) or 1
        marks = " ".join(
            f'<span class="word" style="--share:{share / top:.2f}">{esc(word)}<small>{per_cent(share)}</small></span>'
            for word, share in zip(one.words, one.shares, strict=True)
        )
        rows += f"<p>{marks}</p>"
    return f'<section class="map-words"><h3>Which words of the prompts carried the score</h3>{rows}</section>'


def profile(found: Profile) -> str:
    """How much teaching added in each layer of both towers, and what the synergy queries read."""

    def tower(name: str, layers: dict[int, tuple[float, float]]) -> str:
        if not layers:
            return ""
        top = max(max(pair) for pair in layers.values()) or 1
        lines = "".join(
            f'<tr><th scope="row">{k + 1}</th><td><i class="novel" style="width:{100 * novel / top:.1f}%"></i>'
            f'<i class="parallel" style="width:{100 * parallel / top:.1f}%"></i></td>'
            f'<td class="number">{novel:.1f}</td><td class="number">{parallel:.1f}</td></tr>'
            for k, (novel, parallel) in sorted(layers.items())
        )
        head = '<th scope="col">Layer</th><th scope="col"><span class="sr-only">Bar</span></th>'
        head += '<th scope="col" class="number">new, %</th><th scope="col" class="number">held back, %</th>'
        return (
            f'<table class="plain layers"><caption>{name}, layer by layer</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
        )

    return (
        '<section class="map-profile"><h3>How far teaching moved each layer</h3>'
        '<p class="quiet">Mean change in per cent of a token\'s length: new (filled) and held back (outlined).</p>'
        f"{tower('Image side', found.vision)}{tower('Text side', found.text)}{_queries(found)}</section>"
    )


def _queries(found: Profile) -> str:
    """Of the last adapted layer: the share of each query's attention that goes to the image, and how what goes to the
    prompts is shared between the classes."""
    if not found.queries:
        return ""
    last = max(found.queries)
    head = "".join(f'<th scope="col" class="number">{esc(name)}</th>' for name in ("image", *found.classes))
    rows = ""
    for m, (image, *prompts) in enumerate(found.queries[last]):
        shares = [image, *(value / max(sum(prompts), 1e-12) for value in prompts)]
        cells = "".join(f'<td class="number">{per_cent(value)}</td>' for value in shares)
        rows += f'<tr><th scope="row">{m + 1}</th>{cells}</tr>'
    caption = f"What each synergy query read, layer {last + 1}: the image, and of the prompts the class"
    return (
        f'<div class="table-wrap"><table class="plain"><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">Query</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
