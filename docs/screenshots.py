"""Take the screenshots of the README again: `python docs/screenshots.py`. Synthetic images only.

Needs playwright and a chromium (NEARL_CHROMIUM, or on the path). The light ones show the tabs on a wide screen, the
dark one a phone.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.support.app_server import serve  # noqa: E402

COLOURS = 160  # of the saved pictures, to keep the repository small
MINUTES = 60_000  # milliseconds


def save(page: Page, name: str) -> None:
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    palette = picture.quantize(COLOURS, kmeans=2)  # of its means, else the maps have bands
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(HERE / name, optimize=True)


def teach(page: Page, kind: str, preset: str) -> None:
    page.get_by_role("tab", name="Teach").click()
    page.locator("#kind label").get_by_text(kind, exact=True).click()
    page.wait_for_selector("#set .classes", timeout=2 * MINUTES)
    page.locator("#preset").get_by_text(preset).click()
    page.get_by_role("button", name="Teach", exact=True).click()
    page.wait_for_selector("#progress .outcome", timeout=20 * MINUTES)
    if (offer := page.locator("#progress .outcome button")).count():  # the check spoke against it
        offer.click()
    page.wait_for_selector("#shelf .in-use")


def compare(page: Page) -> None:
    """The Compare tab as it stands when it opens, to the end."""
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-source").get_by_text("Chest CT, synthetic", exact=True).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_selector("#comparison-result .headline:has-text('5 methods compared')", timeout=20 * MINUTES)
    page.evaluate("document.getElementById('comparison-result').scrollIntoView()")
    page.wait_for_timeout(500)


def explain(page: Page, view: str) -> None:
    """The Explain tab: relevance of the lesion, with the words that carried it."""
    page.get_by_role("tab", name="Explain").click()
    page.locator("#explain-class").get_by_text("lesion", exact=True).click()
    page.locator("#explain-method").get_by_text("Relevance", exact=True).click()
    page.wait_for_selector("#maps .map-caption:has-text('Relevance for “lesion”')")
    page.locator("#explain-view").get_by_text(view, exact=True).click()
    page.wait_for_selector(f"#maps .panels[data-count='{1 if view == 'This map' else 3}']")
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(1500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--kind", default="Chest CT, synthetic", help="the ready task, as the Teach tab calls it")
    parser.add_argument("--preset", default="Quick", help="how long to teach, as the Teach tab calls it")
    example = "Chest CT, lesion, synthetic"
    parser.add_argument("--example", default=example, help="the example, as the Predict tab calls it")
    options = parser.parse_args()
    chromium = os.environ.get("NEARL_CHROMIUM") or shutil.which("chromium")
    log = Path(tempfile.mkdtemp()) / "app.log"
    with sync_playwright() as playwright, serve(options.backbone, log) as server:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1400, "height": 1060})
        page.goto(f"{server.url}/?__theme=light")
        page.locator(f'#examples button[title="{options.example}"]').click()
        page.wait_for_selector("#viewer figure > p", timeout=2 * MINUTES)
        teach(page, options.kind, options.preset)
        page.set_viewport_size({"width": 1400, "height": 1100})
        page.evaluate("window.scrollTo(0, 0)")
        save(page, "teach.png")
        page.get_by_role("tab", name="Predict").click()
        page.wait_for_selector("#reading .bar-line.after")
        page.wait_for_selector("#viewer figure > p")
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(500)
        save(page, "predict.png")
        compare(page)
        save(page, "compare.png")
        explain(page, "Before and after")
        save(page, "explain-light.png")
        phone = browser.new_page(viewport={"width": 400, "height": 850}, device_scale_factor=1.5)
        phone.goto(f"{server.url}/?__theme=dark")
        phone.locator(f'#examples button[title="{options.example}"]').click()
        phone.wait_for_selector("#viewer figure > p", timeout=2 * MINUTES)
        phone.wait_for_timeout(500)
        save(phone, "phone.png")
        browser.close()


if __name__ == "__main__":
    main()
