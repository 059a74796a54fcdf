"""Fixtures around the fake hub; a test module takes them with `pytest_plugins = ["fakehub.fixtures"]`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehub import checkpoints
from fakehub.server import FakeHub


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """A hub without models, on free ports of loopback."""
    with FakeHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint by kind (see fakehub.checkpoints.KINDS), made once a session."""
    base = tmp_path_factory.mktemp("checkpoints")

    def of(kind: str) -> Path:
        if (folder := base / kind).exists():
            return folder
        try:
            return checkpoints.make(kind, folder)
        except ImportError as error:
            pytest.skip(f"{kind} can't be made here: {error}")

    return of
