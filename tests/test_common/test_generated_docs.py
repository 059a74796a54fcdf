"""Generated pages and parts of pages say what the code says: `make docs` writes them."""

import re
from pathlib import Path

import pytest
from ams_common.lifecycle import Phase
from ams_common.reasons import ROWS
from ams_common.reference import with_tables
from ams_common.troubleshooting import page
from ams_common.why import page as why
from metrics_page import COMPONENTS, lines_of
from metrics_page import page as metrics_page

ROOT = Path(__file__).parents[2]


PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("document", PAGES)
def test_generated_parts_are_what_the_code_says(document: str) -> None:
    text = (ROOT / document).read_text()
    assert with_tables(text) == text, "run `make docs`"


def test_the_page_of_causes_is_what_the_table_says() -> None:
    assert (ROOT / "docs/why.md").read_text() == why.page(), "run `make docs`"


def test_the_troubleshooting_page_is_what_the_table_of_reasons_says() -> None:
    assert (ROOT / "docs/troubleshooting.md").read_text() == page(), "run `make docs`"


def test_every_reason_that_somebody_may_have_to_mend_has_a_section() -> None:
    headings = [line.removeprefix("### ").partition(":")[0] for line in page().splitlines() if line.startswith("### ")]
    assert sorted(headings) == sorted(
        reason for reason, row in ROWS.items() if row.phase is not Phase.READY or row.severity == "Warning"
    )


def test_the_metrics_page_is_what_the_components_expose() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page(), "run `make docs`"


def test_every_metric_in_the_code_is_on_the_page() -> None:
    packages = ("common", "gateway", "modelpod", "operator", "cli")
    source = "\n".join(path.read_text() for package in packages for path in (ROOT / package).rglob("*.py"))
    named = set(re.findall(r'"(ams_(?:gateway|operator|pod|download)_\w+)"', source))
    shown = {line.name.removesuffix("_total") for expose in COMPONENTS.values() for line in lines_of(expose())}
    assert named == shown, "give a new metric a series in tests/metrics_page.py and run `make docs`"


@pytest.mark.parametrize("document", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_files_that_the_map_names_exist(document: str) -> None:
    tracked = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    named = set(re.findall(r"(?<![\w./…])[a-z0-9_/]+[.]py\b", (ROOT / document).read_text()))
    assert named
    assert sorted(name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in tracked)) == []
