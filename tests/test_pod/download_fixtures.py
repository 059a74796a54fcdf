"""A tiny model on the fake hub, and a place to download it to."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehub.repository import Repository
from fakehub.server import FakeHub
from test_pod.download_model import TINY
from test_pod.download_process import Downloads


@pytest.fixture
def downloads(hub: FakeHub, tmp_path: Path) -> Iterator[Downloads]:
    """Downloads from the hub into an empty models folder."""
    downloads = Downloads(tmp_path, hub.url)
    yield downloads
    downloads.end()


@pytest.fixture
def commit(hub: FakeHub) -> str:
    """The commit of acme/tiny."""
    return hub.add(Repository("acme/tiny")).commit(TINY)
