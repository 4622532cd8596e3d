"""A scan in a real browser: windows, slices, planes, letters, the curve of all slices, a volume as one study with a
report beside it, on a desktop and a phone."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.adapters.store import zip_adapter
from nearl.backbones import load_backbone
from nearl.data.formats.windows import THREE_CT
from nearl.data.images import decode_many, decode_one
from tests.support.browser import LONG, MAP_WORDS, NOTICE, choose, expect, fits, nameless, open_tab, upload
from tests.support.findings import bridge_adapter
from tests.support.scans import dataset, directions, nifti, series, written

REAL = Path(os.environ.get("NEARL_DATA", Path(__file__).parents[3] / "shared" / "data"))
SERIES, NIFTI = REAL / "dicom_series" / "chest_ct_lidc", REAL / "nifti" / "chest_ct_lidc.nii.gz"
REPORT = "There is a nodule in the right lung. No pneumothorax.\nCardiomegaly cannot be excluded."
SLICES = 20
NAME = "Anna_Somebody"
SHOWS = """([height, width, wanted]) => {
  const image = document.querySelector("#viewer .stage img.base");
  if (!image?.complete || image.naturalWidth !== width || image.naturalHeight !== height) return false;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const found = canvas.getImageData(0, 0, width, height).data, bytes = atob(wanted);
  for (let i = 0; i < width * height * 3; i++)
    if (found[Math.floor(i / 3) * 4 + (i % 3)] !== bytes.charCodeAt(i)) return false;
  return true;
}"""
SCROLL = """(stage) => new Promise((done) => {
  stage.addEventListener("scroll", () => requestAnimationFrame(done), { once: true });
  stage.scrollTo(40, 30);
})"""
KEPT = """() => {
  const stage = document.querySelector("#viewer .stage");
  return Math.abs(stage.scrollTop - 30) < 4 && Math.abs(stage.scrollLeft - 40) < 4;
}"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A made-up chest in Hounsfield units: a body, two lungs, a spine, and a spot in the left lung of one slice."""
    x, y, z = np.meshgrid(np.arange(64), np.arange(56), np.arange(SLICES), indexing="ij")
    body = np.full((64, 56, SLICES), -1000, np.int16)
    body[((x - 32) / 29) ** 2 + ((y - 28) / 24) ** 2 < 1] = 40
    for middle in (18, 46):
        body[((x - middle) / 10) ** 2 + ((y - 30) / 15) ** 2 < 1] = -850
    body[((x - 32) / 5) ** 2 + ((y - 9) / 4) ** 2 < 1] = 700
    body[(x - 16) ** 2 + (y - 33) ** 2 + 9 * (z - 12) ** 2 < 12] = 60
    folder = tmp_path_factory.mktemp("study")
    pair = directions()[0]
    files = series(body, *pair, spacing=(5.0, 5.0, 8.0), RescaleSlope=1, RescaleIntercept=0)
    paths = []
    for number, data in enumerate(files):
        paths.append(folder / f"{NAME}_{number}.dcm")
        paths[-1].write_bytes(data)
    return paths


def slide(page, number: int) -> None:
    slider = page.locator("#scan-slice input[type=range]")
    slider.focus()
    slider.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })); }", str(number))


def wait_for(page, wanted: np.ndarray) -> None:
    """Until the viewer shows exactly these pixels."""
    pixels = np.broadcast_to(wanted if wanted.ndim == 3 else wanted[..., None], (*wanted.shape[:2], 3))
    page.wait_for_function(SHOWS, arg=[*pixels.shape[:2], base64.b64encode(pixels.tobytes()).decode()])


@pytest.mark.parametrize("page", [(1400, 1000), (400, 850)], indirect=True)
def test_a_series_with_windows_slices_planes_and_letters(page, study):
    (record,), _ = decode_many(study)
    expect(page.locator("#scan-slice")).to_be_hidden()
    upload(page, "#upload", study)
    expect(page.locator("#viewer")).to_contain_text(f"Axial slice {SLICES // 2 + 1} of {SLICES}")
    wait_for(page, record.pixels)
    letters = page.locator("#viewer .marks text")
    assert sorted(letters.all_text_contents()) == ["A", "L", "P", "R"]
    expect(page.locator("#viewer .marks")).to_have_attribute("aria-label", re.compile("L at the right"))

    choose(page, "#scan-window", "Lung")
    lung = record.at(window=next(w for w in record.scan.presets() if w.name == "Lung"))
    wait_for(page, lung.pixels)
    expect(page.locator("#viewer")).to_contain_text("Window: Lung, -600 / 1500")
    slide(page, 13)
    wait_for(page, lung.slice_at(12).pixels)
    expect(page.locator("#viewer")).to_contain_text(f"Axial slice 13 of {SLICES}")
    page.locator("#scan-invert input").check()
    wait_for(page, 255 - lung.slice_at(12).pixels)
    page.locator("#scan-invert input").uncheck()
    choose(page, "#scan-window", "Three at once")
    wait_for(page, lung.slice_at(12).at(window=THREE_CT).pixels)
    expect(page.locator("#viewer")).to_contain_text("The model gets three windows")
    width = page.locator("#scan-width input")
    width.fill("900")
    wait_for(page, lung.slice_at(12).at(window=replace(record.scan.auto(), width=900)).pixels)
    expect(page.locator("#viewer")).to_contain_text("Window: Set by hand")
    choose(page, "#scan-window", "Lung")
    expect(width).to_have_value("1500")
    choose(page, "#scan-plane", "Coronal")
    coronal = lung.at(plane="coronal", index=28)
    wait_for(page, coronal.pixels)
    assert sorted(letters.all_text_contents()) == ["F", "H", "L", "R"]
    assert {round(letter.bounding_box()["height"]) < 30 for letter in letters.all()} == {True}  # on a thin image too
    expect(page.get_by_text(NOTICE).first).to_be_visible()
    assert fits(page)


def test_a_control_moved_while_another_is_answered_is_obeyed(page, study):
    (record,), _ = decode_many(study)
    upload(page, "#upload", study)
    wait_for(page, record.pixels)
    page.evaluate(
        """() => {
            const coronal = document.querySelector("#scan-plane input[value='coronal']");
            const once = new MutationObserver(() => { once.disconnect(); coronal.click(); });
            once.observe(document.querySelector("#viewer"), {subtree: true, childList: true, attributes: true});
            document.querySelector("#scan-invert input").click();
            document.querySelector("#scan-window input[value='Lung']").click();
        }"""
    )
    lung = record.at(window=next(w for w in record.scan.presets() if w.name == "Lung"))
    wait_for(page, lung.at(plane="coronal", index=28, invert=True).pixels)
    for checked in ("#scan-window input[value='Lung']", "#scan-plane input[value='coronal']", "#scan-invert input"):
        expect(page.locator(checked)).to_be_checked()


def test_reading_a_volume_and_going_to_a_slice(page, study):
    upload(page, "#upload", study)
    expect(page.locator("#viewer")).to_contain_text("Axial slice")
    expect(page.locator("#upload")).not_to_contain_text(NAME)  # the box is empty again: the files are gone
    page.locator("#read").click()
    expect(page.locator("#reading .bars")).to_be_visible()
    before = page.locator("#reading .bars").inner_text()
    page.get_by_role("button", name=f"Read all {SLICES} slices").click()
    expect(page.locator("#scan-curve .columns button")).to_have_count(SLICES)
    expect(page.locator("#scan-curve")).to_contain_text(f"{SLICES} slices together: best five slices")
    page.locator("#scan-curve .columns button").nth(3).click()
    expect(page.locator("#viewer")).to_contain_text(f"Axial slice 4 of {SLICES}")
    expect(page.locator("#scan-curve .columns button").nth(3)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#reading .bars")).not_to_have_text(before)
    expect(page.locator("#scan-slice input[type=range]")).to_have_value("4")
    choose(page, "#scan-together", "Mean")
    expect(page.locator("#scan-curve")).to_contain_text("together: mean")
    choose(page, "#map-when", "Before teaching")
    expect(page.locator("#viewer")).to_contain_text(MAP_WORDS)
    choose(page, "#scan-window", "Bone")  # another window is another question
    expect(page.locator("#scan-curve .columns")).to_have_count(0)


def test_zoom_keeps_its_place_from_slice_to_slice(page, study):
    upload(page, "#upload", study)
    expect(page.locator("#viewer")).to_contain_text("Axial slice")
    zoom = page.locator("#scan-zoom input[type=range]")
    zoom.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input', { bubbles: true })); }")
    stage = page.locator("#viewer .stage")
    page.wait_for_function("() => document.querySelector('#viewer .stage').scrollTop > 50")
    stage.evaluate(SCROLL)
    slide(page, 4)
    expect(page.locator("#viewer")).to_contain_text(f"Axial slice 4 of {SLICES}")
    page.wait_for_function(KEPT)


def test_pictures_have_no_scan_controls_and_refusals_are_named(page, tmp_path, study):
    picture, report, volume = tmp_path / "photo.png", tmp_path / "report.dcm", tmp_path / "moments.nii"
    Image.new("RGB", (60, 50), "teal").save(picture)
    report.write_bytes(written(dataset(np.zeros((20, 20), np.uint16), kind="1.2.840.10008.5.1.4.1.1.88.11")))
    moments = np.random.default_rng(0).integers(0, 99, (30, 28, 18, 3)).astype(np.int16)
    volume.write_bytes(nifti(moments, np.eye(4)))
    upload(page, "#upload", [picture, report])
    expect(page.locator("#predict-problems")).to_contain_text("report.dcm is a structured report")
    expect(page.locator("#viewer")).to_contain_text("photo.png")
    expect(page.locator("#scan-slice")).to_be_hidden()
    upload(page, "#upload", [volume])
    expect(page.locator("#scan-moment")).to_be_visible()
    wait_for(page, decode_one(volume).pixels)


@pytest.fixture(scope="module")
def bridge(checkpoints, tmp_path_factory):
    """The file of an adapter that reads volumes as studies."""
    backbone = load_backbone(f"local-dir:{checkpoints('clip')}")
    return zip_adapter(bridge_adapter(backbone), tmp_path_factory.mktemp("bridge") / "bridge.zip")


def read_as_study(page, files: list[Path], slices: int, total: int) -> None:
    """Bring a volume; its findings are of all of it, and the slices that fired lead to themselves."""
    upload(page, "#upload", files)
    section, fired = page.locator("#reading .study"), page.locator("#scan-curve .fired")
    expect(page.locator("#viewer .file")).to_have_text(re.compile("|".join(re.escape(file.name) for file in files)))
    expect(section).to_contain_text(f"{slices} slices of {total} together, axial", timeout=LONG)
    expect(page.locator("#reading .findings .bar-line.after")).to_have_count(3)
    expect(section.locator("li")).to_have_count(5)  # atoms
    expect(section.locator("svg")).to_have_count(3)
    expect(fired.locator(".columns button")).to_have_count(slices)
    expect(page.locator("#scan-all")).to_be_hidden()  # no slice has an answer of its own
    choose(page, "#scan-plane", "Coronal")
    expect(page.locator("#viewer")).to_contain_text("Coronal slice")
    said, button = page.locator("#reading .findings").inner_text(), fired.locator(".top button").first
    number = re.search(r"\d+", button.inner_text())[0]
    button.click()
    expect(page.locator("#viewer")).to_contain_text(f"Axial slice {number} of {total}")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#scan-slice input[type=range]")).to_have_value(number)
    assert page.locator("#reading .findings").inner_text() == said


@pytest.mark.parametrize("page", [(1400, 1000), (400, 850)], indirect=True)
def test_a_volume_is_read_as_one_study_and_a_report_stands_beside_it(page, study, bridge):
    """Of real files, where they are: the series at the width of a desktop, the NIfTI at that of a phone."""
    open_tab(page, "Teach")
    upload(page, "#adapter-upload", [bridge])
    expect(page.locator("#shelf .in-use")).to_have_count(1)
    open_tab(page, "Predict")
    expect(page.locator("#report textarea")).to_have_count(0)
    read_as_study(page, study, SLICES, SLICES)
    if page.viewport_size["width"] > 1000 and SERIES.is_dir():
        read_as_study(page, sorted(SERIES.glob("*.dcm")), 20, 20)
    elif page.viewport_size["width"] < 1000 and NIFTI.is_file():
        read_as_study(page, [NIFTI], 32, 55)

    text, rows = page.locator("#report textarea"), page.locator("#report-summary li")
    text.fill(REPORT)
    page.get_by_role("button", name="Summarise the report").click()
    expect(rows).to_have_count(3)
    states = [row.locator("select").input_value() for row in rows.all()]
    assert states == ["present", "absent", "uncertain"]
    expect(page.locator("#report-summary")).to_contain_text("the reading of the whole study, after teaching")
    read = rows.first.get_attribute("data-read")
    expect(page.locator("#report-summary .sum").filter(visible=True)).to_have_text(["There is lung nodule."])
    for state, agrees in ((read, True), ("absent" if read == "present" else "present", False)):
        rows.first.locator("select").select_option(state)
        expect(rows.first.locator(".same")).to_be_visible(visible=agrees)
        expect(rows.first.locator(".other")).to_be_visible(visible=not agrees)
    rows.first.locator("select").select_option("not mentioned")
    expect(rows.first.locator(".same, .other").filter(visible=True)).to_have_count(0)
    slide(page, 3)
    expect(page.locator("#viewer")).to_contain_text("slice 3 of")
    expect(rows.first.locator("select")).to_have_value("not mentioned")  # what was edited stays, and the text
    page.get_by_role("button", name="Read the image").click()
    expect(rows).to_have_count(0)
    expect(text).to_have_value(REPORT)
    expect(page.get_by_text(NOTICE).first).to_be_visible()
    assert fits(page) and nameless(page) == []
    text.fill("")
    page.get_by_role("button", name="Summarise the report").click()
    expect(page.locator("#report-summary [role=alert]")).to_contain_text("empty")
