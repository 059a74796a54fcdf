"""`python -m ams_pod.forkserver --control-fd N`: imports torch and transformers once, then forks model processes.

A fork copies only the calling thread: whatever another thread, a loop or an OpenMP region held would hang the child.
So the parent is single-threaded, runs no event loop and never computes with torch; it imports, waits and forks.

The messages on the socket N are those of `ams_common.fork_messages`. When the socket closes, or on SIGTERM, children
get SIGTERM, after a grace SIGKILL, and the server ends.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import msgspec
from ams_common.collector import hold_back_full_collections
from ams_common.fork_messages import ChildExited, ChildFailed, ChildStarted, ForkEvent, ForkRequest, ServerReady

# numpy's OpenBLAS would start its threads at import.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

GRACE_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1
# What a model process needs beside its engine. What media need is cheap: half a second and 25 MB that children share.
_IMPORTS = (
    "ams_pod.serve.server",
    "PIL.JpegImagePlugin",
    "PIL.PngImagePlugin",
    "PIL.WebPImagePlugin",
    "av",
)


class ForkServer:
    """Holds the control socket and the running children (pid to id)."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, int] = {}
        self._received = b""
        self._ending = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def run(self, imports: Callable[[], None]) -> None:
        """Import, then serve until the socket closes."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the command in front
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        hold_back_full_collections()  # here and in the children, each of which collects once it serves
        imports()
        gc.collect()
        gc.freeze()  # a child's collector then never writes to the pages it shares
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            self._send(ServerReady())
            while not self._ending:
                for key, _ in selector.select():
                    if key.fileobj is self._control:
                        self._receive()
                    else:
                        self._drain_wakeups()
                self._reap()
        self._end_children()

    def _end(self, *_: object) -> None:
        self._ending = True

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _receive(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._ending = True
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._start(msgspec.json.decode(line, type=ForkRequest))

    def _start(self, request: ForkRequest) -> None:
        try:
            log = _open_log(request.stdout)
            pid = os.fork()
        except OSError as error:
            self._send(ChildFailed(request.id, str(error)))
            return
        if pid == 0:
            self._become_child(request, log)
        os.close(log)
        self._children[pid] = request.id
        self._send(ChildStarted(request.id, pid))

    def _become_child(self, request: ForkRequest, log: int) -> None:
        """Never returns; leaves by os._exit, so that nothing of the parent's is torn down."""
        code = 1
        try:
            _die_with_parent(os.getppid())
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.dup2(log, 1)
            os.dup2(log, 2)
            for descriptor in (log, self._wake_read, self._wake_write):
                os.close(descriptor)
            self._control.close()
            os.environ.update(request.env)
            from ams_pod.main import main

            code = main(list(request.argv))
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            self._send(ChildExited(number, pid, code if code >= 0 else None, -code if code < 0 else None))

    def _end_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self._children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _send(self, event: ForkEvent) -> None:
        with contextlib.suppress(OSError):  # nobody listens: the socket's end is seen by the loop
            self._control.sendall(msgspec.json.encode(event) + b"\n")


def _open_log(path: str) -> int:
    """A descriptor to append to the log, or one that drops everything: a log must not keep a model from starting."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def preload() -> None:
    """Import everything that a model process will need; no module may compute or start a thread."""
    from ams_pod.engines.registry import preload_modules

    for name in (*_IMPORTS, *preload_modules()):
        importlib.import_module(name)


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the server ends, however it ends (Linux; elsewhere EOF does it)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was set up
            os._exit(1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="ams_pod.forkserver")
    parser.add_argument("--control-fd", type=int, required=True)
    descriptor = parser.parse_args(argv).control_fd
    with socket.socket(fileno=descriptor) as control:
        ForkServer(control).run(preload)
    os._exit(0)


if __name__ == "__main__":
    main()
