"""The Explain tab in a real browser."""

from __future__ import annotations

import re

from PIL import Image

from tests.support.browser import (
    bring_by_class,
    choose,
    example,
    expect,
    open_tab,
    taught,
    teach,
    upload,
)

# Click, and say at once what is told to come.
CLICKED = "(part) => { part.click(); return document.querySelector('#maps').dataset.coming; }"


def _caption(page):
    return page.locator("#maps .map-caption")


def test_maps_from_the_first_look_to_before_and_after(page, task, tmp_path):
    # nothing to show yet, and the way to something
    open_tab(page, "Explain")
    expect(page.locator("#maps")).to_contain_text("once an image has been read")
    page.get_by_role("link", name="Choose an image in Predict").click()
    expect(page.get_by_role("tab", name="Predict")).to_have_attribute("aria-selected", "true")

    # two images, read; the map of one class with a bar in its own units
    upload(page, "#upload", sorted((task / "test" / "lesion").iterdir()))
    expect(page.locator("#viewer img.base")).to_be_visible()
    page.get_by_label("Ready sets").select_option("phantom_head_mri")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bar-line.before")).to_have_count(2)
    open_tab(page, "Explain")
    expect(page.locator("#maps figure")).to_have_count(1)
    expect(page.locator("#explain-method label.selected")).to_have_text("Grad-CAM")
    coming = page.locator("#maps[data-coming]")
    expect(coming).to_have_count(0)
    assert page.locator("#explain-method [value=relevance]").evaluate(CLICKED) == "Drawing Relevance …"
    expect(_caption(page)).to_contain_text("Relevance for “")
    expect(coming).to_have_count(0)
    expect(page.locator("#maps .ends span")).to_have_count(3)
    expect(page.locator("#maps .scale-words")).to_have_text("relevance")
    expect(page.locator("#explain-details .word")).not_to_have_count(0)
    expect(page.locator("#explain-card")).to_contain_text("What it cannot tell:")

    # another class, another picture; a map that knows no class does not ask for one
    first = page.locator("#maps img.map").get_attribute("src")
    chosen = page.locator("#explain-class label.selected").inner_text()
    other = "no lesion" if chosen == "lesion" else "lesion"
    said = page.locator(f"#explain-class [value='{other}']").evaluate(CLICKED)
    assert said == f"Drawing Relevance for “{other}” …"
    expect(page.locator("#maps img.map")).not_to_have_attribute("src", first)
    choose(page, "#explain-method", "Attention")
    expect(page.locator("#explain-class")).to_be_hidden()
    expect(page.locator("#explain-head")).to_be_visible()
    expect(_caption(page)).to_contain_text("Attention")

    said = page.locator("#explain-filmstrip button").nth(1).evaluate(CLICKED)
    assert said.startswith("Drawing Attention, ")
    expect(page.locator("#maps .file")).to_have_text(said.removeprefix("Drawing Attention, ").removesuffix(" …"))
    expect(coming).to_have_count(0)
    page.locator("#explain-filmstrip button").first.click()
    expect(coming).to_have_count(0)

    # a row of images wider than the window scrolls and widens nothing
    whole = page.viewport_size
    page.set_viewport_size({"width": 220, "height": 800})
    assert page.locator("#explain-filmstrip .strip").evaluate(
        "e => e.clientWidth < Math.min(e.scrollWidth, innerWidth)"
    )
    page.set_viewport_size(whole)

    # by keyboard alone: the layer
    page.locator("#explain-layer input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    expect(_caption(page)).to_contain_text("layer 1")

    # the control, all classes, all images
    choose(page, "#explain-method", "Grad-CAM")
    expect(_caption(page)).to_contain_text("Grad-CAM")
    page.get_by_label("Beside it, the control").check()
    expect(page.locator("#maps figure")).to_have_count(2)
    expect(page.locator("#maps")).to_contain_text("scrambled model")
    choose(page, "#explain-view", "All classes")
    expect(page.locator("#maps figcaption")).to_have_text(["no lesion", "lesion"])
    choose(page, "#explain-view", "All images")
    expect(page.locator("#maps figure")).to_have_count(2)
    expect(page.locator("#explain-control")).to_be_hidden()

    # the strength is changed in the page; the download says what it is
    page.locator("#explain-strength input[type=range]").fill("20")
    for layer in page.locator("#maps img.map").all():
        expect(layer).to_have_css("opacity", "0.2")
    choose(page, "#explain-view", "This map")
    page.get_by_label("Beside it, the control").uncheck()
    expect(page.locator("#maps figure")).to_have_count(1)
    with page.expect_download() as download:
        page.locator("#explain-download").click()
    assert re.fullmatch(r".+_gradcam_(no-)?lesion_before\.png", download.value.suggested_filename)
    download.value.save_as(tmp_path / "map.png")
    comment = Image.open(tmp_path / "map.png").text["Comment"]
    assert "Grad-CAM, before teaching" in comment and "Not for diagnosis" in comment

    # a slow map: the image alone while it is drawn, then the map; it can be left and cancelled
    choose(page, "#explain-method", "Occlusion (slow)")
    expect(_caption(page)).to_contain_text("Occlusion for “")
    expect(page.locator("#maps .scale-words")).to_contain_text("logits lost", timeout=60_000)
    expect(page.locator("#explain-cancel")).to_be_hidden()

    # another image has the map of its own answer
    choose(page, "#explain-method", "Grad-CAM")
    page.locator("#explain-filmstrip button").nth(1).click()
    expect(page.locator("#explain-filmstrip button").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#maps img.map")).to_have_count(1)
    answer = page.locator("#explain-class label.selected").inner_text()
    expect(_caption(page)).to_contain_text(f"for “{answer}”")

    # after teaching: both, and what changed
    bring_by_class(page, task)
    teach(page)
    taught(page)
    open_tab(page, "Explain")
    choose(page, "#explain-view", "Before and after")
    expect(page.locator("#maps figcaption")).to_have_text(
        ["before teaching", "after teaching", "what teaching changed"]
    )
    expect(page.locator("#maps")).to_contain_text("less to more")
    choose(page, "#explain-method", "What teaching added")
    expect(page.locator("#explain-details caption").first).to_have_text("Image side, layer by layer")
    expect(_caption(page)).to_contain_text("What teaching added")


def test_a_new_look_asks_the_model_nothing(page, server):
    example(page).click()
    expect(page.locator("#reading .bar-line.before")).to_have_count(2)
    open_tab(page, "Explain")
    choose(page, "#explain-method", "Relevance")
    expect(_caption(page)).to_contain_text("Relevance")
    before = page.locator("#maps img.map").get_attribute("src")
    choose(page, "#explain-colours", "Green")
    expect(page.locator("#maps img.map")).not_to_have_attribute("src", before)
    green = page.locator("#maps img.map").get_attribute("src")
    page.get_by_label("Smooth between patches").uncheck()
    expect(page.locator("#maps img.map")).not_to_have_attribute("src", green)
    expect(page.locator("#maps .tag")).to_have_text("Synthetic")

    # choices that come faster than maps are drawn: what is shown is the last one, with a layer of its own choice
    choose(page, "#explain-method", "Grad-CAM")
    expect(_caption(page)).to_contain_text("Grad-CAM")
    page.locator("#explain-layer input[type=range]").fill("2")
    expect(_caption(page)).to_contain_text("layer 2")
    page.evaluate(
        """() => {
          const press = (where, words) =>
            [...document.querySelectorAll(`${where} label`)].find((l) => l.textContent.trim() === words).click();
          for (const words of ["Relevance", "LayerCAM", "Relevance"]) press("#explain-method", words);
          press("#explain-colours", "Blue to yellow");
          press("#explain-class", "no lesion");
          press("#explain-class", "lesion");
        }"""
    )
    expect(_caption(page)).to_contain_text("Relevance for “lesion”")
    expect(page.locator("#explain-method label.selected")).to_have_text("Relevance")
    expect(page.locator("#explain-class label.selected")).to_have_text("lesion")
    choose(page, "#explain-method", "Grad-CAM")
    expect(page.locator("#explain-layer input[type=range]")).to_have_value("0")
    expect(_caption(page)).to_contain_text("Grad-CAM for “lesion”")
    expect(_caption(page)).not_to_contain_text("layer")
