"""Several models in one page: choosing one, an adapter that switches back, all of them on one image, and a download."""

from __future__ import annotations

import re
import threading

import pytest

from nearl.adapters.store import zip_adapter
from tests.support.app_server import serve
from tests.support.app_work import taught
from tests.support.browser import LONG, example, expect, fits, open_tab, shares, upload
from tests.support.hub_server import Hub, hub_variables, large_files

REMOTE = "hf-hub:somebody/model"


@pytest.fixture
def hub():
    with Hub() as hub:
        hub.held = threading.Event()
        yield hub
        hub.held.set()


@pytest.fixture
def offering(hub, checkpoints, tmp_path):
    """A page that offers three models that are here and one of the hub."""
    hub.put("somebody/model", large_files(checkpoints("transformers-siglip")))
    clip, other = (f"local-dir:{checkpoints(kind)}" for kind in ("clip", "transformers-clip"))
    offered = ",".join([other, "embedded", REMOTE])
    variables = hub_variables(hub, tmp_path / "hub")
    with serve(clip, tmp_path / "app.log", "--backbones", offered, variables=variables, forks=True) as running:
        yield running
        assert "Traceback" not in running.console()


def head(page):
    return page.locator("#header .model")


def unfold(page):
    page.locator("#models button").first.click()
    expect(page.locator("#model-offers .offer")).to_have_count(4)


def read_with(page, name):
    page.locator("#model-offers").get_by_role("button", name=f"Read with {name}").click()
    expect(head(page)).to_have_text(f"Model: {name}", timeout=LONG)


def test_three_models_are_read_with_compared_and_a_fourth_is_downloaded(offering, hub, visitor, engine, tmp_path):
    page, other = visitor(url=offering.url), visitor(width=400, url=offering.url)
    unfold(page)
    expect(page.locator("#model-offers .offer[aria-current]")).to_contain_text("clip")
    example(page).click()
    expect(page.locator("#reading .bar-line").first).to_be_visible()
    read = [shares(page, "before")]
    measured = page.locator("#predict-prompts option", has_text="balanced accuracy")
    for name in ("transformers-clip", "embedded"):
        expect(measured).to_have_count(0)
        read_with(page, name)
        expect(page.locator("#reading .bar-line.before .value").first).not_to_have_text(read[-1][0])
        read.append(shares(page, "before"))
    expect(measured).not_to_have_count(0)
    expect(page.locator("#reading")).to_contain_text("test images")
    open_tab(page, "Explain")
    drawn = page.locator("#maps .viewer")
    expect(drawn).to_have_attribute("data-of", re.compile('"model": "embedded"'))
    read_with(page, "transformers-clip")
    expect(drawn).to_have_attribute("data-of", re.compile('"model": "transformers-clip"'))
    expect(page.locator("#maps .scale-words").first).to_be_visible()  # of the map, which follows the image
    expect(measured).to_have_count(0)
    assert len(set(map(tuple, read))) == 3
    expect(head(other)).to_have_text("Model: clip")

    open_tab(page, "Teach")
    upload(page, "#adapter-upload", [zip_adapter(taught(engine), tmp_path / "adapter.zip")])
    expect(page.locator("#shelf-message")).to_contain_text("belongs to the model “clip”")
    page.get_by_role("button", name="Switch to the model clip").click()
    expect(head(page)).to_have_text("Model: clip", timeout=LONG)
    expect(page.locator("#shelf .card.used")).to_have_count(1)
    open_tab(page, "Predict")
    expect(page.locator("#reading .bar-line.after").first).to_be_visible()

    open_tab(page, "Compare")
    page.get_by_role("button", name="Read it with every model").click()
    expect(page.locator("#models-result .column p strong")).to_have_count(3)
    expect(page.locator("#models-result")).to_contain_text(f"Not on this machine, so not asked: {REMOTE}")
    expect(page.locator("#models-result")).to_contain_text(re.compile("closest to"))

    ask = page.get_by_role("button", name=f"Download {REMOTE}")
    progress, cancel = page.locator("#models-progress"), page.get_by_role("button", name="Cancel the download")
    ask.click()
    expect(progress).to_contain_text(re.compile(r"[1-9]\d*\sMB of \d+\sMB"), timeout=LONG)
    unfold(other)
    assert fits(other)
    other.get_by_role("button", name=f"Download {REMOTE}").click()
    expect(other.locator("#models-progress")).to_contain_text("Downloading")
    assert fits(other)
    other.get_by_role("button", name="Cancel the download").click()
    expect(other.locator("#models-message")).to_contain_text("cancelled")
    expect(progress).to_contain_text("Downloading")  # the first visitor's goes on
    cancel.click()
    expect(page.locator("#models-message")).to_contain_text("cancelled")
    expect(cancel).to_be_hidden()
    expect(head(page)).to_have_text("Model: clip")
    hub.held.set()
    expect(ask).to_be_visible()
    ask.click()
    expect(head(page)).to_have_text(f"Model: {REMOTE}", timeout=30000)
    expect(page.locator("#model-offers .offer[aria-current]")).to_contain_text("on this machine")
    expect(head(other)).to_have_text("Model: clip")
    assert not list((tmp_path / "hub").rglob("*.incomplete"))
