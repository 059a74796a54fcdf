"""The locks of the images name every dependency, in the versions that are tested, with hashes and without any host."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {"operator": ["gateway", "operator"], "pod": ["gateway", "pod", "local"]}
OF_ANOTHER_INDEX = {"torch", "torchvision"}


def locked(name: str) -> dict[str, list[str]]:
    """Package to its versions (several where markers tell them apart)."""
    versions: dict[str, list[str]] = {}
    for line in (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            requirement = Requirement(line.removesuffix("\\"))
            versions.setdefault(canonicalize_name(requirement.name), []).append(str(requirement.specifier)[2:])
    return versions


def wanted(name: str) -> list[Requirement]:
    texts = [
        *PROJECT["dependencies"],
        *(each for extra in EXTRAS[name] for each in PROJECT["optional-dependencies"][extra]),
    ]
    return [
        each for each in map(Requirement, texts) if each.name != PROJECT["name"] and each.name not in OF_ANOTHER_INDEX
    ]


@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_locked_as_it_may_be(name: str) -> None:
    versions = locked(name)
    for requirement in wanted(name):
        found = versions.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is in no lock: make locks"
        assert all(version in requirement.specifier for version in map(Version, found)), requirement


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_images_run_the_versions_that_are_tested(name: str) -> None:
    constraints = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    versions = locked(name)
    for pinned in constraints:
        for version in versions.get(canonicalize_name(pinned.name), ()):
            assert version in pinned.specifier, f"{pinned.name}: make locks"


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_every_package_has_hashes_and_nothing_names_a_host(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.txt").read_text(encoding="utf-8")
    assert "://" not in text
    packages = re.findall(r"^\S.*\n(?:[ \t].*\n)*", text, re.MULTILINE)
    assert "".join(packages) == text
    for package in packages:
        assert re.fullmatch(r"[a-z0-9._-]+==\S+ (; .* )?\\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", package), (
            package
        )
    assert not OF_ANOTHER_INDEX & set(locked(name))


@pytest.mark.parametrize("name", ["operator", "pod"])
def test_an_image_installs_nothing_but_what_is_locked(name: str) -> None:
    lines = (ROOT / f"Dockerfile.{name}").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install [^&\n]*", lines)
    assert len(installs) >= 3
    for install in installs:
        hashed = "--require-hashes --no-deps -r locks/" in re.sub(r" +", " ", install)
        ours = "--no-deps --no-build-isolation ." in install
        torch = "--constraint pins.txt" in install and install.split()[-2:] == ["torch", "torchvision"]
        assert hashed or ours or (torch and name == "pod"), install
