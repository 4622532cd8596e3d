"""The Teach tab in a real browser: a set brought, tidied and taught, the run found again, the result and the shelf."""

from __future__ import annotations

import re
import shutil

import pytest
from gradio_client import Client
from PIL import Image, ImageDraw

from nearl.adapters.store import zip_adapter
from nearl.runs import RunFolder
from nearl.runs.status import INTERRUPTED
from nearl.train.loop import FEWEST_STEPS
from tests.support import app_work
from tests.support.app_server import free_port, open_page, serve
from tests.support.browser import (
    LONG,
    bring_zip,
    example,
    expect,
    fits,
    idle,
    nameless,
    open_tab,
    shares,
    taught,
    teach,
    unanswered,
    upload,
    visit,
)  # fmt: skip
from tests.support.findings import write_findings
from tests.support.hostile import packed, png
from tests.support.runs import processes

MANY_STEPS = "2000"


def _step(page) -> int:
    words = page.locator("#progress .steps").inner_text(timeout=LONG)
    return int(re.search(r"Step (\d+)", words).group(1))


def test_from_a_zip_to_an_adapter_that_another_visitor_uses(visitor, archive, tmp_path):
    page = visitor()
    bring_zip(page, archive)
    expect(page.locator("#check")).to_contain_text("letter.png is not an image")
    expect(page.locator("#check")).to_contain_text("Kept aside")

    # tidied: an image removed, a class renamed
    page.get_by_role("button", name="Show the images of lesion", exact=True).click()
    ticks = page.locator("#set .thumbs input")
    expect(ticks).to_have_count(6)
    page.get_by_role("button", name="Remove the ticked").click()
    expect(page.locator("#source-message")).to_contain_text("No image is ticked")
    ticks.first.check()
    page.get_by_role("button", name="Remove the ticked").click()
    expect(page.locator("#set h3").first).to_have_text("11 images in 2 classes")
    odd = "a <b>spot</b> ${6 * 7}"
    page.locator("#set summary").nth(1).click()
    page.locator("#set .classes li").nth(1).locator("input[name=to]").fill(odd)
    page.locator("#set .classes li").nth(1).get_by_role("button", name="Rename").click()
    expect(page.locator("#set .classes .name", has_text=odd)).to_have_count(1)
    expect(page.locator("#teach-prompts input").nth(1)).to_have_value(odd)

    # taught
    teach(page)
    taught(page)
    expect(page.locator("#shelf .in-use")).to_have_count(1)
    number = page.locator("#progress button.cell").first
    expect(number).to_have_attribute("aria-label", re.compile("read"))
    number.click()
    expect(page.locator("#cell .strip button")).to_have_count(int(number.inner_text()))
    page.locator("#cell [data-act=map]").first.click()
    expect(page.locator("#cell .viewer")).to_contain_text(re.compile("Where it looked for|the map is empty"))
    with page.expect_download() as report:
        page.get_by_role("button", name="Predictions (CSV)").click()
    report.value.save_as(tmp_path / "predictions.csv")
    assert "image 1" in (tmp_path / "predictions.csv").read_text(encoding="utf-8-sig")
    with page.expect_download() as download:
        page.locator("#shelf").get_by_role("button", name="Download").click()
    download.value.save_as(tmp_path / "adapter.zip")

    # another visitor sees nothing of it until the file is brought
    other = visitor()
    open_tab(other, "Teach")
    expect(other.locator("#shelf")).to_contain_text("Nothing has been taught yet")
    expect(other.locator("#progress")).to_contain_text("appear here")
    expect(other.locator("#set .classes")).to_have_count(0)
    upload(other, "#adapter-upload", [tmp_path / "adapter.zip"])
    expect(other.locator("#shelf .in-use")).to_have_count(1)
    open_tab(other, "Predict")
    example(other).click()
    expect(other.locator("#reading .bar-line.after")).to_have_count(2)
    expect(other.locator("#reading .trust")).to_be_visible()
    assert len(shares(other, "after")) == 2
    other.locator("#predict-prompts-0").fill("an image of one two three")
    other.get_by_role("button", name="Read the image").click()
    expect(other.locator("#reading .trust")).to_contain_text("not calibrated")

    # the shelf
    open_tab(other, "Teach")
    upload(other, "#adapter-upload", [tmp_path / "adapter.zip"])
    expect(other.locator("#shelf .card")).to_have_count(2)
    for box in other.locator("#shelf .tick input").all():
        box.check()
    other.get_by_role("button", name="Compare the two").click()
    expect(other.locator("#comparison .column")).to_have_count(2)
    other.get_by_role("button", name="Result of").first.click()
    expect(other.locator("#progress")).to_contain_text("from the shelf")
    with other.expect_download() as report:
        other.get_by_role("button", name="Report (HTML)").click()
    assert report.value.suggested_filename == "nearl-report.html"
    other.locator("#progress").get_by_role("button", name="Close").click()
    expect(other.locator("#progress")).to_contain_text("appear here")
    other.locator("#shelf summary").first.click()
    other.locator("#shelf .card").first.locator("input[name=to]").fill("of my friend")
    other.locator("#shelf").get_by_role("button", name="Rename").first.click()
    expect(other.locator("#shelf h3").first).to_contain_text("of my friend")
    other.locator("#shelf summary").first.click()
    other.get_by_role("button", name="Delete of my friend for good").click()
    expect(other.locator("#shelf .card")).to_have_count(1)
    expect(page.locator("#shelf .card")).to_have_count(1)


def test_what_is_pressed_while_a_tab_is_being_built_stays(visitor):
    page = visitor()
    page.evaluate(
        """() => new Promise((done) => {
          const label = (where, words) =>
            [...document.querySelectorAll(`${where} label`)].find((l) => l.textContent.includes(words));
          const press = () => {
            const found = [label("#preset", "Quick"), label("#source", "A zip")];
            if (!found.every(Boolean)) return;
            watch.disconnect();
            found.forEach((one) => one.click());
            done();
          };
          const watch = new MutationObserver(press);
          watch.observe(document, { subtree: true, childList: true });
          document.querySelector("#tabs button[data-tab-id=teach]").click();
        })"""
    )
    idle(page)
    page.wait_for_timeout(500)
    expect(page.locator("#preset label.selected")).to_have_text("Quick")
    expect(page.locator("#source label.selected")).to_contain_text("A zip")
    expect(page.locator("#zip")).to_be_visible()


def test_a_run_is_found_again_and_cancelled(visitor, archive):
    page = visitor()
    bring_zip(page, archive)
    with unanswered(page):
        teach(page, MANY_STEPS)
        expect(page.locator("#progress")).to_have_attribute("data-coming", re.compile("."))  # a sign of it at once
    expect(page.locator("#progress .curve").first).to_be_visible(timeout=LONG)
    expect(page.locator("#progress[data-coming]")).to_have_count(0)
    before = _step(page)
    expect(page.locator("#progress .steps")).not_to_contain_text(f"Step {before} ", timeout=LONG)  # the curve moves

    open_tab(page, "Learn")
    page.go_back()
    expect(page.locator("#progress .curve").first).to_be_visible(timeout=LONG)
    assert _step(page) > before
    second = page.context.new_page()  # another tab of the same visitor
    with unanswered(second):  # what is known at once is there with the first answer
        visit(second, page.url.partition("#")[0])
        expect(second.locator("#progress .curve").first).to_be_visible(timeout=LONG)
        expect(second.get_by_role("button", name="Cancel")).to_be_visible()
        expect(second.get_by_role("button", name="Teach", exact=True)).to_be_disabled()
        expect(second.locator("#set h3").first).to_have_text("12 images in 2 classes")
    expect(second.locator("#preset label.selected")).to_have_text("Quick")  # as the run that is shown

    stranger = visitor()  # waits in the queue, and sees no progress but its own
    bring_zip(stranger, archive)
    teach(stranger)
    expect(stranger.locator("#progress")).to_contain_text("Waiting for its turn", timeout=LONG)
    expect(stranger.locator("#progress")).to_contain_text("next")
    second.get_by_role("button", name="Cancel").click()
    for tab in (page, second):
        expect(tab.locator("#progress")).to_contain_text("cancelled", timeout=LONG)
        expect(tab.get_by_role("button", name="Teach", exact=True)).to_be_enabled()
        expect(tab.locator("#progress")).not_to_contain_text("Too few")
    expect(page.locator("#shelf .in-use")).to_have_count(0)
    taught(stranger)


@pytest.mark.timeout(900)
def test_a_killed_server_resumes_and_loses_nothing(browser, engine, checkpoints, archive, tmp_path):
    backbone, port, kept = f"local-dir:{checkpoints('clip')}", free_port(), tmp_path / "workspaces"
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    with serve(backbone, tmp_path / "first.log", port=port) as first:
        page = visit(context.new_page(), first.url)
        bring_zip(page, archive)
        upload(page, "#adapter-upload", [zip_adapter(app_work.taught(engine), tmp_path / "adapter.zip")])
        expect(page.locator("#shelf .in-use")).to_have_count(1)
        teach(page, MANY_STEPS)
        expect(page.locator("#progress .curve").first).to_be_visible(timeout=LONG)
        key = page.evaluate("localStorage.getItem('nearl-workspace')").strip('"')
        first.process.kill()
        first.process.wait(30)
    page.close()
    (run,) = (RunFolder(path) for path in kept.glob("workspaces/*/runs/*"))
    app_work.until(lambda: not run.alive and not processes(str(kept)))  # the worker has noticed
    assert run.look().state == INTERRUPTED
    before = run.look().losses[-1][0]
    assert key and not list(kept.rglob("*.zip")) and key not in str(list(kept.rglob("*")))

    with serve(backbone, tmp_path / "second.log", port=port) as second:
        page = context.new_page()
        throttle = context.new_cdp_session(page)
        throttle.send("Emulation.setCPUThrottlingRate", {"rate": 2})  # as on a phone
        open_tab(visit(page, second.url), "Teach")
        expect(page.locator("#set h3").first).to_have_text("12 images in 2 classes")
        expect(page.locator("#progress .curve").first).to_be_visible(timeout=LONG)  # it goes on by itself
        app_work.until(lambda: run.look().losses[-1][0] > before + FEWEST_STEPS)  # whichever step it was at
        throttle.send("Emulation.setCPUThrottlingRate", {"rate": 1})
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#progress")).to_contain_text("cancelled", timeout=LONG)
        expect(page.locator("#shelf .card")).to_have_count(2)
        open_tab(page, "Predict")
        example(page).click()
        expect(page.locator("#reading .bar-line.after")).to_have_count(2)  # with the adapter of before
        stranger = Client(second.url, verbose=False)
        assert open_page(second, stranger.session_hash) != key
        assert stranger.predict(api_name="/run") == {"state": None}
        assert "Traceback" not in second.console() and key not in second.console()
    assert len(list(kept.glob("workspaces/*/set/images/*.png"))) == 12
    context.close()


def test_class_by_class_with_copies_and_a_conflict(visitor, tmp_path):
    page = visitor()
    files = {}
    for number, name in enumerate(("clear", "spot")):
        files[name] = []
        for i in range(4):
            picture = Image.effect_noise((80, 80), 60 + 20 * number + i)
            ImageDraw.Draw(picture).ellipse((10 * i, 20 * number, 10 * i + 30, 50), fill=255 * number)
            files[name].append(tmp_path / f"{name}_{i}.png")
            picture.save(files[name][-1])
    files["spot"].append(shutil.copy(files["clear"][0], tmp_path / "odd.png"))
    open_tab(page, "Teach")
    page.get_by_text("My images, class by class").click()
    for name, paths in files.items():
        page.get_by_label("Name of the class").fill(name)
        upload(page, "#class-files", paths)
        expect(page.locator("#set .classes .name", has_text=name)).to_have_count(1)
        expect(page.get_by_label("Name of the class")).to_have_value("")
        if name == "clear":  # that a second class is needed is no error yet
            expect(page.locator("#check .note")).to_contain_text(["at least two classes"])
            expect(page.locator("#check .error")).to_have_count(0)
    expect(page.locator("#set h3").first).to_have_text("9 images in 2 classes")
    expect(page.locator("#check")).to_contain_text("The same image in different classes")
    page.get_by_role("button", name="All are “clear”").click()
    expect(page.locator("#check")).to_contain_text("Copies within a class")
    page.get_by_role("button", name="Keep one of each").click()
    expect(page.locator("#set h3").first).to_have_text("8 images in 2 classes")
    expect(page.locator("#check .equal")).to_have_count(0)
    page.get_by_role("button", name="Forget these images").click()
    expect(page.locator("#set .classes")).to_have_count(0)
    expect(page.get_by_role("button", name="Teach", exact=True)).to_be_hidden()


def test_findings_from_a_table_to_their_list_in_predict(visitor, tmp_path):
    page = visitor()
    folder, archive = write_findings(tmp_path / "set", train=24, test=24), tmp_path / "findings.zip"
    archive.write_bytes(packed({file.name: file.read_bytes() for file in folder.iterdir()}))
    open_tab(page, "Teach")
    page.get_by_text("A zip, or a table of labels").click()
    upload(page, "#zip", [archive])
    expect(page.locator("#set h3").first).to_have_text("24 images with 2 findings")
    expect(page.locator("#check")).to_contain_text("“two” in 4")
    page.get_by_role("button", name="Show the 4 images with two unknown").click()
    page.locator("#set .thumbs input").first.check()
    page.locator("#set #move-to").select_option("present")
    page.get_by_role("button", name="Mark the ticked this way").click()
    expect(page.get_by_role("button", name="Hide the 3 images with two unknown")).to_be_visible()
    page.locator("#teach-absent-1").fill("an image without red")
    page.locator("#teach-rules").fill("if one then not two")
    page.locator("#advanced").get_by_role("button", name="Advanced").click()
    page.locator("#teach-method").get_by_text(re.compile("^Linear probe")).click()
    teach(page)
    headline = taught(page)
    expect(headline).to_contain_text("Better by")
    expect(page.locator("#progress .scores tbody tr")).to_have_count(2)
    expect(page.locator("#progress .confusion")).to_have_count(0)
    expect(page.locator("#shelf .in-use")).to_have_count(1)
    expect(page.locator("#shelf")).to_contain_text("Mean AUROC of the findings")
    for width in (400, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        idle(page)
        assert fits(page) and nameless(page) == []
    open_tab(page, "Compare")
    expect(page.locator("#compare-plan")).to_contain_text("comparison is of classes")
    open_tab(page, "Predict")
    expect(page.locator("#predict-absent-1")).to_have_value("an image without red")
    example(page).click()
    page.get_by_role("button", name="Read the image").click()
    expect(page.locator("#reading .bar-line.after")).to_have_count(2)


def test_a_table_is_asked_about_long_prompts_are_marked_and_tabs_stay_apart(visitor, tmp_path):
    page = visitor()
    archive = tmp_path / "set.zip"
    table = b"p,q,r\n" + b"".join(b"%d,z,%s\n" % (i, b"xy"[i % 2 :][:1]) for i in range(8))
    files = {f"images/{i}.png": png(90 + 9 * i) for i in range(8)}
    archive.write_bytes(packed({**files, "labels.csv": table}))
    open_tab(page, "Teach")
    page.get_by_text("A zip, or a table of labels").click()
    upload(page, "#zip", [archive])
    expect(page.locator("#source-message")).to_contain_text("needs the columns file and label")
    page.locator("#label-column input").click()
    page.get_by_role("option", name="r", exact=True).click()
    page.get_by_role("button", name="Use these columns").click()
    expect(page.locator("#set h3").first).to_have_text("8 images in 2 classes")
    expect(page.locator("#columns")).to_be_hidden()
    expect(page.locator("#check")).to_contain_text("Not used: q")

    page.locator("#teach-prompts-0").fill("a scan of the brain " * 9 + "lesion")
    expect(page.locator(".marks").filter(has_text="does not read").first).to_be_visible()
    expect(page.locator(".pe-row.cut")).to_have_count(1)

    second = visit(page.context.new_page(), page.url)
    open_tab(second, "Teach")
    expect(second.locator("#set h3").first).to_have_text("8 images in 2 classes")
    second.locator("#set").get_by_role("button", name="Show the images of x").click()
    second.locator("#set input[data-index]").first.check()
    page.locator("#set").get_by_role("button", name="Forget these images").click()
    expect(page.locator("#set h3")).to_have_count(0)
    second.get_by_role("button", name="Remove the ticked").click()
    expect(second.locator("#source-message")).to_contain_text("another tab")
    expect(second.locator("#set h3")).to_have_count(0)
