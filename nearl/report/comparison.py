"""A comparison of methods to keep: a table for spreadsheets, plain data for programs, and a figure."""

from __future__ import annotations

import csv as writer
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from nearl import NOTICE
from nearl.report.table import safe
from nearl.report.words import PRETRAINED, per_cent, plain, plural, shortened, span

COLUMNS = {  # heading -> key of `nearl.runs.table.scores`
    "AUROC": "auroc", "calibration error": "ece", "trained parameters": "parameters",
    "seconds to teach": "fit_seconds", "milliseconds to read an image": "predict_ms",
    "images measured on": "n", "draws": "done",
    "balanced accuracy on the other images": "there",
}  # fmt: skip
HINT = "a hint only"


def flattered_words(lines: Sequence[Mapping]) -> str:
    """What to know of the untaught model's figure where it learned from images of this kind; "" elsewhere."""
    return PRETRAINED if any(line.get("pretrained") for line in lines) else ""


def few_words(line: Mapping) -> str:
    """What to say beside the figure of a method that was measured on few images; "" otherwise."""
    return f"{HINT}: {plural(line['n'], 'image')}" if line.get("done") and line["few"] else ""


def csv(lines: Sequence[Mapping]) -> str:
    """Lines of `nearl.runs.scores` as comma-separated values with a heading line, each cell quoted and no formula.
    Columns in which nothing is known are left out; every row ends with the notice."""
    table = [_cells(line) for line in lines]
    heads = [head for head in (table[0] if table else {}) if any(row[head] for row in table)]
    page = io.StringIO()
    out = writer.writer(page, quoting=writer.QUOTE_ALL, lineterminator="\r\n")
    out.writerow([safe(head) for head in heads])
    out.writerows([[safe(row[head]) for head in heads] for row in table])
    return page.getvalue()


def _cells(line: Mapping) -> dict[str, str]:
    low, high = line.get("interval") or (None, None)
    found = {"method": line["title"], "balanced accuracy": _number(line.get("balanced_accuracy"))}
    found |= {"95 % low": _number(low), "95 % high": _number(high)}
    found |= {head: _number(line.get(key)) for head, key in COLUMNS.items()}
    note = line["error"] or ("" if line["done"] else "not taught") or few_words(line)
    return {**found, "note": note, "notice": NOTICE}


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def data(lines: Sequence[Mapping], about: str, settings: Mapping, answers: Sequence[str]) -> str:
    """The same as JSON, with what was compared, the settings and the answers in sentences."""
    kept = [{key: value for key, value in line.items() if key not in ("space", "place")} for line in lines]
    found = {"images": about, "settings": dict(settings), "methods": kept, "answers": list(answers), "notice": NOTICE}
    return json.dumps(found, ensure_ascii=False, indent=2)


def png(lines: Sequence[Mapping], about: str, answers: Sequence[str], path: str | Path) -> Path:
    """Write a figure: a bar for each method with its interval and its figure in words, then what was compared, what to
    know of it, the answers and the notice."""
    from matplotlib.figure import Figure

    from nearl.report import charts

    done, path = [line for line in lines if line["done"]], Path(path)
    said = filter(None, (about, flattered_words(done), *answers, NOTICE))
    texts = [fill(plain(words), 104) for words in said]
    foot = 0.2 + sum(0.14 * (text.count("\n") + 1) + 0.08 for text in texts)
    tall = 0.32 * len(done) + 0.1
    with charts.drawing():
        figure = Figure(figsize=(7.2, foot + tall + 0.75), dpi=160)
        height = figure.get_size_inches()[1]
        figure.text(0.03, 1 - 0.28 / height, "Correct on images it had not seen", fontsize=11, fontweight="bold")
        figure.text(0.03, 1 - 0.46 / height, "balanced accuracy with its 95 % interval", color=charts.MUTED)
        bars = [(shortened(line["title"], 30), line["method"], _said(line)) for line in done]
        charts.methods(figure, (0.2, foot + 0.25, 6.8, tall - 0.1), bars)
        y = foot
        for text in texts:
            figure.text(0.03, y / height, text, va="top", color=charts.INK if text != texts[0] else charts.MUTED)
            y -= 0.14 * (text.count("\n") + 1) + 0.08
        figure.savefig(path, format="png", metadata={"Comment": f"{plain(about)} {NOTICE}"})
    return path


def _said(line: Mapping) -> dict:
    """The figure of a method as the charts take it."""
    value, interval = line["balanced_accuracy"], line["interval"]
    words = "too few to say" if value is None else per_cent(value)
    words += f" ({span(interval)})" if interval else ""
    if value is not None and (few := few_words(line)):
        words += f"\n{few}"
    return {"value": value, "interval": interval, "words": words, "few": line["few"]}
