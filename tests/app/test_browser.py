"""A visitor's session in a real browser."""

from __future__ import annotations

import re
import threading

import gradio as gr
import httpx
import pytest
from PIL import Image

from app.context import QUIET, asset_text
from app.page import Page
from nearl.data.phantoms.kinds import phantom_set
from tests.support.app_server import serve
from tests.support.browser import (
    MAP_WORDS,
    bring_zip,
    choose,
    example,
    expect,
    missed,
    nameless,
    open_tab,
    shares,
    upload,
    visit,
)
from tests.support.pages import ROOT

BLOCK = """() => { setTimeout(() => {
  const request = new XMLHttpRequest();
  request.open("GET", "/hold", false);
  request.send();
}, 20); }"""


def test_read_edit_and_read_again(page, task, tmp_path):
    # an image of one's own, with classes in one's own words
    picture = next((task / "test" / "lesion").iterdir())
    letter = tmp_path / "letter.png"
    letter.write_text("Dear colleague")
    upload(page, "#upload", [picture, letter])
    expect(page.locator("#viewer img.base")).to_be_visible()
    expect(page.locator("#predict-problems")).to_contain_text("letter.png is not an image")
    page.get_by_label("Ready sets").select_option("phantom_head_mri")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bar-line.before")).to_have_count(2)
    expect(page.locator("#viewer figure")).to_contain_text(MAP_WORDS)
    first = shares(page, "before")
    assert shares(page, "after") == []
    assert sum(int(re.sub(r"\D", "", share)) for share in first) in (99, 100, 101)

    # a prompt edited: said to be unread, then read
    prompts = page.locator("#predict-prompts-0")
    set_name = page.locator("#predict-set option:checked")
    prompts.fill("an image of one two three")
    expect(set_name).to_have_text("Synthetic head MRI, edited")
    expect(page.locator("#reading")).to_have_class(re.compile("stale"))
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading")).not_to_have_class(re.compile("stale"))
    expect(page.locator("#reading .bar-line.before")).to_have_count(2)
    assert shares(page, "before") != first

    # of two classes at least one has a map; its strength is changed in the page, without asking the server
    shown = page.locator("#map-class label.selected").inner_text()
    for name in ("lesion", "no lesion") if shown == "no lesion" else ("no lesion", "lesion"):
        choose(page, "#map-class", name)
        expect(page.locator("#viewer figure")).to_contain_text(re.compile(f"“{name}”"))  # so it has been answered
        if page.locator("#viewer img.map").count():
            break
    asked = []
    page.on("request", lambda r: asked.append(r.url) if r.method == "POST" else None)  # a stream may still be opening
    page.locator("#map-strength input[type=range]").fill("10")
    expect(page.locator("#viewer img.map")).to_have_css("opacity", "0.1")
    assert asked == []


CUT = """() => {  // the ready sets with a prompt that is not seen whole
  const chooser = () => document.querySelector("#predict-set");
  return [...chooser().options].map((option) => option.value).filter((name) => {
    if (!name) return false;
    chooser().value = name;
    chooser().dispatchEvent(new Event("change"));
    const areas = [...document.querySelectorAll("#predict-prompts textarea")];
    return areas.some((area) => area.scrollHeight > area.clientHeight);
  });
}"""


def test_on_a_phone_images_come_before_their_reading(browser, server):
    page = browser.new_page(viewport={"width": 400, "height": 850})
    page.goto(server.url)
    top = lambda where: page.locator(where).bounding_box()["y"]  # noqa: E731
    expect(page.locator("#upload input[type=file]")).to_be_attached()
    assert top("#viewer") < top("#upload") < top("#examples") < top("#reading")
    example(page).click()
    expect(page.locator("#viewer img.base")).to_be_visible()
    assert top("#viewer") < top("#reading") < top("#predict-prompts") < top("#upload")
    expect(page.locator("#viewer img.map")).to_be_visible()
    # the next one is in reach, and brings itself and its answer into view
    page.evaluate("scrollBy({ top: 200, behavior: 'instant' })")
    example(page, 4).click()
    expect(page.locator("#viewer figure")).to_contain_text("ct_slice")
    for seen in (page.locator("#viewer img.base"), page.locator("#reading .headline"), example(page, 4)):
        expect(seen).to_be_in_viewport(ratio=1)

    # the same classes as findings, each present or absent on its own
    page.get_by_label("An image shows").select_option("findings")
    expect(page.get_by_label("Prompts for absent")).to_have_count(2)
    page.get_by_label("Which findings exclude").fill("if lesion then not no lesion")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bars.findings .bar-class")).to_have_count(2)
    expect(page.locator("#reading")).to_contain_text("Counts as present from")
    page.get_by_label("Which findings exclude").fill("lesion and more")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#predict-message .error")).to_contain_text("is not a rule")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("An image shows").select_option("classes")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .headline")).to_contain_text("losest to")
    assert page.evaluate(CUT) == []
    page.close()


def test_a_click_before_the_page_has_its_workspace_is_not_lost(browser, server):
    page, held = browser.new_page(viewport={"width": 1400, "height": 900}), []
    # the request for a workspace waits
    page.route("**/gradio_api/run/**", lambda route: route.continue_() if held is None else held.append(route))
    page.goto(server.url)
    example(page).click()
    expect(page.locator("#viewer img.base")).to_be_visible(timeout=60_000)
    assert held
    waiting, held = held, None
    for route in waiting:
        route.continue_()
    page.wait_for_function("() => localStorage.getItem('nearl-workspace')")
    page.get_by_label("Ready sets").select_option("brain_mri_tumor")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bar-line.before")).to_have_count(3)
    expect(page.locator("#viewer img.base")).to_be_visible()
    page.close()


def test_a_page_that_is_loaded_again_shows_the_same_images_and_words(browser, server, tmp_path):
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    visit(page, server.url)  # now it has its workspace
    example(page).click()
    expect(page.locator("#reading .bar-line.before")).to_have_count(2, timeout=60_000)
    page.locator("#predict-prompts input").first.fill("odd")
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bars")).to_contain_text("odd")
    name = page.locator("#viewer figure").inner_text()
    page.reload()
    expect(page.locator("#reading .bars")).to_contain_text("odd")
    expect(page.locator("#viewer figure")).to_contain_text(name.split("\n")[0])
    expect(page.locator("#predict-prompts input").first).to_have_value("odd")
    unread = tmp_path / "unread.png"
    Image.effect_noise((80, 60), 50).save(unread)
    upload(page, "#upload", [unread])
    expect(page.locator("#viewer figure")).to_contain_text("unread.png")
    page.reload()
    expect(page.locator("#viewer figure")).to_contain_text("unread.png")
    context.close()


def test_images_are_dropped_and_pasted_anywhere(page, tmp_path):
    transfer = """(name) => new Promise((done) => document.createElement("canvas").toBlob((blob) => {
      const data = new DataTransfer();
      data.items.add(new File([blob], name, { type: "image/png" }));
      window.carried = data;
      done();
    }))"""
    page.evaluate(transfer, "dropped.png")
    drop = """(where) => !document.querySelector(where).dispatchEvent(
      new DragEvent("drop", { dataTransfer: window.carried, bubbles: true, cancelable: true }))"""
    open_tab(page, "Learn")
    assert page.evaluate(drop, ".page")  # the browser does not leave the page for the file
    open_tab(page, "Predict")
    expect(page.locator("#viewer .empty")).to_contain_text("Drop an image here")
    assert page.evaluate(drop, "#viewer")
    expect(page.locator("#viewer figure")).to_contain_text("dropped.png")
    page.evaluate(transfer, "pasted.png")
    page.evaluate(
        "document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData: window.carried, bubbles: true }))"
    )
    expect(page.locator("#viewer figure")).to_contain_text("pasted.png")


def test_errors_stand_where_their_cause_is_and_vanish_with_it(page, tmp_path):
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#predict-message [role=alert]")).to_contain_text("no image yet")
    many = [tmp_path / f"{i}.png" for i in range(65)]
    for path in many:
        Image.new("RGB", (8, 8)).save(path)
    upload(page, "#upload", many)
    expect(page.locator("#predict-problems [role=alert]")).to_contain_text("at most 64")
    expect(page.locator("#predict-message [role=alert]")).to_have_count(0)
    example(page).click()
    expect(page.locator("#reading .bars")).to_be_visible()
    expect(page.locator("#predict-problems [role=alert]")).to_have_count(0)
    letter = tmp_path / "letter.png"
    letter.write_text("Dear colleague")
    upload(page, "#upload", [letter])
    expect(page.locator("#predict-problems")).to_contain_text("letter.png is not an image")
    expect(page.locator("#predict-problems")).to_contain_text("Still shown")
    expect(page.locator("#predict-problems [role=alert]")).to_be_in_viewport(ratio=1)
    open_tab(page, "Find")
    expect(page.locator("#find-gallery")).to_contain_text("no images to search yet")
    expect(page.locator("#find-button")).to_be_disabled()
    letter = tmp_path / "letter.zip"
    letter.write_text("Dear colleague")
    open_tab(page, "Teach")
    page.get_by_text("A zip, or a table of labels").click()
    upload(page, "#zip", [letter])
    expect(page.locator("#source-message [role=alert]")).to_contain_text("letter.zip is not a zip file")
    upload(page, "#adapter-upload", [letter])
    expect(page.locator("#shelf-message [role=alert]")).to_contain_text("adapter")


CLICKED = "(button) => { button.click(); return document.querySelector('#viewer').dataset.coming; }"


def test_examples_are_one_click_away_credited_or_called_synthetic(page, tmp_path):
    coming = page.locator("#viewer[data-coming]")
    assert page.locator("#examples button").first.evaluate(CLICKED) == "Opening Blood, eosinophil …"
    expect(page.locator("#viewer")).to_contain_text("CC BY")
    expect(page.locator("#viewer .tag")).to_have_count(0)
    expect(coming).to_have_count(0)
    paths = [tmp_path / f"{shade}.png" for shade in (40, 200)]
    for path, shade in zip(paths, (40, 200), strict=True):
        Image.new("RGB", (64, 64), (shade, 90, 90)).save(path)
    upload(page, "#upload", paths)
    strip = page.locator("#filmstrip button")
    assert strip.nth(1).evaluate(CLICKED) == "Opening 200.png …"
    expect(page.locator("#viewer .file")).to_have_text("200.png")
    assert strip.nth(1).evaluate(CLICKED)  # again
    expect(coming).to_have_count(0)
    sign = "(button) => { button.click(); return document.querySelector('#reading').dataset.coming; }"
    assert page.locator("#read").evaluate(sign) == "Reading the image …"
    expect(page.locator("#reading[data-coming]")).to_have_count(0)

    page.locator("#examples button").first.focus()  # one stop of the Tab key
    for key in ("ArrowRight", "End", "ArrowDown", "Home", "ArrowDown"):
        page.keyboard.press(key)
    focused = page.locator("#examples button:focus")
    expect(focused).to_have_accessible_name("Chest X-ray, pneumonia")
    assert page.locator("#examples button[tabindex='0']").count() == 1
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.closest('#examples')")
    page.keyboard.press("Shift+Tab")
    expect(focused).to_have_accessible_name("Chest X-ray, pneumonia")
    for number in range(3):  # while the first is being read; the last press counts
        example(page, number).click()
    expect(page.locator("#viewer .tag")).to_have_text("Synthetic")
    expect(page.locator("#viewer")).to_contain_text("chest_xray_lesion")
    expect(page.locator("#reading .bar-line.before")).to_have_count(2)
    page.get_by_role("link", name="Teach it from a few images").click()
    expect(page.get_by_role("tab", name="Teach")).to_have_attribute("aria-selected", "true")


def test_the_tab_is_in_the_address_and_answers_arrow_keys(page, server):
    assert len(httpx.get(server.url).content) < 400_000
    chosen = page.locator("#tabs [role=tab][aria-selected=true]")
    open_tab(page, "Learn")
    assert page.locator("#learn-page section").last.bounding_box()["x"] > 600  # as wide as the window
    for name in ("Find", "Compare", "Teach"):
        page.keyboard.press("ArrowLeft")
        expect(chosen).to_have_text(name)
    assert page.url.endswith("#/teach")
    page.go_back()
    expect(chosen).to_have_text("Compare")
    page.goto(f"{server.url}/#/explain")
    expect(chosen).to_have_text("Explain")
    page.reload()
    expect(chosen).to_have_text("Explain")
    page.get_by_role("link", name="Choose an image in Predict").click()
    expect(chosen).to_have_text("Predict")
    page.go_back()
    expect(chosen).to_have_text("Explain")


def test_no_click_is_lost_with_the_caret_in_an_editor(page, archive):
    example(page).click()
    expect(page.locator("#viewer figure")).to_contain_text(MAP_WORDS)
    editor = page.locator("#predict-prompts-0")
    editor.fill("\n".join(f"an image of {i}" for i in range(9)))
    height = editor.bounding_box()["height"]
    editor.blur()
    assert editor.bounding_box()["height"] == height
    assert missed(page, "#predict-prompts-0") == []
    bring_zip(page, archive)
    page.locator("#teach-prompts-0").fill("\n".join(f"an image of {i}" for i in range(9)))
    assert missed(page, "#teach-prompts-0") == []


def test_the_correction_on_the_learn_tab_can_be_turned(page):
    open_tab(page, "Learn")
    for angle, words in ((90, "100\u202f% is new and added"), (0, "100\u202f% repeats"), (135, "50\u202f% takes back")):
        page.get_by_label("Turn the correction").fill(str(angle))
        expect(page.locator("#turned")).to_contain_text(words)


def test_no_answer_is_lost_on_a_busy_page_or_one_that_is_not_left_and_none_comes_twice(browser):
    blocked, said, changed = (threading.Event() for _ in range(3))

    def answers():
        blocked.wait(60)
        yield {box: gr.update(visible=True)}  # Gradio takes a while for this one
        yield {first: gr.update(value="kept")}
        for word in ("once", "twice", "said"):
            yield {last: gr.update(value=word)}
        said.set()
        changed.wait(60)

    with Page() as app:
        first = gr.Textbox(elem_id="first", interactive=True)
        last = gr.Textbox(elem_id="last", interactive=True)
        with gr.Column(visible=False) as box:
            gr.Slider()
        go = gr.Button("Go")
        go.click(None, js=BLOCK)
        event = go.click(answers, None, [box, first, last], **QUIET)
        event.then(None, js="() => { document.body.dataset.ended = 'yes'; }")

    def hold(route) -> None:  # the page can do nothing until all answers are on their way
        blocked.set()
        said.wait(60)
        route.fulfill(body="")

    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, head=f"<script>{asset_text('head.js')}</script>")
    page = browser.new_page()
    page.route("**/hold", hold)
    try:
        page.goto(url)
        page.get_by_role("button", name="Go", exact=True).click()
        expect(page.locator("#last textarea")).to_have_value("said")
        expect(page.locator("#first textarea")).to_have_value("kept")
        page.locator("#last textarea").fill("changed since")
        page.evaluate("window.dispatchEvent(new Event('beforeunload'))")  # the visitor is asked, and stays
        changed.set()
        expect(page.locator("body")).to_have_attribute("data-ended", "yes")
        expect(page.locator("#last textarea")).to_have_value("changed since")
    finally:
        page.close()
        app.close()


def sign_in(page, password):
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_a_visitor_signs_in(browser, locked):
    page = browser.new_page()
    page.goto(locked.url)
    assert nameless(page) == []
    sign_in(page, "wrong")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    sign_in(page, "secret")
    expect(page.get_by_role("button", name="Read the image")).to_be_visible()
    page.get_by_role("tab", name="Teach").click()
    expect(page.get_by_role("heading", name="Your adapters")).to_be_visible()
    page.close()


def test_other_words_are_offered_where_they_fit_better(browser, tmp_path):
    """A chest CT and a head MRI are brought while the editor still asks about brain tumours."""
    if not (ROOT / "assets" / "backbone").is_dir():
        pytest.skip("the embedded backbone is not in this checkout")
    pictures = [tmp_path / "chest.png", tmp_path / "head.png"]
    for picture, kind in zip(pictures, ("ct_slice", "head_mri"), strict=True):
        phantom_set(kind, 1, seed=3).records[0].image().save(picture)
    with serve("embedded", tmp_path / "app.log") as server:
        page = browser.new_page(viewport={"width": 400, "height": 850})
        page.goto(server.url)
        expect(page.locator("#header .model")).to_have_text("Model: embedded", timeout=60_000)
        upload(page, "#upload", pictures)
        expect(page.locator("#viewer img.base")).to_be_visible()
        chosen = page.locator("#predict-set option:checked")
        expect(chosen).not_to_contain_text("Brain MRI", timeout=60_000)  # told before anything is read
        page.get_by_role("button", name="Read the image").click()
        expect(page.locator("#reading .bars")).to_be_visible(timeout=60_000)
        expect(chosen).not_to_contain_text("Brain MRI")
        offered = page.get_by_role("button", name="Use “Lung CT”")
        note = page.locator("#reading .note").filter(has=offered)
        expect(note).to_be_visible(timeout=60_000)
        marked = page.locator("tr", has_text="fit better").filter(has_text="chest.png")
        expect(marked).to_have_count(1)
        offered.click()
        expect(page.locator("#predict-set")).to_have_value("lung_ct")
        expect(page.locator("#reading .bars")).to_contain_text("malignant")
        expect(page.locator("#reading .note button")).to_have_count(0)
        expect(marked).to_have_count(0)
        page.close()
        assert "Traceback" not in server.console()
