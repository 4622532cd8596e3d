"""What the browser tests do on a page: open a tab, bring files, teach; and the words they look for."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest

try:
    from playwright.sync_api import Browser, Error, Locator, Page, Route, expect, sync_playwright
except ImportError:
    expect = sync_playwright = None

REQUIRED = os.environ.get("NEARL_REQUIRE_BROWSER") == "1"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser")  # the first takes a third less processor time
CHROMIUM = os.environ.get("NEARL_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
LONG = 120_000  # milliseconds; of a run on a busy machine
MAP_WORDS = re.compile("Where it looked for|the map is empty")
NOTICE = "For teaching and research. Not for diagnosis."


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A chromium; without one the test is skipped, or fails if NEARL_REQUIRE_BROWSER=1."""
    if sync_playwright is None:
        _missing("playwright is not installed")
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        except Error as error:
            _missing(f"no chromium to run: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


def _missing(why: str) -> None:
    if REQUIRED:
        pytest.fail(why)
    pytest.skip(why)


def is_local(url: str) -> bool:
    parts = urlparse(url)
    return parts.scheme in ("data", "blob") or parts.hostname in ("127.0.0.1", "localhost")


def example(page: Page, number: int = 0) -> Locator:
    """The button of a synthetic example."""
    return page.locator("#examples button", has_text="synthetic").nth(number)


def visit(page: Page, url: str) -> Page:
    """Open the app and wait until the model is there."""
    page.set_default_timeout(60_000)
    page.goto(url)
    expect(page.locator("#header .model")).to_have_text("Model: clip", timeout=LONG)
    return page


def open_tab(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    idle(page)  # Gradio sets every control of a tab that was just built, also one that was changed meanwhile


def upload(page: Page, where: str, files: list[Path]) -> None:
    page.locator(f"{where} input[type=file]").set_input_files([str(f) for f in files])


def choose(page: Page, where: str, label: str) -> None:
    page.locator(where).get_by_text(label, exact=True).click()


def shares(page: Page, when: str) -> list[str]:
    return page.locator(f"#reading .bar-line.{when} .value").all_inner_texts()


@contextlib.contextmanager
def unanswered(page: Page) -> Iterator[None]:
    """What the page asks for by the queue, which is all but its opening, reaches the server only afterwards."""
    waiting: list[Route] = []
    held = [True]
    page.route("**/queue/join*", lambda route: waiting.append(route) if held else route.continue_())
    yield
    held.clear()
    for one in waiting:
        one.continue_()


def idle(page: Page) -> None:
    """Wait until the page has nothing left to do, such as setting what a section shows that was just opened."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestIdleCallback(done)))")


def bring_by_class(page: Page, task: Path) -> None:
    """Fill the Teach tab with the task's training images, class by class."""
    open_tab(page, "Teach")
    page.get_by_text("My images, class by class").click()
    for name in ("lesion", "no lesion"):
        page.get_by_label("Name of the class").fill(name)
        upload(page, "#class-files", sorted((task / "train" / name).iterdir()))
        expect(page.locator("#source-message")).to_contain_text(f"Added 5 images to “{name}”")
    expect(page.locator("#set h3").first).to_have_text("10 images in 2 classes")


def bring_zip(page: Page, archive: Path) -> None:
    open_tab(page, "Teach")
    page.get_by_text("A zip, or a table of labels").click()
    upload(page, "#zip", [archive])
    expect(page.locator("#set h3").first).to_have_text("12 images in 2 classes", timeout=60_000)


def teach(page: Page, steps: str = "") -> None:
    """Start a quick run, or one of so many steps without an early stop."""
    if steps:
        page.locator("#advanced").get_by_role("button", name="Advanced").click()
        box = page.locator("#steps input")
        expect(box).to_be_visible()
        idle(page)
        box.fill(steps)
        page.locator("#early-stop input").uncheck()
    page.locator("#preset").get_by_text("Quick", exact=True).click()
    page.get_by_role("button", name="Teach", exact=True).click()


def taught(page: Page) -> Locator:
    """The headline of a run that has ended well; waits for it, and puts the adapter to use where the check did not."""
    outcome = page.locator("#progress .outcome")
    expect(outcome).to_contain_text("use", timeout=LONG)
    if (offer := outcome.get_by_role("button")).count():
        offer.click()
    expect(outcome).to_contain_text("now in use in Predict", timeout=LONG)
    return page.locator("#progress .headline")


def nameless(page: Page) -> list[str]:
    """The controls and groups of radio buttons in sight that a screen reader has no name for."""
    return page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([type=file]), textarea, select")]
            .filter((c) => !c.labels?.length && !c.ariaLabel && !c.textContent.trim())
            .concat([...document.querySelectorAll("fieldset:not(:has(legend))")].filter((c) => !c.ariaLabel))
            .filter((c) => c.offsetParent).map((c) => c.outerHTML.slice(0, 200))"""
    )


HEARD = """() => {  // tell which button a click reaches, and do nothing else
  window.heard = [];
  window.addEventListener("click", (event) => {
    window.heard.push(event.target.closest("button, summary, a"));
    event.preventDefault();
    event.stopImmediatePropagation();
  }, { capture: true, once: true });
}"""


def missed(page: Page, editor: str) -> list[str]:
    """The buttons in sight that are not clicked when the mouse is held on them for a while and the caret is in an
    editor. None of them does anything. Of the examples, which are all alike, the first few."""
    found = []
    for button in page.locator("button:visible, summary:visible, .gradio-container a:visible").all():
        if button.evaluate("(e) => [...document.querySelectorAll('#examples button')].indexOf(e) > 2"):
            continue
        page.locator(editor).focus()
        button.evaluate("(e) => e.scrollIntoView({ block: 'center' })")
        x, y = button.evaluate(
            "(e) => { const r = e.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; }"
        )
        page.evaluate(HEARD)
        page.mouse.move(x, y)
        page.mouse.down()
        page.wait_for_timeout(200)
        page.mouse.up()
        if not button.evaluate("(button) => window.heard[0] === button"):
            found.append(button.inner_text() or button.get_attribute("aria-label"))
    return found


def fits(page: Page) -> bool:
    """Whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
