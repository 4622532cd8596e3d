"""The report as one web page: no script, nothing fetched, and no image of anybody unless asked for."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from nearl import NOTICE, __version__
from nearl.measure import findings
from nearl.measure.evaluate import mistakes
from nearl.report import geometry
from nearl.report.content import Report
from nearl.report.render import environment
from nearl.report.words import FIGURES, FINDING_FIGURES, per_cent, plain
from nearl.resources import ASSETS

if TYPE_CHECKING:
    from PIL import Image

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
PICTURES = "; img-src data:"  # of the policy, where small pictures of mistakes are asked for


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
            FIGURES=FINDING_FIGURES if report.findings else FIGURES,
            confusions=geometry.confusions,
            reliability=geometry.reliability(results) if results and not report.findings else None,
            curves=geometry.curves(
                losses,
                report.held(),
                losses[-1][0] if losses else 1,
                results["frozen"].get("balanced_accuracy") if results else None,
            ),
            mistakes=(found := _mistakes(report, names)),
            pictures=any(one["picture"] for one in found),
            named=names,
            style=(ASSETS / "page" / "charts.css").read_text(encoding="utf-8").replace(".gradio-container ", ""),
            policy=POLICY + (PICTURES if report.picture else ""),
            notice=NOTICE,
            version=__version__,
        )
    )


def _mistakes(report: Report, names: bool) -> list[dict]:
    """The most certain mistakes: what the image is called, its class, what it was read as and its picture, "" for none
    (only the pictures that are asked for are there)."""
    found = []
    if report.findings:
        for one in findings.mistakes(report.rows, report.results or {}):
            truth, read = map(plain, one.words)
            small = report.thumbnail(one.row)
            words = {"name": image_name(one.row, names), "truth": truth, "read": f"{read}, {per_cent(one.share)}"}
            found.append({**words, "picture": "" if small is None else _address(small)})
        return found
    for row in mistakes(report.rows):
        when = "before" if row["after"] is None else "after"
        read = f"{plain(row[when])}, {per_cent(row[f'{when}_share'])}"
        small = report.thumbnail(row)
        words = {"name": image_name(row, names), "truth": plain(row["truth"]), "read": read}
        found.append({**words, "picture": "" if small is None else _address(small)})
    return found


def _address(picture: Image.Image) -> str:
    """The picture as a data address."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_name(row: dict, names: bool = False) -> str:
    """What an image is called in a report."""
    return plain(row["file"]) if names else f"image {row['index'] + 1}"
