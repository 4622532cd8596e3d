"""The Compare tab in a real browser: methods to the end through a reload, the winner read with; cancelling."""

from __future__ import annotations

import re

from tests.support.browser import LONG, example, expect, fits, open_tab


def _result(page):
    return page.locator("#comparison-result")


def _finished(page):
    """The rows of methods that are finished: those that can be used."""
    return _result(page).locator("td button")


def test_methods_are_compared_and_one_of_them_reads(visitor):
    page = visitor()
    open_tab(page, "Compare")
    expect(page.locator("#method-cards :checked")).to_have_count(5)
    expect(_result(page)).to_contain_text("Press “Compare” as it stands")
    page.locator("#method-cards input").first.focus()
    page.keyboard.press("Space")
    expect(page.locator("#method-cards :checked")).to_have_count(4)
    page.keyboard.press("Space")
    for name in ("tip-adapter", "linear-probe"):
        page.locator(f"#method-cards [data-name='{name}']").uncheck()
    page.locator("#compare-shots").get_by_text("4", exact=True).click()
    page.locator("#compare-length").get_by_text("Quick", exact=True).click()
    expect(page.locator("#compare-there")).to_be_hidden()  # no other source has the classes of a real task
    page.locator("#compare-source").get_by_text("Chest CT, synthetic", exact=True).click()
    page.locator("#compare-there").get_by_text("Blood smear, synthetic", exact=True).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(_finished(page).first).to_be_visible(timeout=LONG)

    page.reload()
    open_tab(page, "Compare")
    expect(_finished(page).first).to_be_visible(timeout=LONG)
    expect(_result(page)).to_contain_text("3 methods compared", timeout=LONG)
    expect(_finished(page)).to_have_count(3)
    expect(page.locator("#compare-source label.selected")).to_have_text("Chest CT, synthetic")
    measured = re.compile(r"Taught with \d+ images in \d classes; measured on \d+ images kept aside")
    expect(_result(page)).to_contain_text(measured)
    expect(_result(page).locator(".by-method .bar-line")).to_have_count(3)
    expect(_result(page).get_by_text("on the other images")).to_have_count(3)
    expect(_result(page).locator("svg.scatter.wide circle")).to_have_count(3)
    expect(_result(page).locator(".space")).to_have_count(3)  # of what moves nothing, of LoRA and of NEARL

    page.get_by_role("button", name="Use LoRA in Predict").click()
    expect(page.locator("#compare-used")).to_contain_text("LoRA is now in use")
    page.locator("#compare-used a").click()
    example(page).click()
    expect(page.locator("#reading .bar-line.after").first).to_be_visible()
    open_tab(page, "Teach")
    expect(page.locator("#shelf .card.used")).to_contain_text("LoRA: ")


def test_a_question_is_one_click_and_cancelling_keeps_what_is_finished(visitor):
    page = visitor(width=400)
    open_tab(page, "Compare")
    page.locator("#compare-seeds").get_by_text("Three").click()
    expect(page.locator("#method-cards input")).not_to_have_count(0)
    page.get_by_role("button", name="Does orthogonality help here?").click()
    expect(page.locator("#compare")).to_have_text("Comparing …")
    expect(page.locator("#method-cards")).to_be_hidden()  # so that the result is in sight
    expect(_result(page)).to_be_in_viewport()
    expect(_finished(page).first).to_be_visible(timeout=LONG)
    page.get_by_role("button", name="Cancel").click()
    expect(_result(page)).to_contain_text(re.compile("Cancelled. .* kept"), timeout=LONG)
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_enabled()
    assert 1 <= _finished(page).count() <= 2
    assert "NEARL, whole update" in _result(page).inner_text()
    assert fits(page)
    row, table = (page.locator(f"#comparison-result .scores {part}").first for part in ("tbody tr", "table"))
    assert row.evaluate("e => getComputedStyle(e).display") == "grid"  # the figures of a method below each other
    assert table.evaluate("e => e.scrollWidth <= e.parentElement.clientWidth")
