"""HTML of what came of teaching: figures with intervals, confusion matrices, recall, reliability, mistakes.

Drawn from plain data as nearl.measure.evaluate makes it. Before teaching is a slate outline, after it filled teal,
an interval
a line across; a figure that is None is "too few to say".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.html.views import bar, esc, message, per_cent, plural
from app.teach.html import Thumb, act, curves, quiet

BEFORE, AFTER = "before", "after"
WHENS = ((BEFORE, "frozen"), (AFTER, "adapted"))
TOO_FEW = "too few to say"
MATRIX_CLASSES = 12  # with more, the commonest confusions are listed instead
MOST_PAIRS = 20
NAMED_COLUMNS, LONGEST_NAME = 3, 12  # with more classes or longer names, columns are headed by their number
FIGURES = [
    ("balanced_accuracy", "Right on images it had not seen", "balanced accuracy: every class counts the same"),
    ("auroc", "Puts the true class above the others", "AUROC: 50 % is chance, 100 % is always"),
    ("ece", "Off in its certainty, lower is better", "expected calibration error"),
]


def summary(results: Mapping | None, taught: int, in_use: bool, stopped: str) -> str:
    """The result in short: figures before and after with intervals, and what was read as what.

    `taught`: how many images it was taught with; `stopped`: "", "early" or "cancelled".
    """
    use = ' It is now in use in <a href="#predict" data-tab="Predict">Predict</a>.' if in_use else ""
    head = f'<p class="headline">Taught with {plural(taught, "image")}.{use}</p>'
    if stopped == "early":
        head += quiet("It stopped early: nothing more was being learnt.")
    elif stopped == "cancelled":
        head += quiet("It was cancelled; this is what it had learnt until then.")
    if not results or not results.get("frozen"):
        why = (results or {}).get("too_few") or (
            "Too few images to keep some aside, so nothing is known about how well it does on new ones."
        )
        return f'<section class="progress done">{head}{message(why)}</section>'
    return f'<section class="progress done">{head}{_how(results)}{figures(results)}{confusion(results)}</section>'


def details(results: Mapping | None, curve: Mapping, thumbs: Sequence[Thumb]) -> str:
    """The rest of the result: per class, certainty, the curve, mistakes, downloads. `curve`: {"losses", "held",
    "steps"}; `thumbs`: for `mistakes`."""
    drawn = f"<h3>While it was being taught</h3>{curves(curve['losses'], curve['held'], curve['steps'])}"
    if results and results.get("frozen"):
        drawn = f"{recall(results)}{reliability(results)}{mistakes(thumbs)}{drawn}"
    files = "".join(
        act(words, "report", "small", kind=kind)
        for words, kind in (("Report (HTML)", "html"), ("Report (PDF)", "pdf"), ("Predictions (CSV)", "csv"))
    )
    names = '<label class="tick"><input type="checkbox" data-index="1">with the names of my files</label>'
    return (
        f'<section class="progress done rest">{drawn}<h3>To take with you</h3><div class="grid-foot">{files}{names}'
        "</div></section>"
    )


def _how(results: Mapping) -> str:
    n = plural(results["n"], "image")
    words = {
        "given": f"Checked on the {n} that came for testing.",
        "folds": f"Checked on all {n} by turns, each by a model that was not taught with it.",
    }.get(results["kind"], f"Checked on {n} kept aside.")
    caution = message(results.get("too_few") or f"{n} are too few to say more than a hint.") if results["few"] else ""
    return f"{quiet(words + ' A line across a bar is its 95 % interval.')}{caution}"


def figures(results: Mapping) -> str:
    """Balanced accuracy, AUROC and calibration error, before and after, as bars with whiskers."""
    blocks = ""
    for key, words, term in FIGURES:
        lines = "".join(_line(when, results[which], key) for when, which in WHENS if results.get(which))
        blocks += f'<h3>{words}</h3><p class="term">{term}</p><dl class="bars wide">{lines}</dl>'
    return f'<div class="figures">{blocks}</div>'


def _line(when: str, scores: Mapping, key: str) -> str:
    value, interval = scores.get(key), scores.get(f"{key}_interval")
    if value is None:
        return none_line(when, when)
    return bar(when, when, value, tuple(interval) if interval else None)


def none_line(kind: str, word: str) -> str:
    return f'<div class="bar-line {kind}"><dt>{word}</dt><dd class="none">{TOO_FEW}</dd></div>'


# ------------------------------------------------------------------------------------------------------- confusion


def confusion(results: Mapping) -> str:
    """What was read as what, before and after. Every number is a button that shows its images."""
    classes = results["classes"]
    draw = _matrix if len(classes) <= MATRIX_CLASSES else _pairs
    tables = "".join(draw(classes, results[which]["confusion"], when) for when, which in WHENS if results.get(which))
    side = "side" if len(classes) <= NAMED_COLUMNS else "below"
    return (
        "<h3>What was read as what</h3>"
        f"{quiet('Rows: what it is. Columns: what it was read as. Press a number to see its images.')}"
        f'<div class="matrices {side}">{tables}</div>'
    )


def _cell_words(n: int, truth: str, said: str, when: str) -> str:
    what = "read rightly" if truth == said else f"read as {said}"
    return f"{plural(n, 'image')} of {truth} {what}, {when} teaching"


def _matrix(classes: Sequence[str], counts: Sequence[Sequence[int]], when: str) -> str:
    named = len(classes) <= NAMED_COLUMNS and max(map(len, classes)) <= LONGEST_NAME
    head = "".join(
        f'<th scope="col" title="{esc(name)}">{esc(name) if named else i + 1}</th>' for i, name in enumerate(classes)
    )
    rows = ""
    for i, name in enumerate(classes):
        total = sum(counts[i])
        cells = ""
        for j, said in enumerate(classes):
            n = counts[i][j]
            right = "right" if i == j else ""
            if not n:
                cells += f'<td class="{right}"><span class="zero">0</span></td>'
                continue
            button = act(
                str(n), "cell", "cell", _cell_words(n, name, said, when), truth=i, said=j, when=when
            )  # fmt: skip
            cells += f'<td class="{right}" style="--share:{n / total:.3f}">{button}</td>'
        number = "" if named else f"{i + 1} "
        rows += f'<tr><th scope="row" title="{esc(name)}">{number}{esc(name)}</th>{cells}</tr>'
    return (
        f'<div class="matrix-wrap"><table class="confusion {when}"><caption>{when.capitalize()} teaching</caption>'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _pairs(classes: Sequence[str], counts: Sequence[Sequence[int]], when: str) -> str:
    """The commonest confusions of many classes, as a list."""
    wrong = [
        (n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if n and i != j
    ]  # fmt: skip
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    rows = "".join(
        "<li>"
        + act(str(n), "cell", "cell", _cell_words(n, classes[i], classes[j], when), truth=i, said=j, when=when)
        + f"<span>{esc(classes[i])} read as {esc(classes[j])}</span></li>"
        for n, i, j in wrong[:MOST_PAIRS]
    )
    rest = quiet(f"and {len(wrong) - MOST_PAIRS} more pairs") if len(wrong) > MOST_PAIRS else ""
    body = f'<ul class="pairs">{rows}</ul>{rest}' if wrong else quiet("No confusion at all.")
    return f"<div><h4>{when.capitalize()} teaching, commonest confusions</h4>{body}</div>"


def cell_images(
    words: str,
    state: Mapping[str, object],
    thumbs: Sequence[Thumb],
    shown: int | None = None,
    picture: str = "",
    maps: Sequence[tuple[str, int, str, bool]] = (),
) -> str:
    """The images behind a number. `state`: which number, sent with every button; `thumbs`: index is the row's;
    `picture`: the viewer of the row `shown`; `maps`: (label, class index, when, pressed) of those it can have."""
    given = "".join(f' data-{name}="{esc(value)}"' for name, value in state.items())
    items = "".join(
        f'<button type="button" data-act="row" data-row="{i}" aria-pressed="{"true" if i == shown else "false"}" '
        f'title="{esc(file)}"><img src="{esc(src)}" alt=""><span>{esc(file)}</span>'
        f"{''.join(f'<span class=quiet>{esc(mark)}</span>' for mark in marks)}</button>"
        for i, src, file, marks in thumbs
    )
    choices = "".join(
        f'<button type="button" class="act small" data-act="map" data-row="{shown}" data-class="{c}" '
        f'data-map="{when}" aria-pressed="{"true" if pressed else "false"}">{esc(label)}</button>'
        for label, c, when, pressed in maps
    )
    chosen = f'<div class="map-choices" role="group" aria-label="Map to show">{choices}</div>' if choices else ""
    head = f'<div class="set-head"><h3>{esc(words)}</h3>{act("Close", "close")}</div>'
    return (
        f'<section class="cell-images" data-state{given}>{head}'
        f'<div class="strip" role="group" aria-label="{esc(words)}">{items}</div>{picture}{chosen}</section>'
    )


# --------------------------------------------------------------------------------------------- classes and certainty


def recall(results: Mapping) -> str:
    """Per class: how many of its images were read rightly."""
    blocks = ""
    for i, name in enumerate(results["classes"]):
        lines = ""
        for when, which in WHENS:
            if not results.get(which):
                continue
            entry = results[which]["recall"][i]
            if entry.get("recall") is None:
                lines += none_line(when, when)
            else:
                lines += bar(when, when, entry["recall"], tuple(entry["interval"]) if entry.get("interval") else None)
        after = results.get("adapted") or results["frozen"]
        n = after["recall"][i]["n"]
        blocks += (
            f'<div class="bar-class"><h4>{esc(name)} <span class="quiet">of {plural(n, "image")}</span></h4>'
            f"<dl>{lines}</dl></div>"
        )
    return (
        '<h3>Found of each class</h3><p class="term">recall: of the images of a class, the share that was read as it'
        f'</p><div class="bars tight">{blocks}</div>'
    )


def reliability(results: Mapping) -> str:
    """How often it was right, by how certain it said it was; with how many images stand behind each point."""
    side, points, rows = 240.0, "", ""
    most = max((b["n"] for _, which in WHENS if results.get(which) for b in results[which]["reliability"]), default=0)
    if not most:
        return ""
    columns = ""
    for when, which in WHENS:
        if not results.get(which):
            continue
        for b in results[which]["reliability"]:
            if not b["n"]:
                continue
            points += _point(when, b, side)
            shift = -8.0 if when == BEFORE else 0.0
            x, h = side * (b["low"] + b["high"]) / 2 + shift, 36.0 * b["n"] / most
            columns += f'<rect class="{when}" x="{x:.1f}" y="{36 - h:.1f}" width="8" height="{max(h, 1):.1f}"/>'
            at = f"{100 * b['low']:.0f} to {100 * b['high']:.0f}\u202f%"
            right = TOO_FEW if b.get("right") is None else per_cent(b["right"])
            rows += f"<tr><th scope='row'>{when}</th><td>{at}</td><td class='number'>{b['n']}</td>"
            rows += f"<td class='number'>{right}</td></tr>"
    ticks = "".join(
        f'<text class="x" x="{side * t:.0f}" y="{side + 16:.0f}">{per_cent(t)}</text>'
        f'<text class="y" x="-8" y="{side * (1 - t) + 4:.0f}">{per_cent(t)}</text>'
        for t in (0.0, 0.5, 1.0)
    )
    words = "How often it was right, by how certain it was, before and after teaching; the numbers are in the table"
    return (
        '<h3>Does it know what it knows?</h3><p class="term">reliability diagram: on the dashed line, 80 % certain is '
        f'80 % right</p><div class="reliability"><svg viewBox="-44 -8 296 {side + 84:.0f}" role="img" '
        f'aria-label="{words}"><rect class="frame" x="0" y="0" width="{side:.0f}" height="{side:.0f}"/>'
        f'<line class="ideal" x1="0" y1="{side:.0f}" x2="{side:.0f}" y2="0"/>{ticks}{points}'
        f'<g transform="translate(0 {side + 28:.0f})">{columns}'
        f'<line class="frame" x1="0" y1="36" x2="{side:.0f}" y2="36"/></g></svg>'
        '<dl class="key"><dt class="before"></dt><dd>before</dd><dt class="after"></dt><dd>after</dd>'
        "<dd class='quiet'>Across: how certain. Up: how often right. Columns: how many images.</dd></dl></div>"
        "<details><summary>The numbers of this picture</summary><div class='table-wrap'><table class='plain'>"
        "<thead><tr><th scope='col'>Teaching</th><th scope='col'>Certain</th><th scope='col' class='number'>Images</th>"
        f"<th scope='col' class='number'>Right</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _point(when: str, entry: Mapping, side: float) -> str:
    if entry.get("right") is None:
        return ""
    x = side * (entry["confidence"] if entry.get("confidence") is not None else (entry["low"] + entry["high"]) / 2)
    y = side * (1 - entry["right"])
    whisker = ""
    if entry.get("interval"):
        low, high = (side * (1 - v) for v in entry["interval"])
        whisker = (
            f'<path class="{when}" d="M{x:.1f} {low:.1f}V{high:.1f}M{x - 4:.1f} {low:.1f}h8M{x - 4:.1f} {high:.1f}h8"/>'
        )
    if when == BEFORE:
        return f'{whisker}<rect class="mark before" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'{whisker}<circle class="mark after" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def mistakes(thumbs: Sequence[Thumb]) -> str:
    """The images it was most certain about and wrong. Marks: what it is, what it was read as, how certain."""
    if not thumbs:
        return "<h3>Most certain mistakes</h3>" + quiet("None on the images it was checked on.")
    items = "".join(
        f'<li><button type="button" data-act="row" data-row="{i}" title="{esc(file)}"><img src="{esc(src)}" alt="">'
        f"{''.join(f'<span>{esc(mark)}</span>' for mark in marks)}</button></li>"
        for i, src, file, marks in thumbs
    )
    return (
        "<h3>Most certain mistakes</h3>"
        f'{quiet("After teaching. Press one to see it with its map.")}<ul class="mistakes">{items}</ul>'
    )
