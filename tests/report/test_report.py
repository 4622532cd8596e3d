"""Reports: complete, about nobody, safe against what class and file names may hold, and there without results too."""

import csv as reader
import io
import json
import re
import xml.dom.minidom
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from app.teach.run.html import summary
from nearl import NOTICE
from nearl.errors import NearlError
from nearl.measure.evaluate import mistakes, rows, study
from nearl.prompts import default_prompts
from nearl.reading.trust import fit_trust
from nearl.report import Report, csv, html, pdf
from nearl.report.content import readable
from nearl.report.words import PRETRAINED, speaks_against, verdict

HOSTILE = [
    "<script>alert('x')</script>",
    '=HYPERLINK("http://x")',
    "$\\frac{a",
    "\u202eesrever",
    "正常 ωμέγα",
    "\ud800half\x00",
]
FILE = "Doe^Jane 1970-01-01.png"


def report(classes=("glioma", "normal"), n=24, kind="held-out", adapted=True, curve=True, seed=0, **meta):
    rng, classes = np.random.default_rng(seed), list(classes)
    labels = np.arange(n) % len(classes)
    before, after = (rng.dirichlet(np.ones(len(classes)), n) for _ in range(2))
    after[np.arange(n), labels] += 0.3
    after = after / 1.3 if adapted else None
    prompts = default_prompts(classes)
    embeddings = rng.normal(size=(n, 4))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    meta = {
        "method": "nearl", "backbone": {"name": "embedded", "weights": "0123456789abcdef"}, "classes": classes,
        "prompts": prompts.to_dict(), "support_counts": dict.fromkeys(classes, 7), "licence": "as the backbone",
        "created": "2026-01-02T03:04:05+00:00",
        "trust": fit_trust(prompts.digest, after, labels, embeddings, labels).to_dict(),
    } | meta  # fmt: skip
    events = [
        {"phase": "teaching", "step": i, "loss": 1 / i, "held_out": 0.5 if i % 3 == 0 else None} for i in range(1, 10)
    ]
    results = study(before, after, labels, classes, kind)
    table = rows(before, after, labels, classes, [FILE] * n)
    return Report(meta, results, table, events if curve else [])


class Tags(HTMLParser):
    """Every tag and attribute name of a page, its text, and whether all tags are closed."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.attributes, self.stack, self.text = set(), set(), [], ""
        self.feed(page)
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.attributes |= set(attributes)
        if tag != "meta":
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)
        self.attributes |= set(attributes)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text += data


def printed(path):
    """The bytes of a PDF, checked to be one upright A4 page."""
    data = path.read_bytes()
    assert data.startswith(b"%PDF") and b"/Count 1" in data
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", data)
    assert [float(v) for v in box.groups()] == pytest.approx([595.3, 841.9], abs=1)
    return data


def test_the_page_holds_the_figures_the_prompts_and_the_notice(tmp_path):
    made = report()
    page = html(made)
    text = Tags(page).text
    figures = made.results["adapted"]
    assert f"{100 * figures['balanced_accuracy']:.0f}\u202f%" in text and NOTICE in text
    assert f"{figures['recall'][0]['right']} of 12" in text
    assert "a medical image of glioma" in text and "kept aside" in text and "calibrated" in text
    assert page.count("<svg") == 3 and page.count('<table class="confusion') == 2 and "While teaching" in text
    printed(pdf(made, tmp_path / "report.pdf"))


@pytest.mark.parametrize("known", [False, True])
def test_figures_before_teaching_of_images_like_those_of_the_pretraining_are_put_right(known):
    made = report()
    again = Report(made.meta, made.results | {"pretrained": known}, made.rows)
    assert (PRETRAINED in html(again)) is (PRETRAINED in summary(again.results, 8, True, "")) is known


def test_nothing_is_fetched_or_run_and_nobody_is_named_unless_asked(tmp_path):
    made = report()
    page, sheet, table = html(made), printed(pdf(made, tmp_path / "a.pdf")), csv(made.rows)
    tags = Tags(page)
    assert not tags.seen & {"script", "img", "link", "iframe", "object", "image", "base", "form", "a"}
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in tags.attributes if name.endswith("href"))
    assert not re.search(r"url\((?!#)", page) and "default-src 'none'" in unescape(page)
    assert "Doe^" not in page and "Doe^" not in table and b"Doe^" not in sheet
    assert "Doe^Jane" in html(made, names=True) and "Doe^Jane" in csv(made.rows, names=True)
    assert f"image {made.rows[0]['index'] + 1}" in table and str(tmp_path).encode() not in sheet


def test_mistakes_show_their_pictures_only_where_asked(tmp_path):
    made = report()
    assert "<img" not in html(made) and "img-src" not in html(made) and '<th scope="col">Picture' not in html(made)
    bare = printed(pdf(made, tmp_path / "bare.pdf"))
    shown = replace(made, picture=lambda row: Image.new("RGB", (400, 300), (200, 30, row["index"])))
    page = html(shown)
    assert page.count('<img class="small" src="data:image/jpeg;base64,') == len(mistakes(made.rows)) > 0
    assert "img-src data:" in page and "Doe^" not in page
    found = printed(pdf(shown, tmp_path / "shown.pdf"))
    assert found.count(b"/Subtype /Image") > bare.count(b"/Subtype /Image")
    gone = html(replace(made, picture=lambda row: None))
    assert "<img" not in gone and "Picture" not in gone  # no empty column


def test_captions_and_columns_are_those_of_what_is_drawn(tmp_path):
    """Without an adapter nothing is said of "after", and what is not known has no column."""
    before = report(adapted=False, curve=False, prompts={})
    page = html(before)
    assert "Filled: after" not in page and "before and after teaching" not in page and "<dd>after</dd>" not in page
    assert "Prompts</th>" not in page and "Before teaching, the most certain first" in page
    assert "Filled: after" in html(report()) and "Prompts</th>" in html(report())
    table = list(reader.reader(io.StringIO(csv(before.rows))))
    assert all(all(cells) for cells in table)
    printed(pdf(before, tmp_path / "before.pdf"))


@pytest.mark.filterwarnings("error")  # glyphs that no font has, text that is taken for mathematics
def test_hostile_and_foreign_class_names_are_only_text(tmp_path):
    made = report(HOSTILE[:5], n=40, name="<b>&\"'</b>")
    page = html(made)
    tags = Tags(page)
    assert "script" not in tags.seen and "b" not in tags.seen and "<script>" in tags.text and "正常 ωμέγα" in tags.text
    assert "\u202e" not in page
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        xml.dom.minidom.parseString(
            drawing.replace("<svg ", '<svg xmlns:xlink="x" ', 1) if "xlink" not in drawing[:400] else drawing
        )
    printed(pdf(made, tmp_path / "hostile.pdf"))


def test_half_characters_from_an_adapters_json_do_not_stop_a_report(tmp_path):
    meta = report().meta | {"classes": HOSTILE, "name": "\ud800", "support_counts": {"a": -1, "b": "x"}, "prompts": {}}
    made = Report(meta, None)
    html(made).encode("utf-8")
    printed(pdf(made, tmp_path / "half.pdf"))


def test_a_run_that_came_to_nothing_has_no_report():
    class Run:
        def outcome(self):
            return None

    with pytest.raises(NearlError, match="nothing to report"):
        Report.from_run(Run())


def test_without_results_it_says_that_nothing_is_known(tmp_path):
    for made in (Report(report().meta), Report(report().meta | {"trust": None}, study([], [], [], ["a", "b"], "none"))):
        text = Tags(html(made)).text
        assert "Nothing was measured" in text and NOTICE in text and "What it was taught" in text
        printed(pdf(made, tmp_path / "bare.pdf"))
    assert NOTICE in csv([]) and len(csv([]).splitlines()) == 1


@pytest.mark.parametrize(
    "changes", [{"adapted": False}, {"n": 4}, {"kind": "folds"}, {"kind": "given", "curve": False}]
)
def test_every_kind_of_result_has_its_report(tmp_path, changes):
    made = report(**changes)
    text = Tags(html(made)).text
    if changes == {"n": 4}:
        assert "too few to say" in text and "4 images are too few" in made.headline
    if "kind" in changes:
        assert {"folds": "cross-validation", "given": "came separately"}[changes["kind"]] in text
    printed(pdf(made, tmp_path / "kind.pdf"))


def test_many_classes_with_long_names_still_make_one_page(tmp_path):
    made = report([f"a rather long name of the class number {i}" for i in range(64)], n=192)
    assert "class number 63" in Tags(html(made)).text
    printed(pdf(made, tmp_path / "many.pdf"))


@pytest.mark.parametrize(
    ("value", "interval", "words"),
    [
        (0.12, [0.03, 0.2], "Better by 12 points, 95 % interval 3 to 20."),
        (-0.16, [-0.29, -0.03], "Worse by 16 points, 95 % interval 3 to 29."),
        (0.01, [-0.08, 0.12], "No clear sign that teaching helped: +1 point, 95 % interval \N{MINUS SIGN}8 to +12."),
        (-0.16, [-0.33, 0.02], "No sign that teaching helped: \N{MINUS SIGN}16 points, 95 % interval"),
        (None, [-0.3, 0.4], "24 images are too few to say whether teaching helped."),
        (None, [-0.8, -0.1], "Worse, 95 % interval 10 to 80."),
    ],
)
def test_a_result_begins_with_what_the_check_supports(value, interval, words):
    made = report()
    made.results["gain"] = {"value": value, "interval": interval}
    assert made.headline.startswith(words) and verdict(made.results) in Tags(html(made)).text


def test_a_check_speaks_against_an_adapter_after_which_fewer_are_correct():
    labels = [0] * 6 + [1] * 4
    good, bad = np.eye(2)[labels], np.eye(2)[[1 - label if i in (2, 7) else label for i, label in enumerate(labels)]]
    found = [study(*pair, labels, ["a", "b"], "held-out") for pair in ((good, bad), (bad, good), (bad, bad))]
    assert [speaks_against(one) for one in (*found, None, {})] == [True, False, False, False, False]


def test_figures_of_another_layout_are_left_out_with_a_caution(tmp_path):
    good = report().results
    assert readable(good) and readable(json.loads(json.dumps(good))) and readable(report(n=4).results)
    bad = [
        {}, [], "x", good | {"n": -1}, good | {"classes": ["a"]}, good | {"classes": None}, good | {"kind": "guess"},
        good | {"frozen": None}, good | {"frozen": good["frozen"] | {"auroc": 7}}, good | {"gain": None},
        good | {"frozen": good["frozen"] | {"auroc": float("nan")}}, good | {"classes": ["a"] * 10**5},
        good | {"frozen": good["frozen"] | {"balanced_accuracy": None}}, good | {"too_few": ["x"]},
        good | {"adapted": good["adapted"] | {"confusion": [[1, 2]]}}, good | {"adapted": {"balanced_accuracy": 0.5}},
        good | {"adapted": good["adapted"] | {"confusion": [[1, 2], [3, 10**400]]}},
        good | {"adapted": good["adapted"] | {"reliability": [{"low": 0}]}},
        good | {"adapted": good["adapted"] | {"recall": [{"right": "<b>", "n": 1}] * 2}},
        good | {"adapted": good["adapted"] | {"auroc_interval": [0.1]}},
    ]  # fmt: skip
    for results in bad:
        assert not readable(results)
    made = Report(report().meta, bad[-1])
    assert "another layout" in html(made) and "Nothing was measured" in html(made)
    printed(pdf(made, tmp_path / "odd.pdf"))
    with pytest.raises(NearlError, match="how far to trust it"):
        Report(report().meta | {"trust": {"temperature": "x"}})


def test_no_cell_of_the_table_is_a_formula():
    classes = ["=cmd|' /C calc'!A0", "+1", "-2+3", "@SUM(A1)", "\t=1", "＝1", " =1", 'a,"b"\r\n=c', "plain; =x"]
    made = rows(np.eye(9), np.eye(9)[::-1], range(9), classes, [f"{name}.png" for name in classes])
    text = csv(made, names=True)
    lines = list(reader.reader(io.StringIO(text)))
    assert len(lines) == 10 and {len(line) for line in lines} == {2 + 4 + 18 + 1}
    for cell in (cell for line in lines for cell in line):
        assert cell.lstrip()[:1] not in tuple("=+-@\t\r＝＋－＠") or cell.strip() == ""
        assert not re.search(r"[\t\r\n]", cell)
    assert (
        lines[1][1] == "'=cmd|' /C calc'!A0"
        and lines[0][-1] == "notice"
        and lines[1][-1] == NOTICE
        and lines[9][1] == "plain; =x"
    )
    assert all(part.startswith('"') for part in text.split("\r\n") if part)
    untaught = list(reader.reader(io.StringIO(csv(rows(np.eye(2), None, [0, 1], ["a", "b"], "xy")))))
    assert untaught[0][:4] == ["image", "truth", "before", "before share"] and untaught[1][:4] == [
        "image 1",
        "a",
        "a",
        "1.0000",
    ]
    assert unescape(html(report())).count(NOTICE) >= 2


@pytest.mark.parametrize(("name", "shown"), [("clip-adapter", "CLIP-Adapter"), ("no-longer-there", "no-longer-there")])
def test_a_method_is_called_by_its_title(name, shown):
    assert dict(report(method=name).facts)["Method"] == shown
