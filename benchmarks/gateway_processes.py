"""The servers of the gateway benchmark: each started on a free port of loopback, watched, and ended after it."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

LITELLM = "litellm[proxy]==1.106.2"
SGLANG_ROUTER = "sglang-router==0.3.2"

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The capital of France is Paris."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20},
    }
)

_NGINX = """
daemon off; master_process off; worker_processes 1;
pid {folder}/nginx.pid; error_log {folder}/error.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_timeout 75s; keepalive_requests 1000000000;
  client_max_body_size 64m; client_body_buffer_size 1m;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {http}
}}
"""


class Missing(Exception):
    """A server can't take part; the message says why."""


@dataclass
class Process:
    """A running server. `url` is where wrk sends chat completions."""

    name: str
    version: str
    popen: "subprocess.Popen[bytes]"
    port: int
    path: str = "/v1/chat/completions"
    notes: list[str] = field(default_factory=list)
    key: str = ""  # that requests are sent with

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.path}"

    def cpu_seconds(self) -> float:
        """CPU time of the process and all below it, so far."""
        nanoseconds = 0
        for pid in self._tree():
            for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    nanoseconds += int(task.read_text().split()[0])
                except OSError:
                    continue
        return nanoseconds / 1e9

    def resident_bytes(self) -> int:
        total = 0
        for pid in self._tree():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            except OSError:
                continue
        return total

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.popen.pid, number)
                self.popen.wait(5)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def _tree(self) -> list[int]:
        """The process and its descendants: all of its session, which it leads."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[3]) == self.popen.pid:
                    pids.append(int(entry.name))
        return pids


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def nginx_stub(folder: Path) -> Process:
    """nginx answering as a pod, always the same small answer."""
    port = free_port()
    answer = "default_type application/json; add_header X-AMS-Usage 'prompt=12 completion=8'; return 200"
    http = f"server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ {answer} '{ANSWER}'; }} }}"
    return _nginx("stub", folder, port, http)


def nginx_proxy(folder: Path, stub: Process) -> Process:
    return nginx_proxy_to(folder, stub.port)


def nginx_proxy_to(folder: Path, pod_port: int, *, asked: str = "", streams: bool = False) -> Process:
    """nginx in front of a pod; it has started when it answers, to GET of the path `asked` where one is given.

    With `streams` it passes on what comes at once.
    """
    port = free_port()
    http = (
        f"upstream pod {{ server 127.0.0.1:{pod_port}; keepalive 256; keepalive_requests 1000000000; }} "
        f"server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ proxy_pass http://pod; "
        f"proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering {'off' if streams else 'on'}; }} }}"
    )
    return _nginx("nginx", folder, port, http, asked)


def gateway(folder: Path, backend_port: int, name: str = "ams-gateway") -> Process:
    """Ours, with everything on: metrics, one JSON log line a request."""
    port = free_port()
    command = [sys.executable, "-c", "from ams_gateway.main import main; main()", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend", f"m=http://127.0.0.1:{backend_port}", "--log-format", "json"]
    versions = _pip_versions(sys.executable, ("ai-model-server", "aiohttp", "uvloop"))
    return _start(name, versions, folder, command, port, _get(f"http://127.0.0.1:{port}/v1/models/m"))


def gateway_with_keys(folder: Path, backend_port: int, redis: str = "", name: str = "ams-gateway, all on") -> Process:
    """Ours with keys, limits on everything, ledger and audit log; limits by the Redis at `redis` if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    key = "ams-key-of-the-benchmark"
    stored = {
        "id": "k-benchmark",
        "name": "benchmark",
        "secrets": [{"sha256": hashlib.sha256(key.encode()).hexdigest()}],
        "scopes": ["generate"],
        "requests_per_minute": 10**9,
        "tokens_per_minute": 10**12,
        "concurrent_requests": 10**6,
        "monthly_tokens": 10**14,
    }
    others = [
        {"id": f"k-{number}", "name": f"other-{number}", "secrets": [{"sha256": f"{number:064x}"}]}
        for number in range(1000)
    ]
    (folder / "keys.json").write_text(json.dumps({"version": 1, "keys": [*others, stored]}))
    port = free_port()
    command = [sys.executable, "-c", "from ams_gateway.main import main; main()", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend", f"m=http://127.0.0.1:{backend_port}", "--log-format", "json"]
    command += ["--keys-file", str(folder / "keys.json"), "--audit-log", str(folder / "audit.log")]
    command += ["--usage-file", str(folder / "usage.db")]
    if redis:
        command += ["--redis-url", redis]
    versions = _pip_versions(sys.executable, ("ai-model-server", "aiohttp", "uvloop", "redis"))
    process = _start(name, versions, folder, command, port, _get(f"http://127.0.0.1:{port}/v1/models/m", key))
    process.key = key
    return process


def gateway_of_processes(folder: Path, backend_port: int, redis: str, processes: int) -> Process:
    """Ours as several processes on one port, without keys."""
    port = free_port()
    command = [sys.executable, "-c", "from ams_gateway.main import main; main()", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend", f"m=http://127.0.0.1:{backend_port}", "--log-format", "json"]
    command += ["--processes", str(processes), "--metrics-port", str(free_port()), "--redis-url", redis]
    versions = _pip_versions(sys.executable, ("ai-model-server", "aiohttp", "uvloop", "redis"))
    ready = _get(f"http://127.0.0.1:{port}/v1/models/m")
    return _start(f"ams-gateway, {processes} processes", versions, folder, command, port, ready)


def redis_server(folder: Path) -> Process:
    """A Redis without persistence, as fast as it gets."""
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("redis-server is not installed (apt-get install redis-server)")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return _start("redis", version[2] if len(version) > 2 else "?", folder, command, port, lambda: _connects(port))


def sglang_router(folder: Path, stub: Process, cache: Path) -> Process:
    python = _venv(cache, "sglang-router", SGLANG_ROUTER)
    port = free_port()
    command = [str(python), "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{stub.port}", "--policy", "round_robin"]
    command += ["--log-level", "warn", "--prometheus-port", str(free_port())]
    return _start(
        "sglang-router", _pip_versions(python, ("sglang-router",)), folder, command, port, _post(port), seconds=60
    )


def litellm(folder: Path, stub: Process, cache: Path, *, keys: bool = False) -> Process:
    """`keys`: with a master key that requests are sent with; virtual keys need a PostgreSQL and prisma's engines."""
    python = _venv(cache, "litellm", LITELLM)
    port = free_port()
    model = {"model": "openai/m", "api_base": f"http://127.0.0.1:{stub.port}/v1", "api_key": "none"}
    configuration = {
        "model_list": [{"model_name": "m", "litellm_params": model}],
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # no keys, as for the others
    }
    key = "sk-of-the-benchmark" if keys else ""
    if keys:
        configuration["general_settings"] = {"master_key": key}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(json.dumps(configuration))
    command = [str(python.parent / "litellm"), "--config", str(folder / "config.yaml"), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--telemetry", "False"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    name = "litellm, master key" if keys else "litellm"
    process = _start(
        name, _pip_versions(python, ("litellm",)), folder, command, port, _post(port, key), environment, seconds=120
    )
    process.key = key
    return process


def _nginx(name: str, folder: Path, port: int, http: str, asked: str = "") -> Process:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise Missing("nginx is not installed (apt-get install nginx-light)")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, http=http))
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr.strip()
    command = [program, "-c", str(folder / "nginx.conf")]
    answers = _get(f"http://127.0.0.1:{port}{asked}") if asked else _post(port)
    return _start(name, version.removeprefix("nginx version: "), folder, command, port, answers)


def _start(
    name: str,
    version: str,
    folder: Path,
    command: list[str],
    port: int,
    ready: Callable[[], bool],
    environment: dict[str, str] | None = None,
    seconds: float = 20,
) -> Process:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("wb") as log:
        popen = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **(environment or {})}
        )
    process = Process(name, version, popen, port)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if popen.poll() is not None:
            break
        if ready():
            return process
        time.sleep(0.1)
    process.stop()
    last = (folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
    raise Missing(f"it did not start: {last[0] if last else 'no word'}")


def _connects(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False


def _get(url: str, key: str = "") -> Callable[[], bool]:
    return lambda: _answers(urllib.request.Request(url, headers=_headers(key)))


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _post(port: int, key: str = "") -> Callable[[], bool]:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return lambda: _answers(urllib.request.Request(url, body, {"Content-Type": "application/json"} | _headers(key)))


def _answers(request: urllib.request.Request) -> bool:
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _venv(cache: Path, name: str, requirement: str) -> Path:
    """The python of a peer's own environment, made at the first run."""
    folder = cache / "venvs" / f"{name}-{requirement.rpartition('=')[2]}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"installing {requirement} into {folder}", file=sys.stderr, flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True)
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", requirement], check=True, capture_output=True, timeout=900
            )
        except (subprocess.SubprocessError, OSError) as error:
            output = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
            raise Missing(f"{requirement} can't be installed: {output[-1] if output else error}") from None
        (folder / "complete").touch()
    return python


def _pip_versions(python: str | Path, names: tuple[str, ...]) -> str:
    script = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    found = subprocess.run([str(python), "-c", script, *names], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
