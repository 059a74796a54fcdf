"""The same changed line for vLLM, in an image of the vLLM for CPUs that this machine has. It starts in minutes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cluster.clusters import Cluster
from test_cluster.conftest import Installed
from test_cluster.engine_pods import answers, change_engine, pod_of, restarts, stream

NAME = "wide"
IMAGE = "ams-vllm:e2e"
START_SECONDS = 600


def link_or_copy(source: str, target: str) -> None:
    """Gigabytes, that need not be there twice."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def vllm_image(cluster: Cluster, images: str) -> str:
    """Of AMS_VLLM: `bin/vllm` of a virtual environment of the Python that the image has."""
    program = os.environ.get("AMS_VLLM")
    if program is None:
        pytest.skip("needs vLLM for CPUs: AMS_VLLM names the program in its virtual environment")
    packages = list(Path(program).parent.parent.glob("lib/python3.11/site-packages"))
    if not packages:
        pytest.skip(f"the image has Python 3.11, and the environment of {program} another")
    here = Path(__file__).parent / "vllm"
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        shutil.copy(here / "Dockerfile", context)
        for name in ("vllm", "sitecustomize.py"):
            shutil.copy(here / name, context)
        (context / "vllm").chmod(0o755)
        unused = shutil.ignore_patterns("__pycache__", "tests")
        shutil.copytree(packages[0], context / "packages", copy_function=link_or_copy, ignore=unused)
        base = f"docker.io/library/ai-model-server-operator:{images}"
        cluster.build(IMAGE, context, context / "Dockerfile", BASE_IMAGE=base)
    return IMAGE


@pytest.fixture
def served(installed: Installed, vllm_image: str) -> Iterator[Installed]:
    """By the builtin engine first."""
    memory = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}
    limits = {"contextTokens": 256, "concurrentRequests": 4}
    engine = {"name": "builtin"}
    installed.apply(NAME, "hf://acme/wide", cache={"size": "2Gi"}, limits=limits, resources=memory, engine=engine)
    installed.wait_ready(NAME)
    yield installed
    installed.kubectl("delete", "mdep", NAME, "--wait=false")


@pytest.mark.timeout(2400)
def test_one_changed_line_is_vllm(served: Installed, vllm_image: str) -> None:
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "builtin"
    assert answers(served, NAME)
    engine: dict[str, Any] = {
        "args": ["--enforce-eager"],  # there is no compiler in the image
        "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}],
    }
    change_engine(served, NAME, {"name": "vllm", "image": vllm_image, **engine}, START_SECONDS)
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "vllm"
    assert answers(served, NAME)
    assert stream(served, NAME, 8)
    assert "vllm" in served.kubectl("logs", pod_of(served, NAME)["metadata"]["name"], "-c", "engine").lower()
    assert restarts(served, NAME) == 0
