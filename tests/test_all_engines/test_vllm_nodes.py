"""vLLM over two nodes, as two processes of this machine: the arguments that a leader and a worker get, and an answer.

Needs vLLM for CPUs and a folder of weights, as test_conformance.py does: AMS_VLLM and AMS_ENGINES_FOLDER.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ams_common.engines.vllm import ROW
from ams_common.engines.wishes import Member, wishes_of
from ams_common.resource.parse import parse_model_deployment
from test_all_engines.world import PATIENCE_SECONDS, program, why_not

HOST = "127.0.0.1"
# Traced but not compiled: an eager one skips the first run on CPUs, without which later stages of a pipeline fail.
VARIABLES = {"VLLM_HOST_IP": HOST, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
ON_A_CPU = ["--compilation-config", '{"mode": 2, "backend": "eager"}']


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def command(member: Member, port: int, meeting_port: int) -> list[str]:
    """As the operator makes it for a group of two, whose engines have one device each."""
    resource = parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "big"},
            "spec": {
                "model": {"source": "hf://acme/big"},
                "engine": {"name": "vllm", "nodes": 2, "args": [*ON_A_CPU, "--master-port", str(meeting_port)]},
                "resources": {"limits": {"nvidia.com/gpu": 1}},
                "cache": {"accessMode": "ReadWriteMany"},
                "limits": {"contextTokens": 512, "concurrentRequests": 2},
            },
        }
    )
    wishes = wishes_of(resource, model=os.environ["AMS_ENGINES_FOLDER"], host=HOST, port=port)
    assert ROW.joins is not None
    _, *words = ROW.command(wishes)
    return [str(program("vllm")), *words, *ROW.joins(member), *wishes.arguments]


@contextmanager
def started(words: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """With all that it starts, which ends with it."""
    environment = {**os.environ, **VARIABLES}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


@pytest.mark.skipif(why_not("vllm") is not None, reason=str(why_not("vllm")))
@pytest.mark.timeout(PATIENCE_SECONDS + 60)
def test_a_leader_and_a_worker_answer_together(tmp_path: Path) -> None:
    port, meeting_port = free_port(), free_port()
    leader = command(Member(leader=True, rank="0", address=HOST), port, meeting_port)
    worker = command(Member(leader=False, rank="1", address=HOST), port, meeting_port)
    logs = tmp_path / "leader.log", tmp_path / "worker.log"
    with started(leader, logs[0]) as first, started(worker, logs[1]) as second:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not answers(port):
            for process, log in ((first, logs[0]), (second, logs[1])):
                assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, logs[0].read_text(errors="replace")[-3000:]
            time.sleep(1)
        body = {"model": "big", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        request = urllib.request.Request(
            f"http://{HOST}:{port}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            found = json.load(answer)
        assert found["choices"][0]["text"].strip()
        assert found["usage"]["completion_tokens"] == 8
        assert b"rank 1 in world size 2 is assigned" in logs[1].read_bytes()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
