"""What a component imports is what it declares: no package is there only because another needs it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Folder to the extras that it is installed with.
COMPONENTS = {
    "common/ams_common": [],
    "common/ams_kube": ["gateway"],
    "common/ams_tracing": ["tracing"],
    "gateway": ["gateway"],
    "operator": ["operator"],
    "modelpod": ["pod"],
    "cli": ["local", "gateway", "pod"],
}
# NVIDIA's cuda-bindings come with torch where that is built for CUDA, and are of no use elsewhere.
WITH_TORCH = {"cuda", "cuda-bindings"}


@pytest.mark.parametrize("folder", COMPONENTS)
def test_imports_are_declared(folder: str) -> None:
    declared = _names(PROJECT["dependencies"])
    for extra in COMPONENTS[folder]:
        declared |= _names(PROJECT["optional-dependencies"][extra])
    declared |= WITH_TORCH if "torch" in declared else set()
    assert {names: where for names, where in _imported(ROOT / folder).items() if declared.isdisjoint(names)} == {}


def _names(requirements: list[str]) -> set[str]:
    return {_normalized(re.split(r"[^\w.-]", each, maxsplit=1)[0]) for each in requirements}


def _imported(folder: Path) -> dict[tuple[str, ...], str]:
    """Distributions that have each package that is imported, and a file that does."""
    distributions = packages_distributions()
    found: dict[tuple[str, ...], str] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules = [node.module]
            for package in {module.partition(".")[0] for module in modules}:
                if package not in sys.stdlib_module_names and not package.startswith("ams_"):
                    names = tuple(sorted({_normalized(name) for name in distributions.get(package, [package])}))
                    found.setdefault(names, path.relative_to(ROOT).as_posix())
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
