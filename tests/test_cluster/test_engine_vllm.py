"""The same changed line for vLLM, in an image of the vLLM for CPUs that this machine has. It starts in minutes."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_cluster.clusters import Cluster
from test_cluster.conftest import Installed
from test_cluster.engine_pods import answers, asked, change_engine, pod_of, restarts, stream

NAME = "wide"
IMAGE = "ams-vllm:e2e"
ADAPTED = "adapted"
START_SECONDS = 600
LIST_SECONDS = 240  # in which the kubelet brings another list, which takes it up to a minute and a half
ENGINE: dict[str, Any] = {
    "name": "vllm",
    "args": ["--enforce-eager"],  # there is no compiler in the image
    "env": [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}],
}
MEMORY = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "6Gi"}}
LIMITS = {"contextTokens": 256, "concurrentRequests": 4}


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
    engine = {"name": "builtin"}
    installed.apply(NAME, "hf://acme/wide", cache={"size": "2Gi"}, limits=LIMITS, resources=MEMORY, engine=engine)
    installed.wait_ready(NAME)
    yield installed
    installed.kubectl("delete", "mdep", NAME, "--wait=false")


@pytest.mark.timeout(2400)
def test_one_changed_line_is_vllm(served: Installed, vllm_image: str) -> None:
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "builtin"
    assert answers(served, NAME)
    change_engine(served, NAME, {**ENGINE, "image": vllm_image}, START_SECONDS)
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "vllm"
    assert answers(served, NAME)
    assert stream(served, NAME, 8)
    assert "vllm" in served.kubectl("logs", pod_of(served, NAME)["metadata"]["name"], "-c", "engine").lower()
    assert restarts(served, NAME) == 0


def adapters(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "source": f"hf://acme/wide-{name}"} for name in names]


@pytest.fixture
def adapted(installed: Installed, vllm_image: str) -> Iterator[Installed]:
    """By vLLM, with one adapter."""
    installed.apply(
        ADAPTED, "hf://acme/wide", cache={"size": "2Gi"}, limits=LIMITS, resources=MEMORY,
        engine={**ENGINE, "image": vllm_image}, adapters=adapters("french"),
    )  # fmt: skip
    installed.wait_ready(ADAPTED, START_SECONDS)
    yield installed
    installed.kubectl("delete", "mdep", ADAPTED, "--wait=false")


def change_adapters(installed: Installed, *names: str) -> None:
    change = {"spec": {"adapters": adapters(*names)}}
    installed.kubectl("patch", "mdep", ADAPTED, "--type=merge", "-p", json.dumps(change))


@pytest.mark.timeout(2400)
def test_adapters_come_and_go_and_the_pod_stays(adapted: Installed) -> None:
    adapted.wait_for_reason(ADAPTED, "AdaptersReady", "AdaptersLoaded")
    before = pod_of(adapted, ADAPTED)
    assert [each["name"] for each in before["spec"]["containers"]] == ["serve", "engine", "adapters"]
    plain, french = answers(adapted, ADAPTED), answers(adapted, f"{ADAPTED}:french")
    assert plain != french
    change_adapters(adapted, "french", "sql", "typo")
    began = time.monotonic()
    found = adapted.wait_for_reason(ADAPTED, "AdaptersReady", "AdapterFailed", LIST_SECONDS)
    print(f"told after {time.monotonic() - began:.0f} s")
    assert "wide-typo" in found["message"]
    states = {each["name"]: each["state"] for each in adapted.get("mdep", ADAPTED)["status"]["adapters"]}
    assert states == {"french": "Ready", "sql": "Ready", "typo": "Failed"}
    assert answers(adapted, f"{ADAPTED}:sql") not in (plain, french)
    change_adapters(adapted, "sql")
    status, _ = adapted.post("/v1/chat/completions", asked(f"{ADAPTED}:french"))
    assert status == 404
    adapted.wait_for_reason(ADAPTED, "AdaptersReady", "AdaptersLoaded", LIST_SECONDS)
    assert answers(adapted, ADAPTED) == plain
    after = pod_of(adapted, ADAPTED)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert not any(each["restartCount"] for each in after["status"]["containerStatuses"])
