"""Models and usage as the page shows them: started, stopped, their logs, and what keys used."""

import re

import pytest
from playwright.sync_api import expect
from test_page.browser import Open
from test_page.product import Product
from test_page.steps import ask

pytestmark = pytest.mark.timeout(300)


def test_a_model_is_started_watched_and_stopped_by_hand(open_page: Open, product: Product) -> None:
    product.stop("cold")
    page = open_page(product.url + "#models")
    card = page.get_by_role("article", name="cold")
    stop = card.get_by_role("button", name="Stop cold")
    expect(stop).to_be_hidden()
    card.get_by_role("button", name="Start cold").click()
    expect(card.locator(".badge")).not_to_have_text("idle")
    expect(card.locator(".badge")).to_have_text("ready")
    expect(card.locator("dt:text-is('memory') + dd")).to_have_text(re.compile(r"\d MiB"))
    expect(card.locator("dt:text-is('pods') + dd")).to_have_text("1 of 1")
    card.get_by_text("Pods", exact=True).click()
    expect(card.locator("tbody th")).to_contain_text("cold-")
    card.get_by_role("button", name="Log of cold").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("pre")).to_contain_text("cold is ready")
    page.keyboard.press("Escape")
    card.get_by_role("button", name="Ask cold").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("cold")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_role("link", name="Models").click()
    stop.click()
    expect(card.locator(".badge")).to_have_text("idle")
    expect(card.locator("dt:text-is('pods') + dd")).to_have_text("0 of 0")


def test_tokens_a_second_are_shown_while_a_model_writes(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    page.get_by_label("Model", exact=True).select_option("long")
    page.get_by_label("Your message").fill("go on")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#chat .markdown")).not_to_be_empty()
    page.get_by_role("link", name="Models").click()
    card = page.get_by_role("article", name="long")
    expect(card.locator("dt:text-is('tokens/s') + dd")).to_have_text(re.compile(r"[1-9]"))
    expect(card.locator("dt:text-is('running') + dd")).to_have_text("1")
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("button", name="Stop", exact=True).click()


def test_usage_by_key_and_month(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    ask(page, "hi", "writer")
    page.get_by_role("link", name="Usage").click()
    expect(page.locator("#usage-table tbody th")).to_have_text("anonymous")
    expect(page.locator("#usage-table meter")).to_have_count(1)
    page.get_by_label("By", exact=True).select_option("model")
    expect(page.locator("#usage-table tbody th").filter(has_text="writer")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert download.value.path().read_text().startswith("model,requests")
    page.get_by_label("Month").select_option(index=1)
    expect(page.locator("#usage-error")).to_have_text("Nothing was used in this month.")


def test_why_a_model_is_not_ready(open_page: Open, product: Product) -> None:
    page = open_page(product.url)
    ask(page, "hi", "broken")
    page.get_by_role("link", name="Models").click()
    page.get_by_role("button", name="Why? broken").click()
    cause = page.get_by_role("dialog").locator(".causes > li").first
    expect(cause).to_contain_text("nowhere")
