"""The report as one web page: no script, nothing fetched, no image of anybody."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape

from matplotlib.figure import Figure

from nearl import NOTICE, __version__
from nearl.measure.evaluate import mistakes
from nearl.report import charts
from nearl.report.content import Report, count, percent, plain

STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #f4f6f8; color: #16202c; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 960px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 24px; line-height: 32px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 16px; line-height: 24px; margin: 0 0 8px; }
p { margin: 8px 0; }
section { background: #fff; border: 1px solid #d5dce5; border-radius: 8px; padding: 16px 24px; margin-top: 16px; }
.notice { font-weight: 600; }
.lead { font-size: 18px; line-height: 26px; }
.quiet, caption, figcaption, footer { color: #4d5b6c; font-size: 14px; }
.caution { background: #fdf4e3; border-left: 4px solid #d08a1d; padding: 8px 16px; color: #8a4b08; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 16px 32px; }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; max-width: 560px; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif !important; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; padding-bottom: 4px; }
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid #e6eaf0; vertical-align: top;
  overflow-wrap: break-word; } th { font-weight: 500; } thead th { color: #4d5b6c; }
ul { margin: 8px 0; padding-left: 20px; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
WIDTH = 3.4  # inches of a chart
OUTLINE = "Outline: before teaching. Filled: after. The line is the 95 % interval."
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(report: Report, names: bool = False) -> str:
    """A complete page. ``names``: file names in the list of mistakes instead of "image 1"."""
    title = escape(report.title)
    cautions = "".join(f'<p class="caution">{escape(words)}</p>' for words in report.cautions)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title><style>{STYLE}</style></head>
<body><main><h1>{title}</h1><p class="notice">{escape(NOTICE)}</p>{cautions}
<section><p class="lead">{escape(report.headline)}</p><p class="quiet">{escape(report.how)}</p>
{_figures(report)}</section>
{_charts(report)}{_mistakes(report, names)}{_taught(report)}
<section><h2>How far to trust it</h2>{_list((*report.trust_words(), *report.limits()))}</section>
<footer><p>{escape(NOTICE)} Made with NEARL-CLIP {__version__}.</p></footer></main></body></html>
"""


def _list(sentences: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in sentences)}</ul>"


def _table(heading: tuple[str, ...], lines: list[tuple], caption: str) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heading)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(str(c))}</td>" for c in line[1:])}</tr>'
        for line in lines
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figures(report: Report) -> str:
    figures = report.figures()
    if not figures:
        return ""
    lines = [(name, a["words"], b["words"] if b else "not taught") for name, a, b in figures]
    table = _table(("", "Before teaching", "After teaching"), lines, "95 % intervals in brackets")
    chart = _figure(
        "Before and after",
        OUTLINE,
        (WIDTH, 1.75),
        lambda figure: charts.pairs(figure, (0.02, 0.25, WIDTH - 0.2, 1.45), figures, 1.75, 0),
    )
    return f'<div class="two">{table}{chart}</div>'


def _charts(report: Report) -> str:
    parts = []
    if recalls := [(charts.shortened(name, 20), *pair) for name, *pair in report.recalls()]:
        tall = 0.36 * len(recalls) + 0.35
        recall = lambda figure: charts.pairs(figure, (0, 0.3, WIDTH, tall - 0.35), recalls, 1.2, 1.15)  # noqa: E731
        parts.append(_figure("Recognised of each class", OUTLINE, (WIDTH, tall), recall))
        times = {"before": report.results["frozen"], "after": report.results["adapted"]}
        times = {when: figures for when, figures in times.items() if figures}

        def matrices(figure: Figure) -> None:
            for place, (when, figures) in enumerate(times.items()):
                labels = report.classes if place == 0 else []
                charts.confusion(figure, (1.0 + 1.25 * place, 0.32, 1.1, 1.1), figures["confusion"], when, labels)

        words = "Rows are the true class, columns what it was read as; framed cells are right."
        parts.append(_figure("Which class was read as which", words, (WIDTH, 1.65), matrices))
        bins = {when: figures["reliability"] for when, figures in times.items()}
        words = (
            "Across: share of the likeliest class, before any calibration. Up: share that is right. Circles before, "
            "diamonds after teaching. On the dashed line a share of 80 % is right in 80 % of cases. Below: images."
        )
        reliable = lambda figure: charts.reliability(figure, (0.02, 0.05, WIDTH - 0.2, 2.4), bins)  # noqa: E731
        parts.append(_figure("Do the shares mean what they say?", words, (WIDTH, 2.55), reliable))
    if len(losses := report.losses()) > 1:
        words = f"The adapter's error over {count(losses[-1][0], 'step')}; lower is better."
        learn = lambda figure: charts.learning(figure, (0.02, 0.05, WIDTH - 0.2, 2.3), losses, report.held())  # noqa: E731
        parts.append(_figure("While teaching", words, (WIDTH, 2.55), learn))
    return f'<section class="two">{"".join(parts)}</section>' if parts else ""


def _figure(title: str, words: str, size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """A chart as SVG in the page, with its title and what to look at."""
    page = io.StringIO()
    with charts.drawing():
        figure = Figure(figsize=size)
        draw(figure)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(page, format="svg", transparent=True, metadata=nothing)
    svg = page.getvalue()
    svg = re.sub(r' id="[A-Za-z0-9.]+_[0-9]+"', "", svg[svg.index("<svg") :])  # ids that several charts share
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<figure><h2>{escape(title)}</h2>{svg}<figcaption>{escape(words)}</figcaption></figure>"


def _mistakes(report: Report, names: bool) -> str:
    wrong = mistakes(report.rows)
    if not wrong:
        return ""
    lines = [
        (image_name(row, names), plain(row["truth"]), f"{plain(row[when])}, {percent(row[f'{when}_share'])}")
        for row in wrong
        for when in ["before" if row["after"] is None else "after"]
    ]
    table = _table(("Image", "It is", "It was read as"), lines, "The most confident first")
    return f"<section><h2>Mistakes to look at</h2>{table}</section>"


def image_name(row: dict, names: bool = False) -> str:
    """What an image is called in a report."""
    return plain(row["file"]) if names else f"image {row['index'] + 1}"


def _taught(report: Report) -> str:
    facts = _list(tuple(f"{name}: {value}" for name, value in report.facts))
    return (
        f"<section><h2>What it was taught</h2>{_table(('Class', 'Images', 'Prompts'), report.taught, '')}"
        f"{facts}</section>"
    )
