"""The report as one web page: no script, nothing fetched, no image of anybody."""

from __future__ import annotations

from nearl import NOTICE, __version__
from nearl.measure.evaluate import mistakes
from nearl.report import geometry
from nearl.report.content import Report
from nearl.report.render import environment
from nearl.report.words import FIGURES, per_cent, plain
from nearl.resources import ASSETS

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def html(report: Report, names: bool = False) -> str:
    """A complete page. ``names``: file names in the list of mistakes instead of "image 1"."""
    results = report.shown
    losses = report.losses()
    return (
        environment()
        .get_template("report.html")
        .render(
            report=report,
            results=results,
            FIGURES=FIGURES,
            confusions=geometry.confusions,
            reliability=geometry.reliability(results) if results else None,
            curves=geometry.curves(losses, report.held(), losses[-1][0] if losses else 1),
            mistakes=_mistakes(report, names),
            style=(ASSETS / "page" / "charts.css").read_text(encoding="utf-8").replace(".gradio-container ", ""),
            policy=POLICY,
            notice=NOTICE,
            version=__version__,
        )
    )


def _mistakes(report: Report, names: bool) -> list[tuple[str, str, str]]:
    """(image, its class, what it was read as) of the most certain mistakes."""
    found = []
    for row in mistakes(report.rows):
        when = "before" if row["after"] is None else "after"
        read = f"{plain(row[when])}, {per_cent(row[f'{when}_share'])}"
        found.append((image_name(row, names), plain(row["truth"]), read))
    return found


def image_name(row: dict, names: bool = False) -> str:
    """What an image is called in a report."""
    return plain(row["file"]) if names else f"image {row['index'] + 1}"
