"""What a test came to, and the page that tells it of all: AMS_ENGINES_PAGE names the file."""

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from test_all_engines import page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        item.called = report  # type: ignore[attr-defined]
    return report


def pytest_sessionfinish() -> None:
    """Columns of engines that weren't tried stay as the page has them."""
    if name := os.environ.get("AMS_ENGINES_PAGE"):
        target = Path(name)
        target.write_text(page.text(target.read_text() if target.is_file() else ""))
