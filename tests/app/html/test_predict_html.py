"""What Predict and all tabs show: names never become markup, shares are whole per cents, what is missing is words."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from app.about import tab as about
from app.context import load_ready_prompts
from app.html import render, views
from app.predict import html as predict_views
from app.predict.actions import Recognised
from app.predict.html import Reading, reading, table
from app.predict.scan import html as scan_views
from nearl.data.images import Problem
from nearl.report.words import per_cent, points
from tests.support.pages import ROOT

HOSTILE = """<script>alert("1")</script>'"&{{7*7}}{% raw %}""" + "x" * 300
TEMPLATES = ROOT / "app" / "html" / "templates"
PICTURE = SimpleNamespace(name=HOSTILE, digest="0", size=(1, 1), image=lambda: Image.new("L", (1, 1)))


@pytest.mark.parametrize(
    "html",
    [
        reading(Reading([HOSTILE, "b"], [0.4, 0.6], [0.7, 0.3], [HOSTILE])),
        reading(Reading(["a", "b"], [0.4, 0.6], None, (), [HOSTILE], closer=[(HOSTILE, HOSTILE)])),
        table([HOSTILE, "x"], [HOSTILE, "b"], np.array([[0.9, 0.1]] * 2), np.array([[0.9, 0.1]] * 2)),
        predict_views.trust(True, 0.9, [HOSTILE], True, True, [HOSTILE, HOSTILE]),
        scan_views.marks(SimpleNamespace(size=(9, 9), letters={"left": HOSTILE}), None),
        views.viewer(PICTURE, True, ("data:,", HOSTILE), [HOSTILE], "", [HOSTILE]),
        views.strip([("data:,", HOSTILE)], 0, HOSTILE),
        views.problem_list([Problem(HOSTILE, HOSTILE)]),
        views.message(HOSTILE, "error"),
        views.header(HOSTILE, "ready", aside=HOSTILE),
        views.header("m", HOSTILE, HOSTILE),
        views.section(HOSTILE, HOSTILE),
        views.quiet(HOSTILE),
    ],
)
def test_names_of_visitors_never_become_markup(html):
    assert "<script" not in html and "&lt;script&gt;" in html
    assert '("1")' not in html and "'\"&{" not in html and "{{7*7}}" in html


def test_what_a_template_gives_is_put_into_another_as_it_is():
    inner = views.quiet("<b>")
    assert isinstance(inner, Markup) and '<p class="quiet">&lt;b&gt;</p>' in views.viewer(PICTURE, False, marks=inner)
    assert "&lt;p" in views.quiet(str(inner))


def test_a_template_that_lacks_something_fails():
    with pytest.raises(Exception, match="words"):
        render("quiet.html")


def test_an_error_says_that_it_is_one_and_nothing_is_no_message():
    assert "<strong>Error:</strong> It broke." in views.message("It broke.", "error")
    assert views.message("") == "" and views.problem_list([]) == "" and views.strip([], 0, "x") == ""


def test_reading_says_both_shares_in_class_order():
    html = reading(Reading(["zebra", "ape"], [0.25, 0.75], [0.9, 0.1]))
    assert html.index("zebra</h3>") < html.index("ape</h3>")
    assert [word in html for word in ("25\u202f%", "75\u202f%", "90\u202f%", "10\u202f%")] == [True] * 4
    assert "relative to your prompts" in html


def test_reading_without_an_adapter_points_to_teach():
    html = reading(Reading(["a", "b"], [0.5, 0.5], None, ["a"]))
    assert 'data-tab="Teach"' in html
    assert "never taught" not in html


def test_an_image_unlike_those_learned_from_is_said_until_something_is_taught():
    before, after = [[0.5, 0.5]], [[0.4, 0.6]]
    assert predict_views.UNFAMILIAR in reading(Reading(["a", "b"], before[0], unfamiliar=predict_views.UNFAMILIAR))
    assert predict_views.UNFAMILIAR not in reading(
        Reading(["a", "b"], before[0], after[0], unfamiliar=predict_views.UNFAMILIAR)
    )


def test_a_doubted_answer_is_small_and_the_doubt_is_the_headline():
    html = reading(Reading(["a", "b"], [0.03, 0.97], doubt="A guess: so it is.", measured="On 9 test images."))
    assert '<p class="headline doubt">A guess: so it is.</p><p class="quiet">Closest to' in html
    assert "On 9 test images" in html
    assert '<p class="headline">Closest to' in reading(Reading(["a", "b"], [0.03, 0.97]))
    taught = reading(Reading(["a", "b"], [0.5, 0.5], [0.4, 0.6], doubt="A guess.", measured="On 9 test images."))
    assert '<p class="headline doubt">A guess.</p><p class="quiet">After teaching' in taught
    assert "9 test images" not in taught
    offered = reading(Reading(["a", "b"], [0.5, 0.5], closer=[("x", "X")], kind="chest CT", beside={"x": "a guess"}))
    assert "“chest CT”" in offered and "Use “X”, a guess" in offered
    marks = table(["x", "y"], ["a", "b"], np.eye(2), None, None, ["a guess", ""])
    assert marks.count("a guess") == 1


def test_an_image_that_is_not_read_yet_says_its_kind_and_whether_the_classes_fit():
    fits, stale = (predict_views.reading_empty(True, found=Recognised("chest CT", yes, [])) for yes in (True, False))
    assert "“chest CT”" in fits and "for other images" not in fits
    assert "for other images" in stale
    assert predict_views.UNFAMILIAR in predict_views.reading_empty(True, found=Recognised("", False, []))


def test_a_long_file_name_below_an_image_lacks_its_middle():
    strip = views.strip([("data:,", "a_very_long_name_0001.dcm"), ("data:,", "short (1 of 2).png")], 0, "Images", True)
    assert strip.count('"a_very_long_name_0001.dcm"') == 2 and "…" in strip and "001.dcm</span>" in strip
    assert "<span>short (1 of 2).png</span>" in strip


def test_classes_that_were_never_taught_are_named_in_words():
    html = reading(Reading(["a", "b"], [0.5, 0.5], [0.4, 0.6], ["b"]))
    assert "was never taught b;" in html
    assert html.count('class="untaught"') == 1


def test_the_adapter_in_use_is_named_with_and_without_a_reading():
    read = reading(Reading(["a", "b"], [0.4, 0.6], [0.7, 0.3], adapter="Monday's"))
    for html in (read, predict_views.reading_empty(True, adapter="Monday's")):
        assert "Adapter in use" in html and "Monday" in html
    assert "Adapter in use" not in reading(Reading(["a", "b"], [0.4, 0.6]))


def test_how_long_images_are_kept_is_said_once_and_is_what_the_code_does(monkeypatch):
    monkeypatch.setattr(about, "KEEP_SECONDS", 3 * 3600)
    assert "deleted 3 hours after" in about.about() and "forgotten 1 hour after" in about.about()
    assert "restart" in about.about(lasts=False) and "restart" not in about.about()
    elsewhere = [path.read_text() for path in TEMPLATES.rglob("*.html") if path.name != "about.html"]
    assert not re.findall(
        r"delete[sd] (?:after|within|from the server)|forgotten|stays? in this session", "".join(elsewhere)
    )


# in place of the words that users of the page stumbled over; some are fine elsewhere
UNWANTED = (
    "are the least|>Later<|reads past|ordinary pictures|nothing taught|in its certainty|buy here|How often they are|"
    "As each method is|taught nothing and chose|held back|Not known to this|read rightly|Not done:|made[- ]up|"
    "\\banew\\b|learnt|[a-z ]tumor\\b"
)


def test_the_words_of_the_page_are_plain():
    texts = [*TEMPLATES.rglob("*.html"), *(ROOT / "app").rglob("*.py"), *(ROOT / "assets" / "page").glob("*.js")]
    found = [(path.name, line) for path in texts for line in re.findall(f".*(?:{UNWANTED}).*", path.read_text())]
    found += [s["description"] for s in load_ready_prompts().values() if re.search(UNWANTED, s["description"])]
    assert [line for line in found if "re.sub(" not in str(line) and "->" not in str(line)] == []


def test_unknown_words_are_named_and_many_are_cut():
    words = [f"w{i}" for i in range(20)]
    one, many = (reading(Reading(["a", "b"], [0.5, 0.5], unknown=words[:n])) for n in (1, 20))
    assert "unknown word “w0”" in one and "and others" in many and "w19" not in many


def test_trust_is_visibly_off_when_the_prompts_were_edited():
    on = predict_views.trust(True, 0.9, ["a"], False, False, [])
    assert "calibrated on images kept aside" in on and "9 of 10" in on and "note" not in on
    off = predict_views.trust(False, None, None, None, True, ["The prompts were edited."])
    assert "not calibrated" in off and "switched off" in off and "The prompts were edited." in off
    unlike = predict_views.trust(True, 0.9, ["a"], True, False, [])
    assert "flagged by mistake" in unlike and "not known" in unlike and "9 of 10" not in unlike


def test_an_answer_for_an_image_unlike_those_taught_with_is_a_guess():
    def doubt(trust, claims=None) -> str:
        found = SimpleNamespace(adapted=np.eye(2), trust=trust, claims=claims)
        return predict_views.doubt_of(SimpleNamespace(viewing=SimpleNamespace(prediction=found, closer=[[], []])), 1)

    assert "taught with" in doubt({"unlike": [False, True]})
    before = [SimpleNamespace(kind="", doubt="Before.")] * 2  # says nothing of what was taught
    assert not doubt({"unlike": [True, False]}, before) and not doubt({"unlike": None}) and not doubt(None)


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0\u202f%"), (0.004, "< 1\u202f%"), (0.126, "13\u202f%"), (0.999, "> 99\u202f%"), (1, "100\u202f%")],
)
def test_shares_are_whole_per_cents(share, text):
    assert per_cent(share) == text


@pytest.mark.parametrize(("gain", "text"), [(0.314, "+31"), (-0.05, "−5"), (0.001, "0"), (-0.001, "0")])
def test_points_carry_their_sign(gain, text):
    assert points(gain) == text
