"""HTML of the Compare tab: names never become markup, what is not known is words, marks and labels stay apart."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from app.compare import html as compare_views
from app.compare.actions import gain_words
from app.compare.html import Status
from app.html import charts
from app.html import space as spaces
from nearl.report.words import PRETRAINED

HOSTILE = """<img src=x onerror=alert(1)>"'&"""


def space(images, classes, error=""):
    before = {"images": [[0.0, 0.1], [0.1, 0.0]], "classes": [[1.0, 0.5], [1.0, -0.5]], "gap": 1.0, "error": ""}
    after = {"images": images, "classes": classes, "gap": 0.8, "error": error}
    return {"before": before, "after": after, "labels": [0, 1], "together": {"before": 0.5, "after": 0.25}}


def line(method="nearl", value=0.8, **more) -> dict:
    moved = space([[0.0, 0.4], [0.1, -0.4]], [[0.9, 0.5], [1.0, -0.5]])
    figures = {"balanced_accuracy": value, "interval": [0.7, 0.9], "auroc": 0.9, "ece": 0.1, "n": 40, "few": False}
    costs = {"fit_seconds": 12.3, "predict_ms": 45.0, "parameters": 591886, "taught": 16, "space": moved}
    about = {"method": method, "title": method, "error": "", "done": 1}
    return {**about, **figures, **costs, **more}


def page(lines, at_work="", step="", going_on=False, **more) -> str:
    status = Status("", at_work, step, going_on)
    return compare_views.comparison(lines, status, "", classes=["a", "b"], **more)


def test_names_never_become_markup():
    card = SimpleNamespace(name="x", title=HOSTILE, idea=HOSTILE, trained=HOSTILE)
    failed = line(title=HOSTILE, error=HOSTILE, done=0)
    shown = [
        compare_views.cards([(HOSTILE, [card])] * 3),
        compare_views.comparison([line(title=HOSTILE), line("zero-shot", title=HOSTILE), failed],
                                 Status(""), HOSTILE,
                                 answers=[HOSTILE], classes=[HOSTILE, "b"]),
        compare_views.history([SimpleNamespace(title=HOSTILE, key="k", facts=HOSTILE, shown=False, empty=False)]),
        compare_views.going_on(0, 1, 2, HOSTILE, 3.0),
    ]  # fmt: skip
    for html in shown:
        assert "<img src=x" not in html and "\"'&" not in html


def test_what_learns_nothing_is_measured_and_not_taught():
    said = [
        compare_views.going_on(0, 0, 2, compare_views.at_work(*one), 3.0) for one in (("zero-shot", "A"), ("x", "B"))
    ]
    assert "Measuring A" in said[0] and "Teaching B" in said[1]


def test_the_drop_on_another_source_is_beside_the_figure():
    shown = page([line(there=0.6, drop={"value": 0.2, "interval": [0.1, 0.3]})])
    assert "60\u202f% on the other images, \u221220 points (\u221230 to \u221210)" in shown
    assert "on the other images" not in page([line()])


def test_a_row_says_what_it_is_waiting_for():
    waits, fails = line("lora", done=0), line("coop", done=0, error="CoOp needs a text tower.")
    html = page([line(), waits, fails], at_work="lora", step="step 3 of 30", going_on=True)
    assert "step 3 of 30" in html and "CoOp needs a text tower." in html
    assert html.count('data-act="use"') == 1 and 'aria-label="Use nearl in Predict"' in html
    assert "not taught" in page([waits]) and "waits" in page([waits], going_on=True)
    assert "591\u202f886" in html and "70 to 90" in html
    assert "1 of 3 draws" in page([line()], seeds=3) and "draws" not in page([line("zero-shot")], seeds=3)


def test_too_few_images_are_words():
    html = page([line(value=None, few=True, n=4, auroc=None, ece=None)])
    assert "too few to say" in html and "4 images are too few" in html and '<svg class="scatter' not in html


def test_a_figure_from_few_images_carries_that_caveat_wherever_it_stands():
    """Beside a method of which too little is known, another's 83 % is no firm result either."""
    html = page([line(value=None, few=True, n=12, auroc=None, ece=None), line("lora", 0.83, few=True, n=12)])
    row = html[html.index('scope="row">lora') :]
    row = row[: row.index("</tr>")]
    assert "<strong>" not in row and "a hint only: 12 images" in row
    bars = html[html.index("by-method") : html.index("</figure>")]
    assert "by-method few" in bars and "only 12 images" in bars
    firm = page([line("lora", 0.83)])
    assert "<strong>83" in firm and "hint" not in firm


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ({"value": 0.03, "interval": [-0.04, 0.1]}, "+3 points (95 % interval −4 to +10), so this may be chance."),
        ({"value": -0.2, "interval": [-0.3, -0.1]}, "−20 points (95 % interval −30 to −10)."),
        ({"value": None, "interval": [-0.4, 0.3]}, "cannot be told from so few images"),
    ],
)
def test_what_a_part_buys_is_a_sentence(gain, words):
    assert words in gain_words("orthogonality", gain)


def test_it_is_said_where_the_model_learned_from_such_images():
    assert PRETRAINED in page([line(pretrained=True)]) and PRETRAINED not in page([line()])


def test_long_names_have_several_lines_and_what_is_cut_is_told_in_full():
    fits, long = "benign keratosis-like lesions", "atelectasis with pleural effusion and pneumothorax on the left side"
    html = spaces.spaces([line()], [fits, long])
    lines = re.sub(r"<title>.*?</title>|</tspan>", "", html)
    lines = re.sub(r"<tspan[^>]*>", " ", lines)
    assert f">{fits}</text>" in lines and f">{long}</text>" not in lines
    assert html.count(f"<title>{long}</title>") == 2 and f"Cut in the drawings: {long}." in html
    assert f"<title>{fits}" not in html


def test_labels_keep_off_each_other_and_inside():
    points = [(100.0, 100.0), (104.0, 102.0), (300.0, 100.0), (102.0, 104.0)]
    names = ["Linear probe", "Tip-Adapter", "NEARL, whole update", "LoRA"]
    box = (40.0, 10.0, 318.0, 250.0)
    found = charts.place_labels(points, names, box)
    rooms = []
    for (x, y, end), name in zip(found, names, strict=True):
        wide = charts.width_of(name)
        left = x if end == "start" else x - wide
        rooms.append((left, y - 11, left + wide, y + 3))
        assert box[0] <= left and left + wide <= box[2]
    assert not any(charts.overlap(a, b) for i, a in enumerate(rooms) for b in rooms[:i])


def test_the_scatter_has_a_place_for_what_takes_no_time():
    html = charts.scatter([line("zero-shot", fit_seconds=0.0), line(fit_seconds=0.4), line("lora", 0.2)])
    places = [float(x) for x in re.findall(r'cx="([-\d.]+)"', html)]
    assert len(places) == 6 and min(places) >= 44.0 and "nan" not in html
    assert charts.scatter([line()]) == ""


def test_what_moves_nothing_shares_a_card_and_the_rest_is_before_and_after():
    still = space(**{key: space([], [])["before"][key] for key in ("images", "classes")})
    lines = [
        line("zero-shot", space=still),
        line("linear-probe", space=still),
        line(),
        line("x", space=space([], [], "It lies elsewhere.")),
    ]
    html = spaces.spaces(lines, ["a", "b"])
    assert html.count('<article class="space">') == 3 and html.count("<svg") == 1 + 2 + 1
    assert "0.80 apart, closer than before (1.00)" in html and "It lies elsewhere." in html
    assert "Image and prompts together: 25\u202f% (50\u202f% before)" in html
    assert "prompts together: zero-shot 25\u202f%." in html  # not of a probe, which ignores the prompts
    assert spaces.spaces([line(space=None)], ["a"]) == ""


def test_names_in_the_plot_of_images_and_prompts_keep_off_each_other():
    """Prompts that lie close together, as those of similar classes do."""
    names = ["glioma", "meningioma", "pituitary", "no tumour"]
    classes = [[1.0, 0.50], [1.0, 0.48], [0.99, 0.47], [1.0, -0.5]]
    near = space([[0.0, 0.4], [0.1, -0.4]], classes)
    near["before"]["classes"] = classes
    html = spaces.spaces([line(space=near)], names)
    for drawing in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        rooms = []
        for x, y, side, name in re.findall(r'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="(\w+)">([^<]+)', drawing):
            left = float(x) - (charts.width_of(name) if side == "end" else 0)
            rooms.append((left, float(y) - 11, left + charts.width_of(name), float(y) + 3))
        assert len(rooms) == 4 and all(r[0] >= 0 and r[2] <= spaces.WIDTH for r in rooms)
        assert not any(charts.overlap(a, b) for i, a in enumerate(rooms) for b in rooms[:i])


def test_a_name_that_fits_at_no_side_of_its_mark_is_moved_into_the_picture():
    box, name = (2.0, 2.0, 230.0, 174.0), "mammogram WM…"
    wide = charts.width_of(name)
    for point in ((116.0, 90.0), (116.0, 2.0), (230.0, 174.0)):
        ((x, y, end),) = charts.place_labels([point], [name], (*box[:2], wide + 6, box[3]))
        left = x if end == "start" else x - wide
        assert left >= box[0] and left + wide <= wide + 6 and box[1] <= y - 11 and y + 3 <= box[3]


def test_images_that_would_be_one_blot_are_spread_and_nothing_leaves_the_picture():
    close = space([[0.0, 0.01], [0.01, 0.0]], [[1.0, 0.5], [1.0, -0.5]])
    close["before"]["images"] = [[0.0, 0.0], [0.01, 0.01]]
    html = spaces.spaces([line(space=close)], ["a", "b"])
    assert f"enlarged {spaces.MOST_ZOOM} times" in html
    for x, y in re.findall(r'cx="([-\d.]+)" cy="([-\d.]+)"', html):
        assert 0 <= float(x) <= spaces.WIDTH and 0 <= float(y) <= spaces.HEIGHT
