"""The fork server as `ams up` uses it: what it promises of its own process, and how its children live and end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_serve.live_pods import PATIENCE_SECONDS, LiveForkServer, child_pod, fork_server

# Runs in a process of its own. The mode sees every operator that reaches torch's dispatcher from this thread, the
# profiler those of all threads: a fork after either computed could hang on locks of a pool that the child lacks.
_WATCHED_PRELOAD = """
import asyncio, os, sys, threading
from ams_pod import forkserver
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

seen = []

class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, operator, types, arguments=(), named=None):
        seen.append(str(operator))
        return operator(*arguments, **(named or {}))

with profile(activities=[ProfilerActivity.CPU]) as profiler, Watch():
    if sys.argv[1] == "compute":
        torch.ones(300, 300) @ torch.ones(300, 300)
    forkserver.preload()
seen += [event.key for event in profiler.key_averages() if event.key.startswith("aten::")]
assert not seen, seen
assert "ams_pod.engines.builtin.opener" in sys.modules and "ams_pod.serve.server" in sys.modules
assert threading.active_count() == 1
assert asyncio._get_running_loop() is None
uvloop_policy = type(asyncio.get_event_loop_policy()).__module__.startswith("uvloop")
assert not uvloop_policy
assert not torch.cuda.is_initialized()
print("nothing was computed")
"""


def _preload(what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WATCHED_PRELOAD, what], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )


def test_importing_computes_nothing() -> None:
    done = _preload("nothing more")
    assert done.stdout == "nothing was computed\n", done.stderr


def test_a_computation_would_have_been_seen() -> None:
    done = _preload("compute")
    assert done.returncode == 1
    assert "aten" in done.stderr


def test_the_parent_has_one_thread(forks: LiveForkServer) -> None:
    assert len(os.listdir(f"/proc/{forks.process.pid}/task")) == 1
    pollers = [link.name for link in Path(f"/proc/{forks.process.pid}/fd").iterdir() if _target(link) == "eventpoll"]
    assert len(pollers) == 1  # its own selector; a loop would bring another


def _target(link: Path) -> str:
    return os.readlink(link).removeprefix("anon_inode:").strip("[]")


def test_children_answer_and_the_parent_stays_as_it_was(forks: LiveForkServer, folder: Path, llama: Path) -> None:
    with child_pod(forks, folder, llama, "one") as one, child_pod(forks, folder, llama, "two") as two:
        for pod in (one, two):
            answer = pod.client.post("/generate", {"prompt": "hi", "max_new_tokens": 3, "temperature": 0})
            assert answer.status == 200
            assert answer.json()["model"] == pod.name
        assert len(os.listdir(f"/proc/{forks.process.pid}/task")) == 1
        assert _parent(one.pid) == _parent(two.pid) == forks.process.pid


def test_several_children_at_once(forks: LiveForkServer, folder: Path, llama: Path) -> None:
    started = [forks.start_pod(folder, llama, f"many-{number}") for number in range(3)]
    bodies = [
        pod.wait_ready().client.post("/generate", {"prompt": "hi", "max_new_tokens": 5, "temperature": 0}).json()
        for pod, _ in started
    ]
    assert len({body["response"] for body in bodies}) == 1
    for pod, number in started:
        os.kill(pod.pid, signal.SIGTERM)
        ended = forks.wait_event("exited", number)
        assert (ended["pid"], ended["code"], ended["signal"]) == (pod.pid, 0, None)


def test_a_childs_end_is_told(forks: LiveForkServer, folder: Path, llama: Path, tmp_path: Path) -> None:
    number = forks.ask(["no-such-command"], tmp_path / "log")
    assert forks.wait_event("exited", number)["code"] == 2
    assert "usage: ams-pod" in (tmp_path / "log").read_text()
    pod, number = forks.start_pod(folder, llama, "shot")
    os.kill(pod.pid, signal.SIGKILL)
    ended = forks.wait_event("exited", number)
    assert (ended["code"], ended["signal"]) == (None, signal.SIGKILL)


def test_a_log_that_cannot_be_written_keeps_no_child_from_starting(forks: LiveForkServer, tmp_path: Path) -> None:
    number = forks.ask(["--help"], tmp_path / "no-such-folder" / "log")
    assert forks.wait_event("exited", number)["code"] == 0


def test_the_environment_is_the_childs_alone(forks: LiveForkServer, tmp_path: Path, llama: Path) -> None:
    number = forks.ask(["serve"], tmp_path / "log", {"AMS_NAME": "x", "AMS_SOURCE": "file:///nowhere"})
    assert forks.wait_event("exited", number)["code"] == 1
    number = forks.ask(["serve"], tmp_path / "log2")
    assert forks.wait_event("exited", number)["code"] == 2
    assert "--name (or AMS_NAME) is required" in (tmp_path / "log2").read_text()


@pytest.mark.parametrize("how", ["socket closes", "SIGTERM", "SIGKILL"])
def test_its_end_is_its_childrens_end(folder: Path, llama: Path, tmp_path: Path, how: str) -> None:
    with fork_server(tmp_path / "log") as server:
        pods = [server.start_pod(tmp_path, llama, f"orphan-{number}")[0] for number in range(2)]
        for pod in pods:
            pod.wait_ready()
        if how == "socket closes":
            server.control.close()
        else:
            server.process.send_signal(getattr(signal, how))
        server.process.wait(PATIENCE_SECONDS)
        for pod in pods:
            _until_gone(pod.pid)
    assert "Traceback" not in (tmp_path / "log").read_text()


def _until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline, f"process {pid} outlived its fork server"
        time.sleep(0.01)


def _state(pid: int) -> str:
    """The process's state, Z for one that ended and whom nobody waited for; nothing if there is none."""
    return _stat(pid)[0] if _stat(pid) else ""


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the name: state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
