"""A hook of mkdocs: files outside docs/ that its pages link to become part of the site, and links between them hold.

Pages link to each other as they lie in the repository, so that they can be read there as well. A link to a file that
the site doesn't have is a warning, which ends a strict build.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
logger = logging.getLogger("mkdocs.hooks.repository")

# Where files of the repository are on the site; those of docs/ keep their places.
PAGES = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
_FOLDERS = ("examples", "crds", "charts/ai-model-server")
_SUFFIXES = (".yaml", ".yml", ".json", ".lua")
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / path).read_text()))
    for path in _linked_files():
        files.append(File.generated(config, _place(path), abs_src_path=str(ROOT / path)))
    for folder in ("decisions", "examples"):
        files.append(File.generated(config, f"{folder}/index.md", content=_index(folder)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    source = next((path for path, place in PAGES.items() if place == here), f"docs/{here}")

    def moved(found: "re.Match[str]") -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["path"]))
        place = _place(target)
        if files.get_file_from_path(place) is None:
            logger.warning("%s links to %s, which the site doesn't have", source, target)
        return posixpath.relpath(place, posixpath.dirname(here) or ".") + (found["anchor"] or "")

    return _LINK.sub(moved, markdown)


def _place(path: str) -> str:
    """Where a file or folder of the repository is on the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        place = path.removeprefix("docs/")
        return place if posixpath.splitext(place)[1] else f"{place}/index.md"
    if path == "LICENSE":
        return "files/LICENSE.txt"
    return "examples/index.md" if path == "examples" else f"files/{path}"


def _linked_files() -> Iterator[str]:
    yield "LICENSE"
    for folder in _FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in _SUFFIXES and "templates" not in path.parts:
                yield path.relative_to(ROOT).as_posix()


def _index(folder: str) -> str:
    if folder == "examples":
        lines = [
            f"- [{path.name}](../files/examples/{path.name}): {path.read_text().splitlines()[0].lstrip('# ')}"
            for path in sorted((ROOT / "examples").glob("*.yaml"))
        ]
        return "# Examples\n\n" + "\n".join(lines) + "\n"
    lines = [
        f"- [{path.name[:4]}: {path.read_text().splitlines()[0].lstrip('# ')}]({path.name})"
        for path in sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    ]
    return "# Decisions\n\nWhat was chosen where there was a real alternative, and why.\n\n" + "\n".join(lines) + "\n"
