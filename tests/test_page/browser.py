"""A Chromium that fails a test for whatever it complains about."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 60_000
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox")
# What a browser logs of responses that a test asks for.
EXPECTED = ("Failed to load resource:",)

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("Chromium isn't installed (apt-get install chromium)")
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens the page at an address. At the end, nothing may have violated its policy or failed in it."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write", "microphone"], **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.add_init_script(
            "window.violations = []; addEventListener('securitypolicyviolation', (event) => "
            "violations.push(`${event.violatedDirective} ${event.blockedURI}`))"
        )
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            complaints.extend(page.evaluate("window.violations ?? []"))
        context.close()
    unexpected = [complaint for complaint in complaints if not any(text in complaint for text in EXPECTED)]
    assert not unexpected, unexpected
