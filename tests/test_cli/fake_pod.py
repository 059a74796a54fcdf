"""A stand-in for `python -m ams_pod`: real processes and sockets, no model, and faults on demand.

FAKE_* variables say how it behaves; a value `a,b,c` is for the first, second and third start of this model, the last
one for all later ones:
    FAKE_DOWNLOAD   ok · fail (explains itself, may pass) · gated (explains itself, won't pass) · die (no explanation)
    FAKE_SERVE      ok · fail (explains itself) · die · slow (ready once the file <models>/go is there) · hang (ignores
                    SIGTERM) · stalled (/health says that it computes nothing)
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

MODELS = Path(os.environ.get("AMS_MODELS_DIR", "."))
EXPLANATIONS = {
    "fail": {"reason": "HubRateLimited", "message": "the hub said 429", "retryable": True},
    "gated": {"reason": "GatedModel", "message": "ask for access first"},
}


def behaviour(job: str) -> str:
    """How this start goes, by how many there were before."""
    starts = MODELS / f"{job}-starts"
    with starts.open("a") as file:
        file.write(f"{os.getpid()}\n")
    before = len(starts.read_text().splitlines()) - 1
    ways = os.environ.get(f"FAKE_{job.upper()}", "ok").split(",")
    return ways[min(before, len(ways) - 1)]


def explain(way: str) -> None:
    Path(os.environ["AMS_TERMINATION_LOG"]).write_text(json.dumps(EXPLANATIONS[way]) + "\n")
    sys.exit(1)


def download() -> None:
    way = behaviour("download")
    with open(os.environ["AMS_PROGRESS_FILE"], "a") as file:
        for percent in (10, 60):
            file.write(json.dumps({"phase": "downloading", "percent": percent, "eta_seconds": 5}) + "\n")
    if way in EXPLANATIONS:
        explain(way)
    if way == "die":
        print("out of cheese")
        sys.exit(3)


async def serve() -> None:
    way = behaviour("serve")
    if way in EXPLANATIONS:
        explain(way)
    if way == "die":
        print("no such instruction", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if way == "hang" else ended.set)
    server = await asyncio.start_unix_server(lambda r, w: answer_all(r, w, way), os.environ["AMS_UDS"])
    print(f"serving {os.environ['AMS_NAME']}", flush=True)
    await ended.wait()
    server.close()


async def answer_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split(" ", 2)
            lengths = [line.split(":")[1] for line in head.splitlines() if line.lower().startswith("content-length:")]
            await reader.readexactly(int(lengths[0]) if lengths else 0)
            status, body = respond(method, path, way)
            payload = json.dumps(body).encode()
            head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
            writer.write(head.encode() + payload)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def respond(method: str, path: str, way: str) -> tuple[int, object]:
    if path.partition("?")[0] == "/ready":
        if way == "slow" and not (MODELS / "go").exists():
            return 503, {"phase": "reading", "percent": 50.0}
        return 200, {"phase": "ready"}
    if path == "/health" and way == "stalled":
        return 503, {"status": "stalled"}
    return 200, {"response": f"{method} {path}", "pid": os.getpid(), "environment": dict(os.environ)}


def forkserver() -> None:
    """Speaks the fork server's protocol; its children are plain subprocesses of this file."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the socket's end says it too
    libc = ctypes.CDLL(None)

    def become_child() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    control = socket.socket(fileno=int(sys.argv[sys.argv.index("--control-fd") + 1]))
    children: dict[int, subprocess.Popen[bytes]] = {}
    way = os.environ.get("FAKE_FORKSERVER", "ok")
    if way == "die":
        sys.exit(1)
    control.sendall(b'{"event":"ready"}\n')
    control.settimeout(0.02)
    buffered = b""
    while True:
        try:
            data = control.recv(65536)
            if not data:
                break
            buffered += data
        except TimeoutError:
            pass
        *lines, buffered = buffered.split(b"\n")
        for line in lines:
            request = json.loads(line)
            if way == "refuse":
                control.sendall(b'{"event":"what is this"}\nnot json\n')
                sys.exit(1)
            with open(request["stdout"], "ab") as output:
                child = subprocess.Popen(
                    [sys.executable, __file__, *request["argv"]],
                    env=os.environ | request["env"] | {"FAKE_FORKED": "1"},
                    stdout=output,
                    stderr=output,
                    preexec_fn=become_child,
                )
            children[request["id"]] = child
            control.sendall(json.dumps({"event": "started", "id": request["id"], "pid": child.pid}).encode() + b"\n")
        for number, child in list(children.items()):
            if (code := child.poll()) is not None:
                del children[number]
                event = {"event": "exited", "id": number, "pid": child.pid}
                event |= {"code": code, "signal": None} if code >= 0 else {"code": None, "signal": -code}
                control.sendall(json.dumps(event).encode() + b"\n")
    for child in children.values():
        child.terminate()
    for child in children.values():
        child.wait()


if __name__ == "__main__":
    match sys.argv[1]:
        case "download":
            download()
        case "serve":
            asyncio.run(serve())
        case "forkserver":
            forkserver()
