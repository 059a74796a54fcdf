"""Rendering the chart with helm, as far as there is one."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "ai-model-server"
KUBE_VERSION = "1.33"  # some builds of helm believe in a much older one when they have no cluster to ask


def find_helm() -> str | None:
    """helm of the PATH, else the test cluster's."""
    if found := shutil.which("helm"):
        return found
    unpacked = sorted(Path("/var/tmp/ams-cluster").glob("bin-*/helm"))
    return str(unpacked[-1]) if unpacked else None


HELM = find_helm()
needs_helm = pytest.mark.skipif(HELM is None, reason="there is no helm")


def helm(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)
    assert not check or done.returncode == 0, done.stderr
    return done


def render(values: dict[str, Any] | None = None, *, namespace: str = "ams") -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name without the release's prefix) → object."""
    text = helm_template(values, namespace=namespace).stdout
    objects = [document for document in yaml.safe_load_all(text) if document]
    found = {}
    for document in objects:
        name = document["metadata"]["name"].removeprefix("ams-ai-model-server").strip("-")
        place = document["metadata"].get("namespace", namespace)
        found[(document["kind"], name if place == namespace else f"{place}/{name}")] = document
    assert len(found) == len(objects)
    return found


def helm_template(
    values: dict[str, Any] | None = None, *, namespace: str = "ams", check: bool = True
) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    done = subprocess.run(
        [HELM, "template", "ams", str(CHART), "-n", namespace, "--kube-version", KUBE_VERSION, "-f", "-"],
        input=yaml.safe_dump(values or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not check or done.returncode == 0, done.stderr
    return done
