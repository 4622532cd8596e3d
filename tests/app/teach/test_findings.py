"""Findings in Teach: a table of marks is brought, tidied, taught and measured, and its adapter is used in Predict."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import replace

import gradio as gr
import pytest

from app.compare import actions as comparing
from app.events import Act, Press
from app.find import actions as finding
from app.predict import actions as reading
from app.predict import html as predict_views
from app.teach.images import actions as gathering
from app.teach.images import looking, ready
from app.teach.images import tab as images_tab
from app.teach.run import actions as teaching
from app.teach.run import tab as running
from app.teach.shelf import actions as adapting
from app.teach.shelf import html as shelf_views
from app.visitor.disk import Root
from app.visitor.registry import Registry
from nearl.data.phantoms.kinds import phantom_set
from nearl.data.sets.findings import FindingsSet
from nearl.data.splits import plan_findings
from nearl.errors import NearlError
from nearl.measure.findings import mistakes
from nearl.prompts import PromptSet
from nearl.runs import RunFolder, Step, make_job, perform
from nearl.runs.status import DONE, INTERRUPTED, TEACHING
from nearl.train.recipe import Snapshot
from tests.support.app_work import ended
from tests.support.findings import FINDINGS, RULED, halves, write_findings


@pytest.fixture
def folder(tmp_path):
    """24 images with two findings, their table and prompts with a rule."""
    made = write_findings(tmp_path / "set", train=24, test=0)
    RULED.save(made / "prompts.json")
    return made


def zipped(folder, path, change=lambda table: table):
    """A zip of the folder, with a change of its table."""
    with zipfile.ZipFile(path, "w") as out:
        for file in sorted(folder.iterdir()):
            text = change(file.read_text()) if file.suffix == ".csv" else file.read_bytes()
            out.writestr(file.name, text)
    return path


def press(workspace, act, **data):
    ticked = tuple(map(str, data.pop("ticked", ())))
    gathering.press(workspace, Press(act, data, ticked, str(data.get("to", ""))))


def shown(workspace, opened=None):
    """What the page shows of the images: the set, the check and the editor."""
    part = images_tab.ImagesPart(*(object() for _ in range(15)))
    updates = images_tab.show(part, workspace, images_tab.Plan(0.25, ""), opened)
    return updates[part.set], updates[part.check], updates.get(part.editor)


def test_a_zip_with_a_table_of_marks_is_a_set_with_findings(engine, folder, tmp_path):
    root = Root(tmp_path / "root")
    workspace = Registry(root).get(None)
    gathering.bring(workspace, [zipped(folder, tmp_path / "set.zip")])
    data = workspace.support.data
    assert isinstance(data, FindingsSet) and data.findings == list(FINDINGS)
    assert looking.counts(data) == {"one": [12, 12, 0], "two": [10, 10, 4]}
    html, check, editor = shown(workspace)
    assert "24 images with 2 findings" in html and "10 absent" in html and "4 unknown" in html
    assert "Unknown in some" in check and "“two” in 4" in check and "6 of 24 images are kept aside" in check
    assert editor["kind"] == "findings" and editor["rules"] == ["if one then not two"]
    assert not ready.can_look(engine, workspace)

    # an image marked otherwise and another removed, a finding renamed with its rule; found again by a later server
    unknown = looking.parts(data)[5][1]
    assert shown(workspace, 5)[0].count("<img") == len(unknown) == 4
    with pytest.raises(NearlError, match="No image is ticked"):
        press(workspace, Act.MOVE, open=5, to=0)
    press(workspace, Act.MOVE, open=5, to=0, ticked=unknown[:1])
    press(workspace, Act.REMOVE, open=5, ticked=unknown[1:2])
    press(workspace, Act.RENAME, **{"class": 1}, to="red")
    for other, why in (("One", "twice"), ("without one", "without one"), ("x" * 101, "100")):
        with pytest.raises(NearlError, match=why):
            press(workspace, Act.RENAME, **{"class": 1}, to=other)
    for impossible in ({"act": Act.MERGE, "class": 0, "to": 1}, {"act": Act.SETTLE, "group": 0, "to": 0}):
        with pytest.raises(NearlError):
            press(workspace, **impossible)
    again = Registry(root).get(workspace.id)
    assert isinstance(again.support.data, FindingsSet)
    assert looking.counts(again.support.data) == {"one": [12, 11, 0], "red": [11, 10, 2]}
    kept = gathering.prompts_for(again)
    assert kept.findings == ("one", "red") and list(map(str, kept.rules)) == ["if one then not red"]
    press(again, Act.DROP, **{"class": 0})
    assert looking.counts(again.support.data) == {"red": [11, 10, 2]} and len(again.support.data) == 23
    assert not gathering.prompts_for(again).rules
    assert "marked with no finding at all" in shown(again)[1]


def test_a_table_beside_its_images_and_more_of_them(workspace, folder, tmp_path):
    gathering.bring(workspace, [*sorted(folder.glob("*.png")), folder / "labels.csv"])
    assert looking.counts(workspace.support.data)["two"] == [10, 10, 4]
    more = write_findings(tmp_path / "more", train=4, test=4)
    table = (more / "labels.csv").read_text().replace("file,split,one,two", "file,split,Two,three")
    (more / "labels.csv").write_text(table)
    gathering.bring(workspace, [zipped(more, tmp_path / "more.zip")])
    data, test = workspace.support.data, workspace.support.held_out
    assert looking.counts(data) == {"one": [12, 12, 4], "two": [12, 12, 4], "three": [2, 2, 24]}
    assert test.classes == data.classes and len(test) == 4
    assert "4 separate test images" in shown(workspace)[1] and "Nothing is measured for “one”" in shown(workspace)[1]
    with pytest.raises(NearlError, match="come with classes"):
        gathering.bring(workspace, [next(write_findings(tmp_path / "plain", 2, 0).glob("*.png"))], "spot")
    with pytest.raises(NearlError, match="comparison is of classes"):
        comparing.sets(workspace, comparing.OWN)
    assert "one 12, two 12, three 2" in finding.about(workspace)


def test_one_finding_that_is_always_known_is_two_classes(workspace, folder, tmp_path):
    one = lambda table: "\n".join(",".join(line.split(",")[::2]) for line in table.splitlines())  # noqa: E731
    gathering.bring(workspace, [zipped(folder, tmp_path / "set.zip", one)])
    assert workspace.support.data.counts() == {"one": 12, "no one": 12}


@pytest.mark.parametrize(
    ("change", "gist"),
    [
        (lambda t: t.replace(",1,", ",2,", 1), "“2” for “one” in line 2"),
        (lambda t: "\n".join(",".join([*line.split(",")[:3], "" if i else "two"])
                             for i, line in enumerate(t.splitlines())), "says of no image whether it has “two”"),
        (lambda t: t.replace("one,two", "one,One"), "two columns for “One”"),
        (lambda t: t.replace(".png", ".jpg").replace("0-", "x-"), "fits an image"),
        (lambda t: t.replace(",1,", ",0,"), "“one” is present in no image"),
    ],
)  # fmt: skip
def test_an_unusable_table_has_its_sentence_in_the_page(workspace, folder, tmp_path, change, gist):
    try:
        gathering.bring(workspace, [zipped(folder, tmp_path / "set.zip", change)])
        said = shown(workspace)[1]
    except NearlError as error:
        said = str(error)
        assert workspace.support.data is None
    assert gist in said, said


def test_copies_with_opposite_marks_are_named_and_others_are_copies(workspace):
    data = halves(16, unknown=False)
    one, two = data.records[:2]
    records, labels = [*data.records, one, two], [*data.labels, (1, 2), data.labels[1][:1]]
    workspace.support.keep(replace(data, records=records, labels=labels))
    html = shown(workspace)[1]
    assert "copies with opposite marks" in html and "The same image with opposite marks" in html
    assert "here more than once" in html and "remove 1" in html and "Remove them" in html and "All are" not in html
    press(workspace, Act.KEEP_ONE)
    assert len(workspace.support.data) == 17
    press(workspace, Act.SETTLE, group=0, to=-1)
    assert len(workspace.support.data) == 15 and not gathering.check(workspace).conflicts


def test_findings_are_taught_measured_put_to_use_and_taken_along(engine, registry, in_threads, tmp_path):
    workspace = registry.get(None)
    data = halves(32)
    for i in (2, 9, 16, 27):  # marked wrongly
        data = data.marked([i], 0, 1 - data.labels[i][0])
    workspace.support.keep(data)
    value = {**gathering.prompts_for(workspace).to_dict(), "rules": ["if one then not two"]}
    choice = teaching.Choice("quick", method="linear-probe")
    run = ended(teaching.start(engine, workspace, value, choice))
    now, results = run.look(), run.results
    assert now.state == DONE and results["findings"] == list(FINDINGS) and results["adapted"]["macro_auroc"] > 0.8
    (item,) = workspace.shelf.items()
    assert item.in_use and item.names == list(FINDINGS) and item.name == "one, two" and item.taught == 24
    assert item.figures["after"]["value"] == results["adapted"]["macro_auroc"]
    assert "Mean AUROC" in shelf_views.shelf([item]) and "Findings" in shelf_views.shelf([item])

    with gr.Blocks():
        part = running.RunPart(**running.build_buttons(), **running.build_result())
    updates = running.show(part, workspace)
    summary, details = updates[part.progress], updates[part.details]
    assert "8 images are too few" in summary and "Finding by finding" in summary and "Taught with 24 images" in summary
    assert summary.count('data-head="Sensitivity"') == 2 and "Which class was read as which" not in summary
    assert "Recognised, class by class" not in details and "Predictions (CSV)" in details
    wrong = mistakes(run.rows, results)
    assert wrong and details.count('data-act="row"') == len(wrong)
    pressed = teaching.cell(run, Press(Act.ROW, {"row": wrong[0].row["index"]}))
    assert (pressed.truth, pressed.said) == wrong[0].words and pressed.class_name in FINDINGS
    assert f"“{pressed.class_name}”" in teaching.row_map(engine, run, pressed.row, pressed.class_name, True)[1]
    with pytest.raises(NearlError):
        teaching.cell(run, Press(Act.ROW, {"row": 99}))
    for kind in teaching.REPORTS:
        file = teaching.report_file(workspace, run, item, kind)
        assert file.stat().st_size > 500
    with teaching.report_file(workspace, run, item, "csv").open(encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    assert header[:2] == ["image", "one"] and len(rows) == 8 and "present" in {row[5] for row in rows}

    # read with in Predict, there and by another visitor who brings the file
    other = registry.get(None)
    adapting.use(engine, other, adapting.add(engine, other, adapting.zip_file(workspace, item.id)))
    for visitor in (workspace, other):
        visitor.viewing.bring(halves(4, seed=3, unknown=False).records, [])
        asked = visitor.viewing.prompts
        assert asked.kind == "findings" and list(map(str, asked.rules)) == ["if one then not two"]
        reading.read(engine, visitor, asked.to_dict())
        assert "After teaching" in predict_views.reading_html(visitor)
    second = other.shelf.put(other.shelf.adapter)
    columns = adapting.compare(engine, other, [second, other.shelf.in_use])
    assert [classes for _, classes, *_ in columns] == [list(FINDINGS)] * 2
    assert "present: <strong>one, two" in shelf_views.comparison("data:,", "x", columns)
    assert [entry.several for entry in other.shelf.items()] == [True, True]
    with pytest.raises(NearlError, match="prompts do not name"):
        teaching.start(engine, workspace, PromptSet.from_dict({"classes": [{"name": "a", "prompts": ["b"]}]}).to_dict(),
                       choice)  # fmt: skip


def test_a_run_on_findings_goes_on_where_it_was_interrupted(engine, workspace, tmp_path):
    data = halves(16)
    prompts, split = gathering.prompts_for(data), plan_findings(data.labels)
    job = make_job(engine.backbone(), data, None, prompts, split, methods=["clip-adapter"], recipe={"steps": 6})
    folder = RunFolder(tmp_path / "run").create(job)
    events = folder.record(perform(folder.job(), every=0, backbone=engine.backbone()))
    assert any(isinstance(event, Snapshot) for event in events)
    events.close()
    assert folder.look().state == INTERRUPTED
    begun = folder.snapshot()
    steps = [
        event.step
        for event in folder.record(perform(folder.job(), folder.todo(), begun, backbone=engine.backbone()))
        if isinstance(event, Step) and event.phase == TEACHING
    ]
    assert steps[0] > 1 and steps[-1] == 6
    assert (
        folder.outcome().results["findings"] == list(FINDINGS) and folder.outcome().adapter.meta["trust"]["thresholds"]
    )


def test_classes_and_findings_do_not_mix_in_one_set(workspace, folder, tmp_path):
    workspace.support.keep(replace(phantom_set("smear", 4, size=64), ours=False))
    with pytest.raises(NearlError, match="come with findings"):
        gathering.bring(workspace, [zipped(folder, tmp_path / "set.zip")])
    assert len(workspace.support.data) == 8
