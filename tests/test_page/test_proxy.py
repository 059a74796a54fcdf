"""The page behind nginx, below a path; and a server that goes away for a while."""

from pathlib import Path

import pytest
from playwright.sync_api import expect
from test_page.browser import Open
from test_page.product import Product, free_port, nginx
from test_page.steps import ask, copied

pytestmark = pytest.mark.timeout(300)


def test_below_a_path(open_page: Open, behind_proxy: str) -> None:
    page = open_page(behind_proxy)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.reload()
    answer = ask(page, "hi", "writer")
    expect(answer.locator("strong")).to_have_text("world")
    assert f"{behind_proxy}v1/chat/completions" in copied(page, answer, "Copy as curl")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("article", name="writer").locator(".badge")).to_have_text("ready")
    page.get_by_role("link", name="Usage").click()
    expect(page.locator("#usage-table tbody tr").first).to_be_visible()
    assert [url for url in requests if not url.startswith(behind_proxy)] == []


def test_a_cold_start_is_live_behind_it(open_page: Open, behind_proxy: str, product: Product) -> None:
    product.stop("cold")
    page = open_page(behind_proxy + "#models")
    card = page.get_by_role("article", name="cold")
    card.get_by_role("button", name="Start cold").click()
    expect(card.locator("progress")).to_be_visible()
    expect(card.locator(".badge")).to_have_text("ready")


def test_a_server_that_goes_away_is_told_and_found_again(open_page: Open, product: Product, tmp_path: Path) -> None:
    port = free_port()
    with nginx(tmp_path / "one", product.url, "/", port) as url:
        page = open_page(url)
        expect(page.locator("#model option").first).to_be_attached()
    expect(page.locator("#connection")).to_contain_text("The server can't be reached.")
    with nginx(tmp_path / "two", product.url, "/", port):
        expect(page.locator("#connection")).to_be_hidden()
