"""A volume that is read as one study, and a report beside a reading of findings."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from app.api import Programs
from app.predict import actions as reading
from app.predict import html as predict_views
from app.predict.scan import actions as scanning
from app.predict.scan import tab as scan
from app.predict.study import actions as study
from app.predict.study import html as study_views
from app.teach.shelf import actions as adapting
from nearl.data.images import decode_one
from nearl.errors import NearlError
from nearl.prompts import default_prompts
from tests.support.findings import CHEST, bridge_adapter, halves
from tests.support.scans import body, nifti

DOCS = Path(__file__).parents[3] / "docs"
REPORT = "There is a nodule in the right lung. No pneumothorax. Cardiomegaly cannot be excluded."


@pytest.fixture(scope="module")
def adapter(engine):
    return bridge_adapter(engine.backbone())


@pytest.fixture
def volume(workspace):
    """A CT on show, 24 slices."""
    workspace.viewing.bring([decode_one(nifti((body() * 3 - 600).astype(np.int16), np.eye(4)), "ct.nii")], [])
    return workspace.viewing.record


@pytest.fixture
def studied(engine, workspace, volume, adapter):
    adapting.use(engine, workspace, workspace.shelf.put(adapter))
    reading.read(engine, workspace, CHEST.to_dict())
    return workspace.viewing


def test_the_answer_is_that_of_the_whole_volume_and_of_no_slice(engine, workspace, studied, volume):
    whole = studied.classifier.method.predict([volume.study()])
    np.testing.assert_allclose(studied.prediction.adapted, whole, atol=1e-6)
    before, shown = studied.prediction, predict_views.reading_html(workspace)
    assert shown.count("Counts as present from") == 3 and "24 slices of 24 together, axial" in shown
    for change in ({"index": 3}, {"plane": "coronal"}, {"window": volume.scan.presets()[1]}):
        studied.redraw(studied.record.at(**change))
        reading.read(engine, workspace, CHEST.to_dict(), studied.record)
        assert studied.prediction is before, "nothing is read again for another slice"
    studied.redraw(studied.record.at(invert=True))  # which the study is drawn with
    reading.read(engine, workspace, CHEST.to_dict(), studied.record)
    assert studied.prediction is not before
    studied.bring([halves(1).records[0]], [])
    assert studied.studied is None and study_views.section(workspace) == "" == study_views.slices(workspace)


def test_programs_and_comparisons_read_the_whole_volume_too(engine, workspace, studied, tmp_path):
    whole = studied.prediction.adapted[0]
    (compared,) = adapting.compare(engine, workspace, [workspace.shelf.in_use])
    assert compared[2] == pytest.approx(whole[::2].tolist(), abs=1e-6)
    path = tmp_path / "ct.nii"
    path.write_bytes(nifti((body() * 3 - 600).astype(np.int16), np.eye(4)))
    (row,) = Programs(SimpleNamespace(engine=engine)).predict(workspace, [str(path)], CHEST.to_dict())["predictions"]
    assert list(row["adapted"].values()) == pytest.approx(whole.tolist(), abs=1e-6) and study.WHOLE in row["notes"]


def test_slices_that_fired_are_buttons_that_go_there(workspace, studied, volume):
    shown = scan.below(workspace, None)
    picks = [int(n) for n in re.findall(r'data-pick="(-?\d+)"', shown)]
    assert sorted(picks[:24]) == list(range(-24, 0)) and len(picks) == 24 + study_views.TOP
    attention = studied.studied.inside.attention
    assert [-1 - n for n in picks[24:]] == np.argsort(-attention, kind="stable")[: study_views.TOP].tolist()
    scanning.look(workspace, "plane", "coronal")
    there = study.slice_at(workspace, workspace.viewing.record, picks[24])
    assert (there.view.plane, there.view.index) == ("axial", -1 - picks[24])
    assert study.slice_at(workspace, there, 5).view.index == 5  # a column of all slices
    assert there.view.window == volume.view.window, "as it is shown, not as the study is drawn"
    with pytest.raises(NearlError, match="no longer"):
        study.slice_at(workspace, there, -25)


def test_atoms_and_clusters_are_shown_and_a_closed_gap_is_called_nothing(engine, workspace, studied):
    shown = study_views.section(workspace)
    assert shown.count("Strongest in slices") == 5 and shown.count("<svg") == 3
    assert shown.count('class="image"') == 3 * 24 and shown.count('class="text"') == 3 * sum(map(len, CHEST.texts()))
    documented = (DOCS / "bridge.md").read_text(encoding="utf-8")
    assert all(number in shown and number in documented for number in study_views.AUROCS)
    one = bridge_adapter(engine.backbone(), atoms=1)  # its gap is closed
    adapting.use(engine, workspace, workspace.shelf.put(one))
    reading.read(engine, workspace, CHEST.to_dict())
    shown = study_views.section(workspace)
    assert "makes no answer better" in shown and "gap <strong>0.00</strong>" in shown


def test_without_such_an_adapter_a_volume_is_read_as_before(engine, workspace, volume):
    assert study_views.section(workspace) == ""  # nothing is read yet
    reading.read(engine, workspace, CHEST.to_dict())
    first = workspace.viewing.prediction
    assert "--method bridge" in predict_views.reading_html(workspace) and study_views.slices(workspace) == ""
    workspace.viewing.redraw(volume.slice_at(2))
    reading.read(engine, workspace, CHEST.to_dict(), workspace.viewing.record)
    assert workspace.viewing.prediction is not first
    assert 'name="to"' in study_views.box(workspace), "a report has its place all the same"


def compared(workspace, report):
    return study.compared(workspace, report, study.image_of(workspace.viewing.record))


def test_a_report_is_summarised_beside_the_reading(engine, workspace, studied):
    lines = compared(workspace, REPORT)
    assert [line.said for line in lines] == ["present", "absent", "uncertain"]
    answers = studied.prediction.adapted[0, ::2]
    assert [line.share for line in lines] == pytest.approx(answers.tolist())
    assert lines[1].proof == ["No pneumothorax."] and lines[0].sentence == "There is lung nodule."
    shown = study_views.summary(workspace, lines)
    assert shown.count("<select") == 3 and shown.count("selected>") == 3 and "the whole study, after" in shown
    assert shown.count('<li data-read="present"') == sum(line.present for line in lines)
    (unsaid,) = {line.said for line in compared(workspace, "Normal study of the knee.")}
    assert unsaid == study.UNSAID
    assert "<b>" not in study_views.summary(workspace, compared(workspace, "A nodule <b>here</b>."))
    assert REPORT not in predict_views.reading_html(workspace) + study_views.box(workspace)


def test_reports_that_cannot_be_set_against_a_reading_are_refused(engine, workspace, volume):
    for text, gist in (("  ", "empty"), ("x" * (study.LONGEST + 1), "characters"), (REPORT, "no reading")):
        with pytest.raises(NearlError, match=gist):
            compared(workspace, text)
    reading.read(engine, workspace, CHEST.to_dict())
    with pytest.raises(NearlError, match="another image"):
        study.compared(workspace, REPORT, "of an image before")
    reading.read(engine, workspace, default_prompts(["nodule", "mass"]).to_dict())
    with pytest.raises(NearlError, match="classes"):
        compared(workspace, REPORT)
    assert study_views.box(workspace) == ""


def test_the_box_of_an_image_stays_the_same_so_that_typed_text_does(engine, workspace, volume):
    reading.read(engine, workspace, CHEST.to_dict())
    first = study_views.box(workspace)
    workspace.viewing.redraw(volume.slice_at(2))
    reading.read(engine, workspace, CHEST.to_dict(), workspace.viewing.record)
    assert study_views.box(workspace) == first
    workspace.viewing.bring(halves(1).records, [])
    reading.read(engine, workspace, CHEST.to_dict())
    assert study_views.box(workspace) != first
