"""`ams up` with tiny models of every kind, a browser, and what stands between them."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ams_common.keys import KeyFile, Scope, Secret, StoredKey, hash_of, write_keys

PAGE_DOC = Path(__file__).parents[2] / "docs" / "page.md"
CHIEF, MEMBER = "ams-key-of-the-chief", "ams-key-of-a-member"


def manifest(name: str, source: Path | str, **spec: Any) -> str:
    """A model at zero until it is asked."""
    address = source if isinstance(source, str) else f"file://{source}"
    resource = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {"model": {"source": address}, "autoscaling": {"idleSeconds": 600}, **spec},
    }
    return json.dumps(resource)


@dataclass
class Product:
    """A running `ams up`."""

    url: str
    folder: Path

    def stop(self, model: str) -> None:
        """Have the model at zero."""
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.url}admin/models/{model}/stop", b"", headers, method="POST")
        urllib.request.urlopen(asked, timeout=10).close()
        deadline = time.monotonic() + 30
        while self._state(model) != "idle":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _state(self, model: str) -> str:
        with urllib.request.urlopen(f"{self.url}v1/models/{model}", timeout=10) as response:
            state: str = json.load(response)["state"]
        return state


@contextmanager
def ams_up(folder: Path, manifests: Sequence[str], *flags: str) -> Iterator[Product]:
    """Serve these models until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, text in enumerate(manifests):
        (folder / f"{number}.json").write_text(text)
        (folder / f"{number}.json").rename(folder / f"{number}.yaml")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AMS_")}
    temporary = tempfile.mkdtemp(prefix="p-", dir="/tmp")  # a short path: it will hold sockets
    output = folder / "output"
    command = [
        sys.executable, "-m", "ams_cli.main", "up", "-f", str(folder), "--port", "0",
        "--models-dir", str(folder / "models"), "--log-dir", str(folder / "logs"),
        "--usage-file", str(folder / "usage.db"), "--grace-seconds", "2", *flags,
    ]  # fmt: skip
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment | {"TMPDIR": temporary}, stdin=subprocess.DEVNULL
        )
    try:
        yield Product(_announced(process, output) + "/", folder)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, output.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        shutil.rmtree(temporary, ignore_errors=True)


def _announced(process: "subprocess.Popen[bytes]", output: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"AI Model Server on (https?://\S+)", output.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(output.read_text())


def write_key_file(path: Path) -> Path:
    """Two keys: CHIEF may do everything, MEMBER ask the model `writer` alone."""
    keys = (
        StoredKey(
            id="k-chief", name="chief", scopes=(Scope.GENERATE, Scope.ADMIN), secrets=(Secret(sha256=hash_of(CHIEF)),)
        ),
        StoredKey(id="k-member", name="member", models=("writer",), secrets=(Secret(sha256=hash_of(MEMBER)),)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(write_keys(KeyFile(keys=keys)))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def nginx(folder: Path, upstream: str, prefix: str, port: int = 0) -> Iterator[str]:
    """Debian's nginx in front of a server, which it serves below `prefix` as docs/page.md says; the page's address."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx isn't installed")
    port = port or free_port()
    location = PAGE_DOC.read_text(encoding="utf-8").partition("```nginx\n")[2].partition("```")[0]
    location = location.replace("/models/", prefix).replace("http://127.0.0.1:5000/", upstream)
    assert prefix in location
    assert upstream in location
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
        events {{ worker_connections 256; }}
        http {{
            access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
            server {{
                listen 127.0.0.1:{port};
                {location}
            }}
        }}"""
    )
    process = subprocess.Popen(
        [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}{prefix}"
    finally:
        process.terminate()
        process.wait()
