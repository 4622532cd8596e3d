"""HTML of the Compare tab: the methods as cards, and the table that fills in while they are taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.compare.gap_html import spaces
from app.html.charts import bars, scatter
from app.html.views import esc, message, per_cent, plural
from app.teach.html import act, duration, quiet

TOO_FEW = "too few to say"
HEADS = [
    ("Method", ""),
    ("Right", "balanced accuracy and its 95 % interval"),
    ("Tells classes apart", "AUROC, 50 % is chance"),
    ("Off in its certainty", "calibration error, lower is better"),
    ("Numbers learnt", "trained parameters"),
    ("To teach", "slower while the machine is busy"),
    ("To read an image", "not seen before"),
    ("", ""),
]


def cards(groups: Sequence) -> str:
    """All methods, each with a tick, its idea and what is trained; assets/page/methods.js reads and sets the ticks."""
    blocks = []
    for title, found in groups:
        items = "".join(
            f'<label class="method"><input type="checkbox" data-name="{esc(card.name)}" '
            f'aria-describedby="about-{_id(card.name)}"><span class="title">{esc(card.title)}</span>'
            f'<span class="about" id="about-{_id(card.name)}"><span>{esc(card.idea)}</span>{_trained(card)}</span>'
            "</label>"
            for card in found
        )
        blocks.append(f'<fieldset class="group"><legend>{esc(title)}</legend>{items}</fieldset>')
    short, rest = blocks[:2], blocks[2:]  # the first two groups are small and share a column
    columns = "".join(f'<div class="column">{part}</div>' for part in ("".join(short), *rest))
    return f'<div class="methods">{columns}</div>'


def _trained(card) -> str:
    """What is trained; of NEARL without a part its idea says it."""
    return "" if ":" in card.name else f"<span>Trained: {esc(card.trained)}.</span>"


def _id(name: str) -> str:
    return name.replace(":", "-")


def empty() -> str:
    return (
        '<div class="progress empty"><p>The table and the charts appear here, line by line as the methods finish.</p>'
        "<p class='quiet'>Press “Compare” as it stands: five methods on drawn pictures take a minute or two.</p></div>"
    )


def plan(sentence: str) -> str:
    return quiet(sentence)


def comparison(
    lines: Sequence[Mapping],
    head: str,
    about: str,
    at_work: str = "",
    step: str = "",
    going_on: bool = False,
    answers: Sequence[tuple[str, Mapping]] = (),
    seeds: int = 1,
    classes: Sequence[str] = (),
) -> str:
    """What is known so far. `lines`: as `nearl.runs.scores`; `head`: HTML of where it stands; `about`: which images;
    `at_work`: the method that is being taught and `step` how far it is; `answers`: what a part of NEARL buys."""
    done = [line for line in lines if line["done"]]
    rows = "".join(_row(line, line["method"] == at_work, step, going_on, seeds) for line in lines)
    top = "".join(
        f'<th scope="col" class="{"" if i < 1 else "number"}">{esc(word)}<span>{esc(term)}</span></th>'
        for i, (word, term) in enumerate(HEADS)
    )
    table = (
        f'<div class="table-wrap scores"><table class="plain"><caption class="sr-only">Methods compared</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    notes = _notes(done, seeds, going_on)
    charts = f'<div class="charts">{bars(done, 1 / len(classes))}{scatter(done)}</div>' if done else ""
    return (
        f'<section class="progress done compared">{head}{quiet(about)}{_answers(answers)}{table}{notes}{charts}'
        f"{spaces(done, classes)}</section>"
    )


def headline(words: str) -> str:
    return f'<p class="headline" role="status">{esc(words)}</p>'


def _row(line: Mapping, at_work: bool, step: str, going_on: bool, seeds: int) -> str:
    name = f'<th scope="row">{esc(line["title"])}</th>'
    wide = len(HEADS) - 1
    if line["error"] and not line["done"]:
        return f'<tr>{name}<td colspan="{wide}"><span class="failed">Not done:</span> {esc(line["error"])}</td></tr>'
    if not line["done"]:
        words = step if at_work else "waits" if going_on else "not taught"
        return f'<tr class="open">{name}<td colspan="{wide}">{esc(words)}</td></tr>'
    partly = f'<span class="range">{line["done"]} of {seeds} draws</span>' if _unfinished(line, seeds) else ""
    value = f"<strong>{per_cent(line['balanced_accuracy'])}</strong>" if line["balanced_accuracy"] is not None else ""
    cells = [
        (value or TOO_FEW) + _range(line["interval"]) + partly,
        _share(line["auroc"]),
        _share(line["ece"]),
        _count(line["parameters"]),
        f"{seconds(line['fit_seconds'])}\u202fs",
        f"{line['predict_ms']:.0f}\u202fms",
        act("Use in Predict", "use", "small", f"Use {line['title']} in Predict", method=line["place"]),
    ]
    shown = zip(cells, HEADS[1:], strict=True)
    row = "".join(f'<td class="number" data-head="{head}">{cell}</td>' for cell, (head, _) in shown)
    return f"<tr>{name}{row}</tr>"


def _unfinished(line: Mapping, seeds: int) -> bool:
    return line["done"] < seeds and line["method"] != "zero-shot"


def _range(interval: Sequence[float] | None) -> str:
    if interval is None:
        return ""
    return f'<span class="range">{100 * interval[0]:.0f} to {100 * interval[1]:.0f}\u202f%</span>'


def _share(value: float | None) -> str:
    return "–" if value is None else per_cent(value)


def _count(n: int) -> str:
    return f"{n:,.0f}".replace(",", "\u202f")


def seconds(value: float) -> str:
    """0.02 -> "0", 12.3 -> "12"; tenths below ten."""
    if value < 0.05:
        return "0"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _answers(answers: Sequence[tuple[str, Mapping]]) -> str:
    """What NEARL gains by a part, in a sentence that says when it may be chance."""
    out = ""
    for part, gain in answers:
        value, (low, high) = gain["value"], gain["interval"]
        span = f"95 % interval {_points(low)} to {_points(high)}"
        if value is None:
            words = f"What {part} buys cannot be told from so few images ({span} points)."
        else:
            chance = ", so this may be chance" if low <= 0 <= high else ""
            words = f"{part.capitalize()} changes what NEARL gets right by {_points(value)} points ({span}){chance}."
        out += f'<p class="answer">{esc(words)}</p>'
    return out


def _points(value: float) -> str:
    return f"{100 * value:+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0")


def _notes(done: Sequence[Mapping], seeds: int, going_on: bool) -> str:
    if not done:
        return ""
    out = ""
    if any(line["few"] for line in done):
        out += message(f"{plural(done[0]['n'], 'image')} are too few to say more than a hint.")
    several = any(line["done"] > 1 for line in done)
    over = "other draws of the images taught with" if several else "other images of this kind"
    words = (
        f"A line across a bar is the 95 % interval over {over}. Where the lines of two methods overlap widely, these "
        "images cannot tell them apart."
    )
    if len(done) > 2 and not going_on:
        words += " The best of many looks better here than it will be: it was picked by these very images."
    return out + quiet(words)


def going_on(place: int, done: int, total: int, title: str, left: float | None) -> str:
    """Where a comparison stands. `place`: in the queue, 0 when it is at work."""
    if place:
        others = "another run is going on" if place == 1 else f"{place} runs are before it"
        words, more = "Waiting for its turn", f"{others.capitalize()}; what is finished stays."
    else:
        words = f"Teaching {title}" if title else "Getting the model and the images ready"
        more = f"{done} of {total} done"
        more += f"; this one: {duration(left)}" if left is not None else ""
    share = 100 * done / total if total else 0
    return (
        f'<p class="headline">{esc(words)}</p><div class="track" role="progressbar" aria-label="Methods finished" '
        f'aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="quiet steps"><span role="status">{esc(more)}</span>'
        "<span>You may leave this page; it goes on.</span></p>"
    )
