"""What the download makes of each listing in `hub_listings`: the same as preflight and `ams plan`."""

import json
import threading
from pathlib import Path

import pytest
from ams_common.hub_files import is_weights
from ams_pod.download.main import run
from fakehub.server import FakeHub
from hub_listings import LISTINGS, Listing, repository, source

pytest_plugins = ["fakehub.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # of the fake hub


@pytest.fixture
def models(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
    return tmp_path / "models"


@pytest.mark.parametrize("listing", [each for each in LISTINGS if not each.reason], ids=lambda each: each.name)
def test_the_weights_are_fetched_and_nothing_else(
    listing: Listing, hub: FakeHub, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(repository(listing))
    for variable in listing.spec.get("env", []):  # type: ignore[attr-defined]
        monkeypatch.setenv(variable["name"], variable["value"])
    assert download(listing, models) is None
    fetched = {path.name: path.stat().st_size for path in models.rglob("*") if path.is_file()}
    assert sum(size for name, size in fetched.items() if is_weights(name)) == listing.weights_bytes


@pytest.mark.parametrize("listing", [each for each in LISTINGS if each.reason], ids=lambda each: each.name)
def test_what_cannot_be_served_is_refused_before_its_weights_are_fetched(
    listing: Listing, hub: FakeHub, models: Path
) -> None:
    hub.add(repository(listing))
    failure = download(listing, models)
    assert failure is not None
    assert failure["reason"] == listing.reason
    assert listing.words in failure["message"]
    assert not [asked for asked in hub.requests if is_weights(asked.where) and asked.sent]


def download(listing: Listing, models: Path) -> dict[str, str] | None:
    """What the download says of its failure in the termination log; None after success."""
    log = models.with_name("termination-log")
    flags = ["--source", source(listing), "--models-dir", str(models), "--termination-log", str(log)]
    status: list[int] = []
    # Not on the main thread, whose signals the command would take over.
    worker = threading.Thread(target=lambda: status.append(run([*flags, "--progress-port", "-1"])))
    worker.start()
    worker.join(60)
    assert status, "the download hangs"
    said: dict[str, str] = json.loads(log.read_text())
    return said if status[0] else None
