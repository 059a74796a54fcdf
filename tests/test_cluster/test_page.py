"""The page on a cluster: a cold start and an answer in a browser, through the ingress or through nginx."""

import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from test_cluster.conftest import ROOT, Installed
from test_page.browser import Open, browser, open_page  # noqa: F401  # fixtures
from test_page.product import nginx
from test_page.steps import ask, choose, send

PREFIX = "/models/"


@pytest.fixture(scope="module")
def quickstart(installed: Installed) -> Installed:
    installed.kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    installed.wait_ready("smollm2", 240)
    return installed


@pytest.fixture(params=["ingress", "nginx"])
def address(request: pytest.FixtureRequest, quickstart: Installed, tmp_path: Path) -> Iterator[str]:
    """Where a browser outside of the cluster finds the page."""
    if request.param == "nginx":
        with nginx(tmp_path / "nginx", quickstart.gateway + "/", PREFIX) as url:
            yield url
        return
    ingress = quickstart.cluster.ingress()
    if ingress is None:
        pytest.skip("this cluster has no ingress controller")
    _wait_for(ingress + "/health")
    yield ingress + "/"


def _wait_for(url: str) -> None:
    """The controller may have to hear of the Ingress first."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(url, timeout=5):
            return
        assert time.monotonic() < end, url
        time.sleep(0.5)


def to_zero(product: Installed) -> None:
    """No pod of the model is left; its next request starts one."""
    selector = "--selector=aimodelserver.io/model=smollm2"
    product.kubectl("patch", "mdep", "smollm2", "--type=merge", "-p", '{"spec":{"autoscaling":{"idleSeconds":3}}}')
    end = time.monotonic() + 120
    while product.get("pods", selector)["items"]:
        assert time.monotonic() < end
        time.sleep(0.5)
    product.wait_ready("smollm2", 120)


def test_a_cold_start_and_an_answer(open_page: Open, quickstart: Installed, address: str) -> None:  # noqa: F811
    to_zero(quickstart)
    page = open_page(address)
    expect(page.locator("#where")).to_contain_text("cluster")
    choose(page, "smollm2")
    page.get_by_text("Parameters", exact=True).click()
    page.get_by_label("temperature").fill("0")
    page.get_by_label("max_tokens").fill("20")
    send(page, "What is the capital of France?")
    expect(page.locator("#chat .waiting progress")).to_be_visible()
    expect(page.locator("#chat > .assistant .markdown")).to_contain_text("Paris", timeout=240_000)
    expect(page.locator("#model-state")).to_have_text("ready")
    again = ask(page, "And of Italy?", number=1)
    expect(again.locator(".stats")).to_contain_text("tokens")


def test_models_and_what_kubectl_does(open_page: Open, quickstart: Installed, address: str) -> None:  # noqa: F811
    page = open_page(address + "#models")
    card = page.get_by_role("article", name="smollm2")
    expect(card.get_by_role("button", name="Ask smollm2")).to_be_visible()
    expect(card.get_by_role("button", name="Stop smollm2")).to_be_hidden()
    card.get_by_role("button", name="Log of smollm2").click()
    command = page.get_by_role("dialog").locator("pre")
    expect(command).to_have_text("kubectl logs deployment/ams-smollm2 -n ams --all-containers --tail=500")
