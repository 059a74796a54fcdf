"""What requests use is told to their gateway, or kept for it; and a full queue has room for a key that holds less."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ams_common.request_usage import RequestUsage, parse_usage
from ams_pod.engines.port import EngineRefusal
from test_serve.echo_pod import echo_pod
from test_serve.live_client import Answer
from test_serve.live_pods import LivePod, pod_process

MESSAGES = [{"role": "user", "content": "tell a story"}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"prompt": "tell a story", "max_new_tokens": 5}),
    ("/v1/chat/completions", {"model": "metered", "messages": MESSAGES, "max_tokens": 5}),
    ("/v1/completions", {"model": "metered", "prompt": "tell a story", "max_tokens": 5}),
]


@pytest.fixture(scope="module")
def metered(folder: Path, long_llama: Path) -> Iterator[LivePod]:
    with pod_process(folder, long_llama, "metered", concurrent_requests=2, queued_requests=2) as (pod, _):
        yield pod.wait_ready()


def ask(pod: LivePod, path: str, fields: dict[str, Any], key: str = "", name: str = "r") -> Answer:
    body = json.dumps({"ignore_eos": True} | fields).encode()
    return pod.client.request("POST", path, body, {"X-AMS-Key-Id": key, "X-AMS-Weight": "10", "X-Request-Id": name})


def collect(pod: LivePod) -> list[dict[str, Any]]:
    answer = pod.client.request("POST", "/internal/usage", b"")
    assert answer.status == 200
    found: list[dict[str, Any]] = answer.json()["usage"]
    return found


def told(answer: Answer, stream: bool) -> RequestUsage:
    usage = parse_usage(
        answer.body[answer.body.index(b": usage ") :] if stream else answer.headers["X-AMS-Usage"].encode()
    )
    assert usage is not None
    return usage


def computed(pod: LivePod) -> float:
    found = re.search(r"^ams_pod_compute_seconds_total (\S+)$", pod.client.get("/metrics").text, re.M)
    assert found
    return float(found[1])


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize(("path", "fields"), ROUTES, ids=[path for path, _ in ROUTES])
def test_every_answer_tells_what_it_used(metered: LivePod, path: str, fields: dict[str, Any], stream: bool) -> None:
    collect(metered)
    before = computed(metered)
    answer = ask(metered, path, fields | {"stream": stream}, "k-1")
    assert answer.status == 200
    usage = told(answer, stream)
    assert (usage.completion_tokens, usage.media) == (5, 0)
    assert usage.prompt_tokens > 2
    assert 0 <= usage.cached_tokens < usage.prompt_tokens  # what an earlier case has asked
    assert usage.compute_seconds == pytest.approx(computed(metered) - before, rel=0.01)
    assert collect(metered) == []


def leave_in_the_middle(pod: LivePod, key: str, name: str) -> None:
    body = json.dumps({"prompt": "tell a story", "max_new_tokens": 50_000, "ignore_eos": True, "stream": True})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(pod.socket))
        head = f"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-AMS-Key-Id: {key}\r\nX-Request-Id: {name}\r\n"
        connection.sendall((head + f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
        seen = b""
        while seen.count(b"data: ") < 5:
            seen += connection.recv(65536)
    pod.until_load(in_flight=0, queued=0)


def test_who_leaves_has_used_something_all_the_same(metered: LivePod) -> None:
    collect(metered)
    leave_in_the_middle(metered, "k-left", "r-left")
    entries = collect(metered)
    assert [(entry["request_id"], entry["key_id"]) for entry in entries] == [("r-left", "k-left")]
    assert entries[0]["completion_tokens"] >= 4
    assert entries[0]["prompt_tokens"] > 2
    assert entries[0]["compute_seconds"] > 0
    assert abs(entries[0]["ended"] - time.time()) < 60
    assert collect(metered) == []


def test_all_that_was_computed_is_told_or_kept(metered: LivePod) -> None:
    collect(metered)
    before = computed(metered)
    sums: list[float] = []

    def some(number: int) -> None:
        for turn in range(3):
            stops = {"stop": ["e", "a", " "]} if turn == 1 else {}
            answer = ask(metered, "/generate", {"prompt": f"{number} {turn} story", "max_new_tokens": 30} | stops)
            assert answer.status == 200
            sums.append(told(answer, False).compute_seconds)

    threads = [threading.Thread(target=some, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    leave_in_the_middle_of = threading.Thread(target=leave_in_the_middle, args=(metered, "k", "r"))
    leave_in_the_middle_of.start()
    for thread in (*threads, leave_in_the_middle_of):
        thread.join()
    metered.until_load(in_flight=0, queued=0)
    kept = sum(entry["compute_seconds"] for entry in collect(metered))
    assert len(sums) == 9
    assert sum(sums) + kept == pytest.approx(computed(metered) - before, rel=0.01)


@pytest.mark.parametrize("key", ["é", "a b", "x" * 129, "tab\t"])
def test_an_id_that_makes_no_sense_is_none(metered: LivePod, key: str) -> None:
    collect(metered)
    leave_in_the_middle(metered, key.encode().decode("latin-1"), "r-odd")
    assert [entry.get("key_id", "") for entry in collect(metered)] == [""] if key != "tab\t" else ["tab"]


def test_a_full_queue_has_room_for_a_key_that_holds_less_than_its_share(metered: LivePod) -> None:
    answers: dict[str, Answer] = {}

    def long(name: str, key: str, tokens: int, stream: bool) -> threading.Thread:
        fields = {"prompt": f"{name} story", "max_new_tokens": tokens, "stream": stream}

        def run() -> None:
            answers[name] = ask(metered, "/generate", fields, key, name)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = []
    for number in range(4):
        threads.append(long(f"busy-{number}", "k-busy", 1500, number == 3))
        metered.until_load(in_flight=min(2, number + 1), queued=max(0, number - 1))
    refused = ask(metered, "/generate", {"prompt": "more"}, "k-busy")
    assert (refused.status, refused.json()["details"]["code"]) == (429, "queue_full")
    answer = ask(metered, "/generate", {"prompt": "hi", "max_new_tokens": 3}, "k-chat")
    assert answer.status == 200
    for thread in threads:
        thread.join()
    assert [answers[f"busy-{number}"].status for number in range(3)] == [200, 200, 200]
    newest = answers["busy-3"]
    assert b"queue_full" in newest.body
    assert b": usage" not in newest.body, "nothing was computed for it"


async def test_an_error_tells_what_was_used_before_it(tmp_path: Path) -> None:
    async with echo_pod(tmp_path) as served:
        served.engine.error = EngineRefusal("out-of-memory", "Memory ran out.")
        body = json.dumps({"prompt": "what"}).encode()
        headers = {"Content-Type": "application/json"}
        async with served.client.post(served.url + "/generate", data=body, headers=headers) as response:
            assert response.status == 503
            usage = parse_usage(response.headers["X-AMS-Usage"].encode())
        assert usage is not None
        assert usage.prompt_tokens > 0
        assert len(served.pod.undelivered) == 0
