"""HTML of the Teach tab: names never become markup, what cannot be said is words, charts hold their numbers."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from app.predict import html as predict_views
from app.teach.images import html as image_views
from app.teach.run import html as run_views
from app.teach.shelf import html as shelf_views
from nearl.data.images import Problem
from nearl.measure import evaluate
from nearl.report.words import per_cent

HOSTILE = """<img src=x onerror=alert(1)>"'&${7*7}{{value}}"""


def results(n: int, classes: list[str], kind: str = "held-out", seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % len(classes)
    frozen = rng.dirichlet(np.ones(len(classes)), n)
    adapted = 0.2 * frozen + 0.8 * np.eye(len(classes))[labels]
    return evaluate.study(frozen, adapted, labels, classes, kind)


def item(name: str, **more) -> SimpleNamespace:
    entry = {"id": "a", "classes": ["a", "b"], "created": "2026-11-24T00:10:00", "method": "nearl", "in_use": False}
    entry = {**entry, "figures": None, "several": False, **more}
    return SimpleNamespace(name=name, **entry, names=entry["classes"])


def test_names_never_become_markup():
    thumb = (0, "data:,", HOSTILE, (HOSTILE,))
    classes = [HOSTILE, "b", "c"]
    study = results(30, classes)
    many = results(60, [f"{HOSTILE} {i}" for i in range(20)])
    pages = [
        image_views.labelled_set({HOSTILE: 3, "b": 2, "c": 0}, 0, 0, [thumb]),
        image_views.findings_set({HOSTILE: (1, 0, 2), "b": (1, 1, 1)}, 3, 0, 0, [thumb]),
        image_views.check((1, 2, 3, 4), HOSTILE, [HOSTILE], HOSTILE, "", [Problem(HOSTILE, HOSTILE)]),
        image_views.equal_images([[thumb, thumb]], [[thumb]], [[thumb]], classes),
        run_views.progress(f"fold {HOSTILE}", 1, 2, 3.0, [(1, 1.0), (2, 0.5)], []),
        run_views.ended("failed", HOSTILE),
        run_views.opened(HOSTILE, True),
        run_views.summary(study, 3, True, "early"),
        run_views.summary(many, 3, True, ""),
        run_views.details(study, {"losses": [], "held": [], "steps": 2}, [thumb]),
        run_views.cell_images(HOSTILE, {"when": HOSTILE}, [thumb], 0, "", [(HOSTILE, 0, "after", True)]),
        shelf_views.shelf([item(HOSTILE, classes=classes, created=HOSTILE, method=HOSTILE), item("b")]),
        shelf_views.comparison("data:,", HOSTILE, [(HOSTILE, classes, [0.2, 0.3, 0.5], None)]),
        shelf_views.comparison("data:,", HOSTILE, [(HOSTILE, classes, [0.2, 0.3, 0.5], [HOSTILE])]),
        predict_views.trust(False, 0.9, [HOSTILE], True, True, [HOSTILE]),
    ]
    for page in pages:
        assert "<img src=x" not in page
        assert "\"'&$" not in page  # an attribute is not left either


def test_every_number_of_the_confusion_matrix_is_a_button_that_says_what_it_is():
    html = run_views.summary(results(30, ["a", "b"]), 8, False, "")
    assert "15 images of a read correctly, after teaching" in html
    assert html.count('data-act="cell"') == sum(
        n > 0 for which in ("frozen", "adapted") for row in results(30, ["a", "b"])[which]["confusion"] for n in row
    )
    assert 'data-truth="0" data-said="0" data-when="after"' in html


def test_too_few_images_are_words_and_not_numbers():
    html = run_views.summary(results(4, ["a", "b"]), 8, False, "")
    assert "too few to say" in html and html.count("4 images are too few") == 1
    none = evaluate.study(np.zeros((0, 2)), None, [], ["a", "b"], "none")
    html = run_views.summary(none, 8, True, "") + run_views.details(none, {"losses": [], "held": [], "steps": 1}, [])
    assert "No image was kept aside" in html
    assert "bar-line" not in html
    cancelled = run_views.summary(None, 32, False, "cancelled", 18)
    assert "18 images kept aside were not read" in cancelled and "Too few" not in cancelled
    assert "Too few" in run_views.summary(None, 3, False, "")


def test_a_run_whose_adapter_was_deleted_says_so():
    html = run_views.summary(results(30, ["a", "b"]), None, False, "")
    assert "deleted" in html and "Taught with" not in html


def test_a_result_begins_with_what_the_check_supports_and_offers_what_is_not_in_use():
    better = results(30, ["a", "b"])
    worse = better | {"frozen": better["adapted"], "adapted": better["frozen"]}
    worse["gain"] = {"value": -better["gain"]["value"], "interval": [-end for end in better["gain"]["interval"][::-1]]}
    for study, words in ((better, "Better by"), (worse, "Worse by"), (None, "Nothing was measured")):
        assert f'<p class="headline">{words}' in run_views.summary(study, 8, True, "")
    assert 'data-act="use"' not in run_views.summary(worse, 8, True, "")
    offered = run_views.summary(worse, 8, False, "")
    assert "speaks against" in offered and 'data-act="use"' in offered
    plain = run_views.summary(better, 8, False, "cancelled")
    assert "speaks against" not in plain and 'data-act="use"' in plain
    assert 'data-act="use"' not in run_views.summary(worse, None, False, "")  # it was deleted


def test_the_curve_and_the_result_have_one_name():
    study = results(30, ["a", "b"])
    curve = run_views.details(study, {"losses": [(1, 1.0), (2, 0.5)], "held": [(2, 0.75)], "steps": 2}, [])
    before, summary = per_cent(study["frozen"]["balanced_accuracy"]), run_views.summary(study, 8, True, "")
    (name,) = re.findall(f"<figcaption>(.*?), from {before} before teaching to 75", curve)
    assert f"<h3>{name}</h3>" in summary and before in summary
    going_on = run_views.progress("teaching", 2, 9, 5, [(1, 1.0), (2, 0.5)], [(2, 0.75)])
    assert f"{name}, now 75" in going_on  # the value before teaching is not known yet


@pytest.mark.parametrize(
    ("kind", "words"), [("given", "came for testing"), ("folds", "cross-validation"), ("held-out", "kept")]
)
def test_how_it_was_checked_is_said(kind, words):
    assert words in run_views.summary(results(30, ["a", "b"], kind), 8, True, "")


def test_reliability_has_its_numbers_in_a_table():
    study = results(30, ["a", "b"])
    html = run_views.details(study, {"losses": [], "held": [], "steps": 1}, [])
    bins = [b["n"] for which in ("frozen", "adapted") for b in study[which]["reliability"] if b["n"]]
    assert html.count('<th scope="row">') == len(bins)
    assert "Predict calibrates them" in html  # so that the shares there are others
    untaught = run_views.details({**study, "adapted": None}, {"losses": [], "held": [], "steps": 1}, [])
    assert "Predict calibrates them" not in untaught
    assert sum(bins) == 60


def test_pages_of_thumbnails():
    counts = {"a": 60, "b": 2}
    middle = image_views.labelled_set(counts, 0, 1, [(i, "data:,", "f", ()) for i in range(24, 48)])
    assert "a: 25 to 48 of 60" in middle and ">Next 12<" in middle
    assert 'data-to="0"' in middle and 'data-to="2"' in middle
    last = image_views.labelled_set(counts, 0, 2, [(i, "data:,", "f", ()) for i in range(48, 60)])
    assert "a: 49 to 60 of 60" in last and ">Next" not in last
    assert "thumbs" not in image_views.labelled_set(counts, None, 0, [])


def test_a_class_can_be_merged_only_into_another_of_several():
    assert 'data-act="merge"' not in image_views.labelled_set({"a": 1}, None, 0, [])
    html = image_views.labelled_set({"a": 1, "b": 1, "c": 1}, None, 0, [])
    assert html.count('data-act="merge"') == 3


def test_conflicts_are_settled_by_a_class_that_is_among_them():
    group = [(0, "data:,", "x", ("b",)), (1, "data:,", "y", ("c",))]
    html = image_views.equal_images([group], [], [], ["a", "b", "c"])
    assert "All are “a”" not in html and "All are “b”" in html and "All are “c”" in html


def test_many_left_out_files_are_counted():
    html = image_views.left_out([Problem(f"{i}", f"{i}.png is not an image.") for i in range(100)])
    assert "100 files" in html and "and 60 more" in html
    assert "1 file" not in image_views.left_out([Problem("x", "16 masks beside their images were left out.")])


def test_the_curve_is_thinned_and_names_its_ends():
    html = run_views.progress("", 1999, 2000, 3.0, [(i, 1 / i) for i in range(1, 2000)], [(1, 0.5), (1999, 0.75)])
    assert html.count(",") < 1200
    assert "now 75\u202f%" in html
    assert "<svg" not in run_views.progress("", 1, 10, None, [(1, 1.0)], [])


@pytest.mark.parametrize(
    ("name", "more", "line"),
    [
        ("mine", {"method": "clip-adapter"}, "a, b · 2026-11-24 00:10 UTC · CLIP-Adapter"),
        ("mine", {"method": "no-longer-there"}, "a, b · 2026-11-24 00:10 UTC · no-longer-there"),
        ("a, b", {}, "2026-11-24 00:10 UTC · NEARL"),
        ("a, b (2)", {}, "2026-11-24 00:10 UTC · NEARL"),
        ("mine", {"classes": list("abcdefgh"), "created": "", "method": ""}, "a, b, c, d, e, f and 2 more"),
    ],
)
def test_an_adapter_says_its_method_and_names_its_classes_once(name, more, line):
    assert f'<p class="quiet">{line}</p>' in shelf_views.shelf([item(name, **more)])
