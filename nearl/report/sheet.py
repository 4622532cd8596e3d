"""The report as one printed page, A4 upright, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

from nearl import NOTICE, __version__
from nearl.measure import findings
from nearl.measure.evaluate import mistakes
from nearl.report import charts
from nearl.report.content import Report
from nearl.report.page import image_name
from nearl.report.words import per_cent, plain, shortened, span

WIDTH, HEIGHT, MARGIN = 8.27, 11.69, 0.6  # inches
BOTTOM = HEIGHT - 0.55
LINE = 1 / 54  # inches from line to line for each point of a letter's size
MOST = 8  # classes with a bar of their own
MOST_ANSWERS = 16  # findings whose sensitivity and specificity are written
WRONG = 8  # mistakes listed
PICTURE = 0.42  # inches, side of the small picture of a mistake


def pdf(report: Report, path: str | Path) -> Path:
    """Write the page to ``path``. It names no file. Class names that the page's font cannot write are numbered."""
    path = Path(path)
    with charts.drawing():
        figure = Figure(figsize=(WIDTH, HEIGHT))
        _Sheet(figure, report).draw()
        about = {"Title": _writable(report.title, "Report"), "Subject": NOTICE, "Creator": f"NEARL-CLIP {__version__}"}
        figure.savefig(path, format="pdf", metadata=about)
    return path


class _Sheet:
    """One report on one figure; measures are in inches from the top left."""

    def __init__(self, figure: Figure, report: Report):
        self.figure, self.report = figure, report
        self.classes = [_writable(name, f"class {i + 1}") for i, name in enumerate(report.classes)]
        self.odd = self.classes != report.classes

    def draw(self) -> None:
        report, half = self.report, (WIDTH - 2 * MARGIN - 0.4) / 2
        right = MARGIN + half + 0.4
        self.text(MARGIN, 0.62, shortened(_writable(report.title, "Report"), 60), 15, weight="bold")
        self.text(MARGIN, 0.86, NOTICE, 8, weight="bold", colour=charts.TEAL)
        y = self.lines(MARGIN, 1.2, report.headline, WIDTH - 2 * MARGIN, 11)
        y = self.lines(MARGIN, y + 0.04, " ".join((report.how, *report.cautions)), WIDTH - 2 * MARGIN, 7.5)
        top = y + 0.15
        below = {MARGIN: top, right: top}  # where each column goes on
        if figures := report.figures():
            after = "; outline before, filled after teaching" if figures[0][2] else ", before teaching"
            self.heading(MARGIN, top, f"How well it read the images, with 95 % intervals{after}")
            charts.pairs(self.figure, self.box(MARGIN, top + 0.12, WIDTH - 2 * MARGIN, 1.4), figures, 2.15, 1.3)
            top += 1.98
            if report.findings:
                below = {
                    MARGIN: top + self.each(MARGIN, top, half) + 0.22,
                    right: self.answers(right, top, half) + 0.22,
                }
            else:
                tall = self.recalls(MARGIN, top, half)
                self.heading(right, top, "Which class (row) was read as which (column)")
                self.matrices(right, top + 0.32, half)
                top += max(tall, 1.8) + 0.22
                self.reliability(MARGIN, top, half)
                below = {MARGIN: top + 2.65, right: top}
        losses = report.losses()
        if len(losses) > 1:
            self.heading(right, below[right], "While teaching")
            charts.learning(self.figure, self.box(right, below[right] + 0.28, half, 1.92), losses, report.held())
            below[right] += 2.65
        y = self.taught(MARGIN, below[MARGIN], half)
        self.wrong(MARGIN, y + 0.12, half)
        self.trust(right, below[right], half)
        left_out = " Some names need the web page's fonts and are numbered here." if self.odd else ""
        self.text(MARGIN, HEIGHT - 0.35, f"{NOTICE} Made with NEARL-CLIP {__version__}.{left_out}", 7, charts.MUTED)

    def recalls(self, left: float, top: float, width: float) -> float:
        """The bars by class under their heading; returns the height of both."""
        lines: list = [
            (shortened(f"{i + 1}  {self.classes[i]}", 20), *pair) for i, (_, *pair) in enumerate(self.report.recalls())
        ]
        return self.bars(left, top, width, lines, "Recognised of each class")

    def each(self, left: float, top: float, width: float) -> float:
        """The same of findings: the AUROC of each."""
        lines: list = [
            (shortened(f"{i + 1}  {self.classes[2 * i]}", 20), *pair)
            for i, (_, *pair) in enumerate(self.report.aurocs())
        ]
        return self.bars(left, top, width, lines, "AUROC of each finding")

    def answers(self, left: float, top: float, width: float) -> float:
        """How each finding is told at its threshold, in words under their heading; returns where that ends."""
        results = self.report.results
        when = "after" if results["adapted"] else "before"
        self.heading(left, top, f"Sensitivity and specificity of each, {when} teaching")
        y, rows = top + 0.2, list(enumerate((results["adapted"] or results["frozen"])["per_finding"]))
        shown = sorted(rows, key=lambda item: 2.0 if item[1]["auroc"] is None else item[1]["auroc"])[:MOST_ANSWERS]
        for i, row in sorted(shown, key=lambda item: item[0]):
            shares = [
                f"{per_cent(row[key])} ({span(row[f'{key}_interval'])})" if row[key] is not None else "not measured"
                for key in ("sensitivity", "specificity")
            ]
            words = f"{i + 1}  {shortened(self.classes[2 * i], 20)}, in {row['positives']} of {row['n']}: "
            y = self.lines(left, y, words + ", ".join(shares), width, 6.2, most=2)
        if len(rows) > len(shown):
            y = self.lines(left, y, f"and {len(rows) - len(shown)} with a higher AUROC, on the web page", width, 6.2)
        return y

    def bars(self, left: float, top: float, width: float, lines: list, heading: str) -> float:
        """Bars under a heading, at most so many; returns the height of both."""
        more = ""
        if len(lines) > MOST:
            more = f" (the {MOST} lowest of {len(lines)})"
            lines = sorted(lines, key=lambda line: ((line[2] or line[1])["interval"] or [2.0])[0])[:MOST]
        self.heading(left, top, heading + more)
        tall = min(2.1, 0.42 * len(lines) + 0.05)
        charts.pairs(self.figure, self.box(left, top + 0.12, width, tall), lines, 1.2, 1.05)
        return tall + 0.32

    def reliability(self, left: float, top: float, width: float) -> None:
        self.heading(left, top, "Do the shares mean what they say?")
        times = {"before": self.report.results["frozen"], "after": self.report.results["adapted"]}
        bins = {when: figures["reliability"] for when, figures in times.items() if figures}
        charts.reliability(self.figure, self.box(left, top + 0.12, width, 1.98), bins)
        marks = "Circles before, diamonds after teaching; on" if "after" in bins else "On"
        words = f"Across: share of the likeliest class. Up: share that is correct. {marks} the dashed line they agree."
        self.lines(left, top + 2.22, words, width, 6.5, charts.MUTED)

    def trust(self, left: float, top: float, width: float) -> None:
        """What to make of it, in the largest letters that fit."""
        self.heading(left, top, "How far to trust it")
        sentences = (*self.report.trust_words(), *self.report.limits())
        for size in (6.8, 6.2, 5.6):
            if sum(len(wrapped(words, width, size)) * size * LINE + 0.05 for words in sentences) < BOTTOM - top - 0.2:
                break
        y = top + 0.2
        for words in sentences:
            y = self.lines(left, y, words, width, size) + 0.05

    def matrices(self, left: float, top: float, width: float) -> None:
        results, side = self.report.results, 1.13
        charts.confusion(
            self.figure, self.box(left + width - 2 * side - 0.12, top, side, side), results["frozen"]["confusion"],
            "before", self.classes,
        )  # fmt: skip
        if results["adapted"]:
            box = self.box(left + width - side, top, side, side)
            charts.confusion(self.figure, box, results["adapted"]["confusion"], "after", [])

    def taught(self, left: float, top: float, width: float) -> float:
        self.heading(left, top, "What it was taught")
        y = top + 0.2
        classes = "; ".join(
            f"{n} {_writable(name, f'class {i + 1}')}" for i, (name, n, _) in enumerate(self.report.taught)
        )
        for name, value in (*self.report.facts, ("Images", classes)):
            y = self.lines(left, y, f"{name}: {_writable(value, 'see the web page')}", width, 6.8, most=3)
        return y

    def wrong(self, left: float, top: float, width: float) -> None:
        if self.report.findings:
            self.wrong_answers(left, top, width)
            return
        rows = mistakes(self.report.rows, WRONG)
        if not rows:
            return
        when = "before" if rows[0]["after"] is None else "after"
        self.heading(left, top, f"Most confident mistakes, {when} teaching")
        names = zip(self.report.classes, self.classes, strict=True)
        named = {name: f"{i + 1} {shown}" for i, (name, shown) in enumerate(names)}
        tall = PICTURE + 0.05 if self.report.picture else 0.125
        across = 2 if self.report.picture else 1
        room = across * max(int((BOTTOM - top - 0.2) / tall), 0)
        for i, row in enumerate(rows[:room]):
            x, y, wide = left + (i % across) * width / across, top + 0.2 + tall * (i // across), width / across - 0.1
            truth, said = (shortened(named.get(plain(name), "?"), 18) for name in (row["truth"], row[when]))
            share = per_cent(row[f"{when}_share"])
            if self.report.picture:
                words = f"{image_name(row)}: {truth}, read as {said}, {share}"
                self.picture(x, y - 0.1, row)
                self.lines(x + PICTURE + 0.08, y, words, wide - PICTURE - 0.08, 5.6, most=4)
            else:
                self.lines(x, y, f"{image_name(row)}: {truth}, read as {said} ({share})", width, 6.8, most=1)

    def wrong_answers(self, left: float, top: float, width: float) -> None:
        """As `wrong`, of findings."""
        found = findings.mistakes(self.report.rows, self.report.results or {}, WRONG)
        if not found:
            return
        self.heading(
            left, top, f"Most confident mistakes, {'before' if found[0].row['after'] is None else 'after'} teaching"
        )
        named = dict(zip((self.report.results or {})["findings"], self.classes[::2], strict=True))
        tall = PICTURE + 0.05 if self.report.picture else 0.125
        for i, one in enumerate(found[: max(int((BOTTOM - top - 0.2) / tall), 0)]):
            y, name = top + 0.2 + tall * i, shortened(named[one.finding], 24)
            is_, said = ("present", "absent") if one.present else ("absent", "present")
            words = f"{image_name(one.row)}: {name} {is_}, read as {said} ({per_cent(one.share)})"
            if self.report.picture:
                self.picture(left, y - 0.1, one.row)
            self.lines(left + (PICTURE + 0.08) * bool(self.report.picture), y, words, width - PICTURE, 6.2, most=1)

    def picture(self, left: float, top: float, row: dict) -> None:
        """The small picture of a mistake, fitted into a square."""
        small = self.report.thumbnail(row)
        if small is None:
            return
        wide, high = (PICTURE * side / max(small.size) for side in small.size)
        axes = charts.axes(self.figure, self.box(left, top, wide, high))
        axes.imshow(small, aspect="auto")
        axes.set_axis_off()

    def box(self, left: float, top: float, width: float, height: float) -> charts.Box:
        return left, HEIGHT - top - height, width, height

    def heading(self, left: float, top: float, words: str) -> None:
        self.text(left, top, words, 8.5, weight="bold")

    def text(
        self, left: float, baseline: float, words: str, size: float, colour: str = charts.INK, weight: str = "normal"
    ) -> None:
        self.figure.text(left / WIDTH, 1 - baseline / HEIGHT, words, fontsize=size, color=colour, fontweight=weight)

    def lines(
        self, left: float, top: float, words: str, width: float, size: float, colour: str = charts.INK, most: int = 12
    ) -> float:
        """Draw words broken to a width, at most so many lines; returns the height of the next line."""
        broken, step = wrapped(words, width, size), size * LINE
        if len(broken) > most:
            broken = [*broken[: most - 1], broken[most - 1].rstrip() + " …"]
        for i, line in enumerate(broken):
            self.text(left, top + i * step, line, size, colour)
        return top + len(broken) * step


@lru_cache(maxsize=1)
def _fonts() -> tuple[FT2Font, ImageFont.FreeTypeFont]:
    path = font_manager.findfont("DejaVu Sans")
    return FT2Font(path), ImageFont.truetype(path, 72)


def _writable(text: str, instead: str) -> str:
    """The text, or something instead where the page's font lacks one of its characters."""
    return text if all(_fonts()[0].get_char_index(ord(c)) for c in text if c != " ") else instead


def wrapped(text: str, width: float, size: float) -> Sequence[str]:
    """Lines no wider than so many inches at so many points; words longer than a line are broken."""
    measure, lines = lambda words: _fonts()[1].getlength(words) * size / 72 / 72, [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if measure(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if measure(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
