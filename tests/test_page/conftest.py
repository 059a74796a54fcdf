"""One `ams up` with all kinds of models."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable, which checkpoints need
import pytest
from fakehub import checkpoints, scripted
from test_page.browser import browser, open_page  # noqa: F401  # fixtures
from test_page.product import Product, ams_up, manifest, nginx, write_key_file

THOUGHTS = (" let me", " see", " <script>window.pwned=1</script>")
ANSWER = (
    "\n\n", "Hello **world**, `x < y`.", "\n\n- one\n- two\n\n", '<img src=x onerror="window.pwned=1">',
    "\n\n```js\n", 'alert("<b>hi</b>")', "\n```\n", "<svg/onload=alert(1)> [click](javascript:alert(1))",
)  # fmt: skip
FAMILIES = {"qwen-vl": "qwen2_5_vl", "qwen-audio": "qwen2_audio", "qwen-omni": "qwen2_5_omni", "blip-vqa": "blip_vqa"}


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
