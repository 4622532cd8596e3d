"""The first quarter of an hour of a visitor, from the first example to a comparison, at the width of a desktop and of a
phone: every tab in one page, which may not say anything on the console."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from app.examples import example_list
from nearl.data.phantoms.kinds import phantom_set
from nearl.resources import ASSETS
from tests.support.browser import (
    LONG,
    MAP_WORDS,
    NOTICE,
    choose,
    example,
    expect,
    fits,
    idle,
    nameless,
    open_tab,
    taught,
    teach,
    upload,
)
from tests.support.scans import body, dataset, directions, nifti, series, written

MANY_STEPS = "2000"
SIZE = (20, 18, 24)  # voxels of the volumes, so 24 slices


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A visitor's own files by what they are: two photographs, a DICOM image, a CT series and a NIfTI volume."""
    folder = tmp_path_factory.mktemp("own")
    photographs = [folder / f"photograph_{i}.jpg" for i in range(2)]
    for path, record in zip(photographs, phantom_set("skin", 1, seed=5).records, strict=True):
        record.image().save(path)
    image = folder / "image.dcm"
    image.write_bytes(written(dataset(np.asarray(Image.linear_gradient("L")).astype(np.uint16) * 12)))
    slices = [folder / f"slice_{i}.dcm" for i in range(SIZE[2])]
    for path, data in zip(slices, series(body(SIZE), *directions()[0]), strict=True):
        path.write_bytes(data)
    volume = folder / "volume.nii"
    volume.write_bytes(nifti(body(SIZE), np.diag([1.0, 1.5, 2.0, 1.0])))
    return {"photographs": photographs, "image": [image], "series": slices, "volume": [volume]}


def _read(page) -> None:
    """Wait for the reading of the image on show, and its map."""
    expect(page.locator("#viewer figure")).to_contain_text(MAP_WORDS)
    expect(page.locator("#reading .bars")).to_be_visible()
    expect(page.locator("#predict-message [role=alert], #predict-problems [role=alert]")).to_have_count(0)


def _press(page, name: str) -> None:
    """A press that lasts, of a button in sight that late answers no longer move."""
    button, before = page.get_by_role("button", name=name, exact=True), None
    button.scroll_into_view_if_needed()
    while before != (before := button.bounding_box()):
        page.wait_for_timeout(500)
    button.click(delay=200)


def _whole(page) -> None:
    """The tab is no wider than the window, all of it can be named, and the notice is in sight."""
    assert fits(page) and nameless(page) == []
    page.mouse.wheel(0, 4000)
    expect(page.locator("#header .notice")).to_have_text(NOTICE)
    expect(page.locator("#header .notice")).to_be_in_viewport()


def _predict(page, own) -> None:
    """Examples, images of one's own of every kind, and words of one's own."""
    figure = page.locator("#viewer figure")
    for place, shown in enumerate(example_list(ASSETS)[:9]):
        page.locator("#examples button").nth(place).click()
        expect(figure).to_contain_text(shown.path.name.split(".")[0])
        expect(figure).to_contain_text(MAP_WORDS)
    _read(page)
    for kind, shown in {"image": "image.dcm", "series": "slice 13 of 24", "volume": "volume.nii"}.items():
        upload(page, "#upload", own[kind])
        expect(figure).to_contain_text(re.compile(shown, re.IGNORECASE))
        _read(page)
    upload(page, "#upload", own["photographs"])
    expect(figure).to_contain_text("photograph_0.jpg")
    _read(page)

    page.locator("#predict-prompts input").first.fill("odd")
    editor = page.locator("#predict-prompts-0")
    editor.fill("\n".join(f"an image of {i}" for i in range(9)))
    expect(page.locator("#reading")).to_have_class(re.compile("stale"))
    _press(page, "Read the image")
    expect(page.locator("#reading .bars")).to_contain_text("odd")
    expect(page.locator("#reading")).not_to_have_class(re.compile("stale"))
    page.locator("#filmstrip button").nth(1).click()
    expect(figure).to_contain_text("photograph_1.jpg")
    _read(page)
    _whole(page)


def _explain(page) -> None:
    """Every kind of map, and one to keep."""
    open_tab(page, "Explain")
    expect(page.locator("#maps figure").first).to_be_visible()
    kinds = page.locator("#explain-method label")
    for place in range(kinds.count()):
        label = kinds.nth(place)
        label.click()
        said = label.inner_text().removesuffix(" (slow)")
        expect(page.locator("#maps .map-caption, #explain-card .note")).to_contain_text([said])
    kinds.first.click()
    expect(page.locator("#maps img.map, #maps .scale-words").first).to_be_visible()
    _whole(page)
    with page.expect_download() as download:
        page.locator("#explain-download").click()
    assert re.fullmatch(r"photograph_1_\w+(_[\w-]+)*_before\.png", download.value.suggested_filename)


def _teach(page, archive) -> None:
    """From a zip, a file of which is broken: cancelled, then taught; the report and the shelf."""
    open_tab(page, "Teach")
    sources = page.get_by_role("radiogroup", name="Where they come from").get_by_role("radio")
    sources.first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_label("Name of the class")).to_be_visible()
    assert fits(page)
    page.keyboard.press("ArrowDown")
    expect(sources.nth(2)).to_be_checked()
    upload(page, "#zip", [archive])
    expect(page.locator("#check")).to_contain_text("letter.png is not an image")
    triangle, word = (
        page.locator(f"#advanced .label-wrap span{nth}").bounding_box() for nth in (".icon", ":first-child")
    )
    assert triangle["x"] < word["x"]
    teach(page, MANY_STEPS)
    progress = page.locator("#progress")
    expect(progress.locator(".curve").first).to_be_visible(timeout=LONG)
    badge = page.get_by_role("link", name=re.compile(r"^Teaching"))
    open_tab(page, "Learn")
    expect(badge).to_be_visible()
    _whole(page)
    page.goto(page.url.partition("#")[0])  # a page that is opened anew lands on the tab with the run, as it was
    expect(progress.locator(".curve").first).to_be_visible(timeout=LONG)
    expect(page.locator("#set h3").first).to_have_text("12 images in 2 classes")
    expect(sources.nth(2)).to_be_checked()
    expect(page.locator("#zip")).to_be_visible()
    expect(page.locator("#steps input")).to_have_value(MANY_STEPS)  # in sight, since it is not what "Quick" means
    _press(page, "Cancel")
    expect(progress).to_contain_text("cancelled", timeout=LONG)
    expect(badge).to_have_count(0)

    page.locator("#steps input").fill("0")
    teach(page)
    expect(progress.locator(".outcome")).to_have_count(0)  # that of the cancelled run
    taught(page)
    for kind in ("Report (HTML)", "Predictions (CSV)"):
        with page.expect_download() as report:
            page.get_by_role("button", name=kind).click()
        assert report.value.suggested_filename.startswith("nearl")
    with page.expect_download() as adapter:
        page.locator("#shelf").get_by_role("button", name="Download").first.click()
    assert adapter.value.suggested_filename.endswith(".zip")
    _whole(page)
    open_tab(page, "Predict")
    expect(page.locator("#reading .adapter")).to_be_visible()


def _compare(page) -> None:
    """Two comparisons, one of them found again after a reload with the settings that it was asked for, the other in
    the history."""
    open_tab(page, "Compare")
    cards, result = page.locator("#method-cards"), page.locator("#comparison-result")
    expect(cards.locator(":checked")).to_have_count(5)
    _whole(page)
    for name in ("tip-adapter", "lora", "nearl"):
        cards.locator(f"[data-name='{name}']").uncheck()
    choose(page, "#compare-source", "Mine, from Teach")
    choose(page, "#compare-length", "Quick")
    page.locator("#compare-seeds").get_by_text("Three").click()
    choose(page, "#compare-shots", "4")
    _press(page, "Compare")
    expect(result).to_contain_text("2 methods compared", timeout=LONG)
    page.reload()
    expect(result).to_contain_text("2 methods compared", timeout=LONG)
    for control, asked in {"source": "own", "shots": "4", "seeds": "3", "length": "quick"}.items():
        expect(page.locator(f"#compare-{control} [value='{asked}']")).to_be_checked()
    choose(page, "#compare-shots", "All")
    choose(page, "#compare-seeds", "One")
    _press(page, "Compare")
    history = page.locator("#compare-history")
    expect(history).to_contain_text("all images", timeout=LONG)
    history.get_by_role("button", name="Show").click()
    expect(result).to_contain_text("3 random draws")
    with page.expect_download() as table:
        result.get_by_role("button", name="Table (CSV)").click()
    assert table.value.suggested_filename == "nearl-comparison.csv"
    _whole(page)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", [(1400, 900), (400, 850)], ids=["desktop", "phone"], indirect=True)
def test_the_first_quarter_of_an_hour(page, server, own, archive):
    said = len(server.console())
    _predict(page, own)
    _explain(page)
    _teach(page, archive)
    _compare(page)
    open_tab(page, "About")
    _whole(page)
    assert not re.search("error|warning", server.console()[said:], re.IGNORECASE)


MOVE = "document.querySelector('#predict-prompts').style.marginTop = '200px'"
LATE = 500  # milliseconds in which a click that comes late, or twice, has come
DRAW_AGAIN = "document.querySelector('#predict-set').dispatchEvent(new Event('change'))"


def test_a_press_counts_though_an_answer_moves_or_redraws_its_button(page):
    example(page).click()
    expect(page.locator("#reading .bars")).to_be_visible()
    classes, add = page.locator("#predict-prompts .pe-row"), page.get_by_role("button", name="Add a class")
    page.get_by_label("Ready sets").select_option("phantom_head_mri")
    count = classes.count()

    def press(meanwhile: str = "0", to: tuple[int, int] = (0, 0)) -> None:
        add.scroll_into_view_if_needed()
        box = add.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.evaluate(meanwhile)
        page.mouse.move(x + to[0], y + to[1])
        page.mouse.up()
        idle(page)

    for meanwhile, to, more in (
        (DRAW_AGAIN, (0, 0), 1),  # with the two classes of the set
        (MOVE, (2, 1), 2),
        ("0", (0, 0), 3),
        ("0", (0, 90), 3),  # dragged away
        (MOVE.replace("200", "0"), (0, 90), 3),
    ):
        press(meanwhile, to)
        expect(classes).to_have_count(count + more)
    add.press("Enter")
    expect(classes).to_have_count(count + 4)
    _fingers_and_keys(page, add, classes, count)


def _fingers_and_keys(page, add, classes, count) -> None:
    """A finger on a button that is redrawn or moved, a finger that scrolls, and a held space bar; none counts twice."""
    touch = page.context.new_cdp_session(page)

    def tap(meanwhile: str = "0", by: int = 0) -> None:
        page.evaluate("document.querySelector('#predict-prompts').style.marginTop = 0")
        add.scroll_into_view_if_needed()
        box = add.bounding_box()
        points = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}]
        touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": points})
        page.evaluate(meanwhile)
        points[0]["y"] += by
        if by:
            touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.wait_for_timeout(LATE)

    def held(meanwhile: str = "0") -> None:
        add.focus()
        page.keyboard.down(" ")
        page.evaluate(meanwhile)
        page.keyboard.up(" ")
        page.wait_for_timeout(LATE)

    for press, more in (
        (lambda: tap(), 1),
        (lambda: tap(MOVE), 1),
        (lambda: tap(DRAW_AGAIN), 1),
        (lambda: tap(by=60), 0),
        (lambda: held(), 1),
        (lambda: held(DRAW_AGAIN), 1),
    ):
        page.get_by_label("Ready sets").select_option("phantom_head_mri")
        expect(classes).to_have_count(count)
        press()
        expect(classes).to_have_count(count + more)
