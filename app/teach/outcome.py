"""What came of a run, for the page: the images behind a number, one of them with its map, and the files to download."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from app.engine import Engine
from app.html import views
from app.teach import actions as teaching
from app.visitor.workspace import Workspace
from app.work.queue import RunView
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from pathlib import Path


def _measured(workspace: Workspace) -> RunView:
    run = teaching.current(workspace)
    if run is None or run.rows is None:
        raise NearlError("There is no result yet; teach first.")
    return run


def confusion_images(workspace: Workspace, truth: str, said: str, when: str) -> list[int]:
    """The rows of images of the class `truth` that were read as `said`; `when`: "before" or "after" teaching."""
    return [i for i, row in enumerate(_measured(workspace).rows) if row["truth"] == truth and row[when] == said]


def row_record(workspace: Workspace, row: int) -> ImageRecord:
    """The image of a row, while it is still among those that were brought. NearlError afterwards."""
    run = _measured(workspace)
    stored = run.numbered_rows
    if not 0 <= row < len(stored):
        raise NearlError("There is no such image in this result; load the page anew.")
    digest = run.digest(stored[row]["file"])
    for data in (workspace.support.held_out, workspace.support.data):
        for record in data.records if data is not None else ():
            if record.digest == digest:
                return record
    raise NearlError("This image was removed since; bring it again to see it.")


def row_map(engine: Engine, workspace: Workspace, row: int, class_name: str, adapted: bool) -> tuple[str | None, str]:
    """(data address of the map's layer or None, what it shows in words) of one image, by the run's own adapter."""
    run, record = _measured(workspace), row_record(workspace, row)
    backbone = engine.backbone()
    from nearl.explain import gradcam, heat_layer
    from nearl.reading.classifier import Classifier

    adapter = run.folder.outcome().adapter
    prompt_set = PromptSet.from_dict(adapter.meta["prompts"])
    if class_name not in prompt_set.classes:
        raise NearlError("There is no such class in this result; load the page anew.")
    with engine.device_lock:
        classifier = Classifier(backbone, prompt_set, adapter)
        heatmap = gradcam(classifier, record, list(prompt_set.classes).index(class_name), adapted=adapted)
    moment = f"{'after' if adapted else 'before'} teaching"
    if not heatmap.values.any():
        return None, f"No part of the image supports “{class_name}”, {moment}: the map is empty"
    return views.data_uri(heat_layer(heatmap)), f"Where it looked for “{class_name}”, {moment}"


def report_file(workspace: Workspace, kind: Literal["html", "pdf", "csv"], names: bool = False) -> Path:
    """The result as a file to download; without `names` images are called by numbers."""
    run = teaching.current(workspace)
    if run is None:
        raise NearlError("There is no result yet; teach first.")
    from nearl import report

    content = replace(report.Report.from_run(run.folder), rows=run.rows or [])
    path = workspace.download(f"nearl-{'predictions' if kind == 'csv' else 'report'}.{kind}")
    if kind == "pdf":
        report.pdf(content, path)
    elif kind == "csv":
        path.write_text(report.csv(content.rows, names=names), encoding="utf-8-sig")
    else:
        path.write_text(report.html(content, names=names), encoding="utf-8")
    return path
