"""What tests ask of a model whose engine is a container beside the server."""

import concurrent.futures
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from test_cluster.conftest import Installed

NO_POD: dict[str, Any] = {"metadata": {"uid": ""}, "spec": {"containers": []}, "status": {}}
MESSAGES = [{"role": "user", "content": "Name three colours."}]


def asked(name: str) -> dict[str, Any]:
    return {"model": name, "messages": MESSAGES, "temperature": 0}


def pod_of(installed: Installed, name: str) -> dict[str, Any]:
    pods = installed.get("pods", f"-l=aimodelserver.io/model={name}")["items"]
    found = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
    return max(found, key=lambda each: each["metadata"]["creationTimestamp"], default=NO_POD)


def restarts(installed: Installed, name: str) -> int:
    statuses = pod_of(installed, name)["status"]["containerStatuses"]
    count: int = next(each["restartCount"] for each in statuses if each["name"] == "engine")
    return count


def wait_restarted(installed: Installed, name: str, count: int) -> None:
    """Until the kubelet tells so many restarts of the engine, which it does a while after them; never more."""
    end = time.monotonic() + 60
    while (found := restarts(installed, name)) != count:
        assert found < count, f"{found} restarts instead of {count}"
        assert time.monotonic() < end, f"{found} restarts instead of {count}"
        time.sleep(0.5)


def stream(installed: Installed, name: str, tokens: int, began: Callable[[], object] = lambda: None) -> str:
    """Words of a streamed answer; AssertionError where it has no end, or tells an error. Calls `began` at the first."""
    body = json.dumps(asked(name) | {"stream": True, "max_tokens": tokens, "ignore_eos": True}).encode()
    request = urllib.request.Request(
        f"{installed.gateway}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=150) as answer:
        words: list[str] = []
        last = b""
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            last = line[6:].strip()
            if last == b"[DONE]":
                break
            chunk = json.loads(last)
            assert "error" not in chunk, chunk
            words += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
            if any(words):
                began()
    assert last == b"[DONE]", last
    return "".join(words)


@contextmanager
def streams(installed: Installed, name: str, count: int, tokens: int) -> Iterator[list[concurrent.futures.Future[str]]]:
    """So many answers have begun when inside; all have ended after it, one way or the other."""
    begun = [threading.Event() for _ in range(count)]
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(stream, installed, name, tokens, each.set) for each in begun]
        for event, future in zip(begun, futures, strict=True):
            assert event.wait(60), future
        yield futures
        _, hung = concurrent.futures.wait(futures, timeout=150)
        assert not hung


def answers(installed: Installed, name: str) -> str:
    status, answer = installed.post("/v1/chat/completions", asked(name) | {"max_tokens": 16}, timeout=150)
    assert status == 200, answer
    text: str = answer["choices"][0]["message"]["content"]
    return text


def change_engine(installed: Installed, name: str, engine: dict[str, Any], seconds: int = 180) -> None:
    """The one line that is changed; it returns once the new engine serves, and nothing of the old one is left."""
    installed.kubectl("patch", "mdep", name, "--type=merge", "-p", json.dumps({"spec": {"engine": engine}}))
    end = time.monotonic() + 90
    while [each["name"] for each in pod_of(installed, name)["spec"]["containers"]] != ["serve", "engine"]:
        assert time.monotonic() < end, installed.kubectl("describe", "mdep", name)
        time.sleep(0.5)
    installed.wait_for_reason(name, "Progressing", "Complete", seconds)
    installed.wait_ready(name, seconds)
