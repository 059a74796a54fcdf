"""axe-core finds nothing, in light and dark, at a desk and on a phone; nothing is wider than the screen."""

from typing import Any

import pytest
from playwright.sync_api import expect
from test_media.media_files import picture, saved
from test_page.browser import Open
from test_page.product import Product
from test_page.steps import answered, attach, choose, send

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.timeout(300)

SCREENS = {"desk": {"width": 1280, "height": 800}, "phone": {"width": 360, "height": 640}}


def check(page: Any, where: str) -> None:
    found = axe_playwright.Axe().run(page)
    told = [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in found.response["violations"]]
    assert told == [], f"{where}: {found.generate_report()}"
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{where}: {wide}"


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_views(open_page: Open, product: Product, scheme: str, screen: str) -> None:
    page = open_page(product.url, color_scheme=scheme, viewport=SCREENS[screen], reduced_motion="reduce")
    expect(page.locator("#model option").first).to_be_attached()
    check(page, "playground")
    choose(page, "writer")
    send(page, "hi")
    answer = answered(page)
    answer.locator("summary").click()
    page.get_by_text("Parameters", exact=True).click()
    check(page, "an answer and the parameters")
    choose(page, "qwen-vl")
    attach(page, "a-picture-with-a-long-name-" * 5 + ".png", "image/png", saved(picture(84, 56), "PNG"))
    check(page, "an attachment")
    choose(page, "broken")
    send(page, "hi")
    expect(answered(page, 1).locator(".failure")).to_be_visible()
    check(page, "a failure")
    page.get_by_role("button", name="History").click()
    check(page, "the history")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("article", name="broken")).to_be_visible()
    for summary in page.locator("#models summary:visible").all():
        summary.click()
    check(page, "models")
    page.get_by_role("button", name="Log of writer").click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("is ready")
    check(page, "a log")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Why? broken").click()
    expect(page.get_by_role("dialog").locator(".causes > li").first).to_be_visible()
    check(page, "why")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Usage").click()
    expect(page.locator("#usage-table tbody tr").first).to_be_visible()
    check(page, "usage")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_door(open_page: Open, locked: Product, scheme: str) -> None:
    page = open_page(locked.url, color_scheme=scheme, viewport=SCREENS["phone"])
    page.get_by_label("API key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#login-error")).not_to_be_empty()
    check(page, "log in")


def test_motion_is_reduced_for_who_wants_that(open_page: Open, product: Product) -> None:
    for wish, animated in (("reduce", False), ("no-preference", True)):
        page = open_page(product.url, reduced_motion=wish)
        page.evaluate("document.getElementById('takes').className = 'dots'")
        name = page.evaluate("getComputedStyle(document.getElementById('takes'), '::after').animationName")
        assert (name != "none") == animated
