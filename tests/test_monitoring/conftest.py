"""Checkpoints for the products of these tests."""

from pathlib import Path

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable, which checkpoints need
import pytest
from fakehub import checkpoints


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model."""
    return checkpoints.make("llama", tmp_path_factory.mktemp("monitored") / "llama")
