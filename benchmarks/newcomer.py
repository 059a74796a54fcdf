"""How long a newcomer waits: from `git clone` over `make up` to the first answer in the page's playground.

    python benchmarks/newcomer.py [--picture FOLDER]

Clones this checkout as it is committed, into a folder of its own with folders of its own for weights and state; only
pip's cache is the user's. Chromium opens the page as soon as `ams up` announces it and asks one question; the model's
weights are fetched meanwhile. Prints seconds from the start of the clone. Needs Chromium and the package playwright.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TARGET_SECONDS = 300
PATIENCE_SECONDS = 1200
QUESTION = "What is the capital of France?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, help="folder for a picture of the answer")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        parser.error("Chromium isn't installed")
    with tempfile.TemporaryDirectory(prefix="ams-newcomer-") as folder:
        seconds = be_a_newcomer(Path(folder), arguments.picture)
    verdict = "within" if seconds <= TARGET_SECONDS else "NOT within"
    print(f"first answer after {seconds:.0f} s, {verdict} the target of {TARGET_SECONDS} s")


def be_a_newcomer(folder: Path, picture: Path | None) -> float:
    began = time.monotonic()

    def tell(what: str) -> float:
        seconds = time.monotonic() - began
        print(f"{seconds:7.1f} s  {what}", flush=True)
        return seconds

    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "ai-model-server"], check=True)
    tell("cloned")
    server, url = make_up(folder)
    try:
        tell("`make up` serves the page")
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1100, "height": 760})
            seconds = ask(page, url, tell)
            if picture is not None:
                picture.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=picture / "newcomer.png")
            browser.close()
        return seconds
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait(60)


def make_up(folder: Path) -> tuple["subprocess.Popen[str]", str]:
    """`make up` as it announces its page, and the page's address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AMS_", "VIRTUAL_ENV"))}
    environment |= {f"XDG_{kind}_HOME": str(folder / kind.lower()) for kind in ("DATA", "STATE", "CONFIG")}
    server = subprocess.Popen(
        ["make", "up", f"ARGS=--port {port}"], cwd=folder / "ai-model-server", env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    said = []
    for line in server.stdout:
        said.append(line)
        if found := re.search(r"AI Model Server on (https?://\S+)", line):
            threading.Thread(target=server.stdout.read, daemon=True).start()  # or it would wait for a reader
            return server, found[1] + "/"
    raise SystemExit("`make up` ended:\n" + "".join(said[-30:]))


def ask(page: Page, url: str, tell: Callable[[str], float]) -> float:
    """The seconds at which the first answer was complete."""
    page.set_default_timeout(PATIENCE_SECONDS * 1000)
    page.goto(url)
    page.wait_for_selector("#model option", state="attached")
    tell("the page shows the model")
    page.click("#settings summary")
    page.fill("#temperature", "0")  # so that runs compare: SmolLM2 answers with the same eight tokens
    page.fill("#prompt", QUESTION)
    page.focus("#prompt")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .waiting progress, #chat .markdown > *")
    tell("the answer's place says what it waits for")
    page.wait_for_selector("#chat .markdown > *")
    tell("first word")
    page.wait_for_selector("#chat .stats")
    seconds = tell("answer: " + page.inner_text("#chat .markdown").strip())
    if page.query_selector("#chat .failure"):
        raise SystemExit(page.inner_text("#chat .failure"))
    return seconds


if __name__ == "__main__":
    main()
