"""Where keys are needed: in with a key, and out again, and what a key may not do isn't shown."""

import os
import subprocess

import pytest
from playwright.sync_api import expect
from test_page.browser import Open
from test_page.product import CHIEF, MEMBER, Product
from test_page.steps import ask, copied

pytestmark = pytest.mark.timeout(300)


def log_in(page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_in_and_out_with_a_key(open_page: Open, locked: Product) -> None:
    page = open_page(locked.url)
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.locator("#playground")).to_be_hidden()
    log_in(page, "wrong")
    expect(page.locator("#login-error")).to_have_text("The API key is unknown or was revoked.")
    log_in(page, CHIEF)
    expect(page.get_by_text("chief", exact=True)).to_be_visible()
    answer = ask(page, "hi", "writer")
    expect(answer.locator("strong")).to_have_text("world")
    curl = copied(page, answer, "Copy as curl")
    assert CHIEF not in curl + copied(page, answer, "Copy as Python")
    ran = subprocess.run(
        ["bash", "-c", curl], capture_output=True, check=True, text=True, timeout=60,
        env=os.environ | {"AMS_API_KEY": CHIEF},
    )  # fmt: skip
    assert ran.stdout.rstrip().endswith("data: [DONE]"), ran.stdout
    page.reload()  # the tab keeps it
    expect(page.get_by_text("chief", exact=True)).to_be_visible()
    assert CHIEF not in str(page.evaluate("Object.entries(localStorage)"))
    assert CHIEF not in page.content()
    page.get_by_role("link", name="Usage").click()
    expect(page.locator("#usage-table tbody th").filter(has_text="chief")).to_have_count(1)
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("Object.keys(sessionStorage)") == []
    expect(page.locator("#chat > li")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_key_sees_what_it_may_use_alone(open_page: Open, locked: Product) -> None:
    page = open_page(locked.url)
    log_in(page, MEMBER)
    expect(page.get_by_label("Model", exact=True).locator("option")).to_have_text(["writer"])
    expect(page.get_by_role("link", name="Usage")).to_be_hidden()
    ask(page, "hi")
    page.get_by_role("button", name="History").click()
    expect(page.get_by_role("dialog").locator("li")).to_have_count(1)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Models").click()
    card = page.get_by_role("article", name="writer")
    expect(card).to_be_visible()
    for button in ("Start writer", "Stop writer", "Log of writer"):
        expect(card.get_by_role("button", name=button)).to_be_hidden()
    page.goto(locked.url + "#usage")
    expect(page.locator("#usage")).to_be_hidden()
    page.get_by_role("button", name="Log out").click()
    log_in(page, CHIEF)  # another user of this browser doesn't see their chats
    page.get_by_role("link", name="Playground").click()
    page.get_by_role("button", name="History").click()
    expect(page.get_by_role("dialog")).to_contain_text("There is no chat yet.")
