"""The documentation as a site: no dead link, no page that nothing leads to, nothing fetched from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OUTSIDE = re.compile(r"""(?:<script[^>]*\ssrc|<link[^>]*\shref|<img[^>]*\ssrc)=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--config-file", ROOT / "site" / "mkdocs.yml", "--site-dir", folder],
        capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_every_link_leads_somewhere(site: Path) -> None:
    assert (site / "journeys" / "try.html").is_file()
    for page in site.rglob("*.html"):
        text = page.read_text()
        for link in re.findall(r'<a[^>]*\shref="([^"#:]+)(?:#[^"]*)?"', text):
            if page.name != "404.html":
                target = (page.parent / link).resolve()
                assert target.exists(), f"{page.relative_to(site)} links to {link}"


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not _OUTSIDE.search(page.read_text()), page


def test_pages_can_be_searched(site: Path) -> None:
    index = (site / "search" / "search_index.json").read_text()
    for word in ("quantization", "AMSModelNotReady", "unsupported_modality"):
        assert word in index
