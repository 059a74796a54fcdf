"""A real redis-server for tests: on a socket in a folder of its own, stopped, killed and started again at will."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

_START_SECONDS = 20.0


class RedisServer:
    """One server; `password` is asked for if there is one. Without persistence unless `options` say otherwise."""

    def __init__(self, folder: Path, program: str, *options: str) -> None:
        self.path = folder / "redis.sock"
        self._folder = folder
        self._program = program
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def start(self, *options: str, wait: bool = True) -> "RedisServer":
        self.path.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                *(self._program, "--port", "0", "--unixsocket", str(self.path), "--dir", str(self._folder)),
                *("--save", "", "--appendonly", "no", *self._options, *options),
            ],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_SECONDS
        while wait:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                client.ping()
                break
            assert time.monotonic() < deadline, "redis-server doesn't start"
            time.sleep(0.02)
        return self

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.path))

    def kill(self) -> None:
        """As if its machine were gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It takes connections and bytes, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that is started; the test is skipped where there is no redis-server."""
    if (program := shutil.which("redis-server")) is None:
        pytest.skip("there is no redis-server")
    server = RedisServer(folder, program, *options).start()
    try:
        yield server
    finally:
        server.kill()
