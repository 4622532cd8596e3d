"""HTML of the visitor's adapters: the shelf, and two of them on the same image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.html.views import bar, esc, per_cent
from app.teach.html import act, quiet
from app.teach.result_html import WHENS, none_line

MOST_CLASSES = 6  # named on a card


def empty() -> str:
    return (
        '<div class="shelf empty"><p class="quiet">Nothing has been taught yet. What you teach stays here and is used '
        "in Predict at once; take a synthetic example above to see how it goes.</p></div>"
    )


def shelf(items: Sequence) -> str:
    """The adapters, newest first. An item has id, name, classes, created, figures, method and in_use; the buttons
    carry its place in this list."""
    if not items:
        return empty()
    cards = "".join(_card(item, i, len(items) > 1) for i, item in enumerate(items))
    compare = act("Compare the two that are ticked", "compare", "small") if len(items) > 1 else ""
    foot = f'<div class="grid-foot">{compare}</div>' if compare else ""
    return f'<section class="shelf"><ul>{cards}</ul>{foot}</section>'


def _card(item, place: int, several: bool) -> str:
    name = esc(item.name)
    use = act("Stop using it", "stop", "small", **{"item": place}) if item.in_use else ""
    use = use or act("Use", "use", "small", f"Use {item.name}", item=place)
    tick = ""
    if several:
        tick = (
            f'<label class="tick"><input type="checkbox" data-index="{place}" aria-label="Compare {name}">'
            "Compare</label>"
        )
    edit = (
        f'<details><summary aria-label="Edit {name}">Edit</summary><div class="edit">'
        f'<form data-act="rename" data-item="{place}"><label>Another name<input type="text" name="to" maxlength="100" '
        f'value="{name}" autocomplete="off"></label><button type="submit" class="act small">Rename</button></form>'
        f"{act('Delete it for good', 'delete', label=f'Delete {item.name} for good', item=place)}</div></details>"
    )
    shown = list(item.classes[:MOST_CLASSES])
    classes = ", ".join(esc(c) for c in shown) + (
        f" and {len(item.classes) - len(shown)} more" if len(item.classes) > len(shown) else ""
    )
    used = '<span class="tag in-use">in use</span>' if item.in_use else ""
    method = f" · {esc(item.method)}" if item.method else ""
    return (
        f'<li class="card{" used" if item.in_use else ""}"><div class="set-head"><h3>{name}{used}</h3>{tick}</div>'
        f'<p class="quiet">{classes} · {esc(_moment(item.created))}{method}</p>{_figures(item.figures)}'
        f'<div class="do">{use}{act("Download", "download", "small", f"Download {item.name}", item=place)}{edit}</div>'
        "</li>"
    )


def _moment(created: str) -> str:
    return f"{created[:16].replace('T', ' ')} UTC" if created else ""


def _figures(figures: Mapping | None) -> str:
    if not figures:
        return quiet("Not checked on images it had not seen.")
    lines = ""
    for when, _ in WHENS:
        entry = figures.get(when)
        if entry is None:
            continue
        value, interval = entry.get("value"), entry.get("interval")
        lines += (
            none_line(when, when) if value is None else bar(when, when, value, tuple(interval) if interval else None)
        )
    return f'<dl class="bars wide" aria-label="Right on images it had not seen">{lines}</dl>'


def comparison(picture: str, name: str, columns: Sequence[tuple[str, Sequence[str], Sequence[float]]]) -> str:
    """Adapters side by side on one image: (adapter's name, classes, shares after teaching)."""
    out = ""
    for title, classes, shares in columns:
        top = max(range(len(classes)), key=lambda i: shares[i])
        lines = "".join(
            f'<div class="bar-class"><h4>{esc(c)}</h4><dl>{bar("after", "", float(s))}</dl></div>'
            for c, s in zip(classes, shares, strict=True)
        )
        out += (
            f'<div class="column"><h4 class="who">{esc(title)}</h4><p>closest to <strong>{esc(classes[top])}</strong>, '
            f'{per_cent(float(shares[top]))}</p><div class="bars tight nameless">{lines}</div></div>'
        )
    return (
        '<section class="comparison"><div class="set-head"><h3>On the image in Predict</h3>'
        f'{act("Close", "close")}</div><figure><img src="{esc(picture)}" alt="{esc(name)}">'
        f'<figcaption class="quiet">{esc(name)}</figcaption></figure><div class="columns">{out}</div></section>'
    )
