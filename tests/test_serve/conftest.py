"""One pod of each kind, one fork server and one gateway for the whole run: starting them takes longest."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable, which checkpoints need
import pytest
import uvloop
from ams_common.keys import KeyFile, Secret, StoredKey, hash_of, write_keys
from fakehub import checkpoints, scripted
from test_serve.live_pods import (
    LiveForkServer,
    LiveGateway,
    LivePod,
    child_pod,
    fork_server,
    gateway_process,
    pod_process,
)

KEY_OF_SPEAKERS = "ams-key-of-the-speakers"
FIVE = {
    "deepseek": "qwen3",
    "qwen-vl": "qwen2_5_vl",
    "qwen-audio": "qwen2_audio",
    "qwen-omni": "qwen2_5_omni",
    "blip-vqa": "blip_vqa",
}


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="session")
def llama(folder: Path) -> Path:
    """A checkpoint with 2,048 tokens of context and ChatML."""
    return checkpoints.make("llama", folder / "llama")


@pytest.fixture(scope="session")
def long_llama(folder: Path, llama: Path) -> Path:
    """The same with a long context: its answers last for seconds."""
    copy = Path(shutil.copytree(llama, folder / "long-llama"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 100_000}))
    return copy


@pytest.fixture(scope="session")
def qwen3(folder: Path) -> Path:
    """A checkpoint that knows <think>."""
    return checkpoints.make("qwen3", folder / "qwen3")


@pytest.fixture(scope="session")
def forks(folder: Path) -> Iterator[LiveForkServer]:
    with fork_server(folder / "forkserver.log") as server:
        yield server


@pytest.fixture(scope="session")
def tiny(folder: Path, llama: Path) -> Iterator[LivePod]:
    """The pod of most tests, started as a container starts it."""
    with pod_process(folder, llama, "tiny", aliases="gpt-tiny,other_name") as (pod, _):
        yield pod.wait_ready()


@pytest.fixture(scope="session")
def reasoner(folder: Path, qwen3: Path, forks: LiveForkServer) -> Iterator[LivePod]:
    with child_pod(forks, folder, qwen3, "reasoner") as pod:
        yield pod


@pytest.fixture(scope="session")
def gateway(folder: Path, tiny: LivePod, reasoner: LivePod) -> Iterator[LiveGateway]:
    """A gateway process in front of `tiny` and `reasoner`."""
    with gateway_process(folder, tiny, reasoner) as running:
        yield running


@pytest.fixture(scope="session")
def narrow(folder: Path, long_llama: Path, forks: LiveForkServer) -> Iterator[LivePod]:
    """Two requests at a time, one more waits; answers last for seconds."""
    limits = {"concurrent_requests": 2, "queued_requests": 1, "max_new_tokens": 50_000}
    with child_pod(forks, folder, long_llama, "narrow", **limits) as pod:
        yield pod


@pytest.fixture(scope="session")
def hasty(folder: Path, long_llama: Path, forks: LiveForkServer) -> Iterator[LivePod]:
    """Requests that take longer than half a second time out."""
    limits = {"request_timeout_seconds": 0.5, "max_new_tokens": 50_000}
    with child_pod(forks, folder, long_llama, "hasty", **limits) as pod:
        yield pod


@pytest.fixture(scope="session")
def five(folder: Path, forks: LiveForkServer) -> Iterator[dict[str, LivePod]]:
    """A pod of each family, under the older server's names."""
    (folder / "temp").mkdir()
    with ExitStack() as running:
        yield {
            name: running.enter_context(
                child_pod(
                    forks, folder, checkpoints.make(kind, folder / f"five-{kind}"), name, temp_dir=folder / "temp"
                )
            )
            for name, kind in FIVE.items()
        }


@pytest.fixture(scope="session")
def older(folder: Path, five: dict[str, LivePod]) -> Iterator[LiveGateway]:
    """A gateway in front of the five."""
    logs = folder / "older"
    logs.mkdir()
    with gateway_process(logs, *five.values(), admin_paths=True) as running:
        yield running


@pytest.fixture(scope="session")
def speaking_pods(folder: Path, forks: LiveForkServer) -> Iterator[tuple[LivePod, ...]]:
    """Models whose greedy answer is known: one that reasons, one that writes spaces as SentencePiece does."""
    logs = folder / "speakers"
    logs.mkdir()
    thinker, spaced = scripted.thinker(logs / "think"), scripted.spaces(logs / "spaces")
    with (
        child_pod(forks, logs, thinker, "think") as first,
        child_pod(forks, logs, spaced, "spaces") as second,
        child_pod(forks, logs, spaced, "short", max_new_tokens=2) as third,
    ):
        yield first, second, third


@pytest.fixture(scope="session")
def speakers(speaking_pods: tuple[LivePod, ...]) -> Iterator[LiveGateway]:
    """A gateway in front of them."""
    with gateway_process(speaking_pods[0].log.parent, *speaking_pods) as running:
        yield running


@pytest.fixture(scope="session")
def locked_speakers(folder: Path, speaking_pods: tuple[LivePod, ...]) -> Iterator[LiveGateway]:
    """One that needs KEY_OF_SPEAKERS."""
    logs = folder / "locked-speakers"
    logs.mkdir()
    key = StoredKey(id="k-speakers", name="speakers", secrets=(Secret(sha256=hash_of(KEY_OF_SPEAKERS)),))
    (logs / "keys.json").write_bytes(write_keys(KeyFile(keys=(key,))))
    with gateway_process(logs, *speaking_pods, keys_file=logs / "keys.json") as running:
        yield running
