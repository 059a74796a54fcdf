"""One `ams up` with all kinds of models, and a Chromium that fails a test for whatever it complains about."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable, which checkpoints need
import pytest
from fakehub import checkpoints, scripted
from test_page.product import CHROMIUM, PATIENCE_MS, Product, ams_up, manifest, nginx, write_key_file

if CHROMIUM is None:
    pytest.skip("Chromium isn't installed (apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed (pip install playwright)")

playwright.expect.set_options(timeout=PATIENCE_MS)
THOUGHTS = (" let me", " see", " <script>window.pwned=1</script>")
ANSWER = (
    "\n\n", "Hello **world**, `x < y`.", "\n\n- one\n- two\n\n", '<img src=x onerror="window.pwned=1">',
    "\n\n```js\n", 'alert("<b>hi</b>")', "\n```\n", "<svg/onload=alert(1)> [click](javascript:alert(1))",
)  # fmt: skip
FAMILIES = {"qwen-vl": "qwen2_5_vl", "qwen-audio": "qwen2_audio", "qwen-omni": "qwen2_5_omni", "blip-vqa": "blip_vqa"}
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox")
# What a browser logs of responses that a test asks for.
EXPECTED = ("Failed to load resource:",)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints by the name of their model."""
    folder = tmp_path_factory.mktemp("page-models")
    made = {"writer": scripted.writer(folder / "writer", THOUGHTS, ANSWER)}
    made["long"] = scripted.endless(folder / "long")
    made["cold"] = Path(shutil.copytree(made["writer"], folder / "cold"))
    return made | {name: checkpoints.make(kind, folder / name) for name, kind in FAMILIES.items()}


@pytest.fixture(scope="session")
def product(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[Product]:
    """Where there are no keys."""
    manifests = [
        manifest(name, source, env=[{"name": "OMP_NUM_THREADS", "value": "1"}]) for name, source in models.items()
    ]
    manifests.append(manifest("broken", "file:///nowhere/to/be/found"))
    with ams_up(tmp_path_factory.mktemp("page-open"), manifests) as running:
        yield running


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> Iterator[Product]:
    """Where keys are needed."""
    folder = tmp_path_factory.mktemp("page-locked")
    keys = write_key_file(folder / "keys" / "keys.json")
    manifests = [manifest(name, models[name]) for name in ("writer", "cold")]
    with ams_up(folder, manifests, "--keys-file", str(keys)) as running:
        yield running


@pytest.fixture(scope="session")
def behind_proxy(tmp_path_factory: pytest.TempPathFactory, product: Product) -> Iterator[str]:
    """The page below a path of nginx."""
    with nginx(tmp_path_factory.mktemp("page-nginx"), product.url, "/team/models/") as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
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
    assert [complaint for complaint in complaints if not any(text in complaint for text in EXPECTED)] == []
