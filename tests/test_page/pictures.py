"""Takes the pictures of docs/page.md from a server that runs: python tests/test_page/pictures.py URL [FOLDER].

Best with SmolLM2, as `make up` serves it.
"""

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright
from test_page.browser import CHROMIUM
from test_page.steps import ask, send

expect.set_options(timeout=300_000)
DESK, PHONE = {"width": 1000, "height": 720}, {"width": 360, "height": 600}


def main(url: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport=PHONE)
        page.goto(url + "#models")
        stop = page.get_by_role("button", name="Stop smollm2")
        expect(page.get_by_role("button", name="Ask smollm2")).to_be_visible()
        if stop.is_visible():
            stop.click()
        expect(page.locator("#models .badge").first).to_have_text("idle")
        page.get_by_role("link", name="Playground").click()
        set_parameters(page, 20)
        send(page, "What is the capital of France?")
        expect(page.locator("#chat .waiting progress")).to_be_visible()
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=folder / "page-phone.png")
        expect(page.locator("#chat .stats")).to_be_visible()
        page.close()
        picture_of_a_chat(browser.new_page(viewport=DESK), url, folder / "page.png")
        picture_of_models(browser.new_page(viewport=DESK, color_scheme="dark"), url, folder / "page-dark.png")
        browser.close()
    for path in sorted(folder.glob("page*.png")):
        print(f"{path}: {path.stat().st_size:,} bytes")


def set_parameters(page: Any, most_tokens: int) -> None:
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("temperature").fill("0")
    page.get_by_label("max_tokens").fill(str(most_tokens))
    page.get_by_text("Parameters", exact=True).click()


def picture_of_a_chat(page: Any, url: str, path: Path) -> None:
    page.goto(url)
    set_parameters(page, 160)
    ask(page, "What is the capital of France?")
    ask(page, "Write a Python function that adds two numbers. Be brief.", number=1)
    page.screenshot(path=path)


def picture_of_models(page: Any, url: str, path: Path) -> None:
    page.goto(url + "#models")
    expect(page.locator("#models .badge").first).to_have_text("ready")
    page.get_by_text("Pods", exact=True).click()
    page.wait_for_timeout(1500)
    page.screenshot(path=path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else "docs/pictures"))
