"""The pictures of the docs are drawn from the dashboards' own files, and are there."""

import json
import re
from typing import Any

import pytest
from PIL import Image

from dashboards.panels import Board
from dashboards.pictures import Source, drawn, formatted
from dashboards.render import BOARDS, FOLDER, file_name
from dashboards.rules import ROOT

PICTURES = ROOT / "docs" / "pictures"
_MOST_BYTES = 150_000


class Invented(Source):
    """Series of every label, and none for every third question."""

    asked = 0

    def _get(self, what: str, **query: object) -> list[dict[str, Any]]:
        self.asked += 1
        if self.asked % 3 == 0:
            return []
        metric = {"model": "ams/tiny", "pod": "p", "code": "200", "key": "team"}
        if what == "query":
            return [{"metric": metric, "value": [self.end, "0.5"]}]
        return [{"metric": metric, "values": [[self.end - 9, "1"], [self.end, "NaN"], [self.end - 5, "2"]]}]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_is_drawn(board: Board) -> None:
    picture = drawn(json.loads((FOLDER / file_name(board)).read_text()), Invented("http://x", 60, 1_000_000.0))
    assert picture.width > 1000
    assert len(picture.getcolors() or ()) > 5


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_the_docs_have_a_picture_of_it(board: Board) -> None:
    name = f"dashboard-{board.uid.removeprefix('ams-')}.png"
    assert f"(pictures/{name})" in (ROOT / "docs" / "monitoring.md").read_text()
    path = PICTURES / name
    assert path.stat().st_size < _MOST_BYTES
    with Image.open(path) as picture:
        assert picture.width > 1000


def test_no_picture_is_of_nothing() -> None:
    named = set(re.findall(r"pictures/(dashboard-\w+[.]png)", (ROOT / "docs" / "monitoring.md").read_text()))
    assert {path.name for path in PICTURES.glob("dashboard-*.png")} == named


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "percentunit", "50 %"),
        (0.0, "s", "0 s"),
        (0.00025, "s", "250 µs"),
        (0.25, "s", "250 ms"),
        (90.0, "s", "90 s"),
        (7200.0, "s", "2 h"),
        (3 << 30, "bytes", "3 GiB"),
        (2048.0, "Bps", "2 KiB/s"),
        (1000.0, "bytes", "1000 B"),
        (1500.0, "tok/s", "1.5 K tok/s"),
        (3.0, "reqps", "3 req/s"),
        (12.0, "short", "12"),
        (float("nan"), "short", "–"),
    ],
)
def test_numbers_are_written_with_their_units(value: float, unit: str, text: str) -> None:
    assert formatted(value, unit) == text
