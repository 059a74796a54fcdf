"""What every engine does, through the gateway of a real `ams up`: one model, one line of its manifest differs.

AMS_ENGINES names the engines, AMS_LLAMA_SERVER, AMS_VLLM and AMS_ENGINES_FOLDER where they and a folder of bfloat16
weights are. With AMS_ENGINES_PAGE the table of docs/engines-conformance.md is written. `make engines` sets all of them.
"""

import json
import os
import signal
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_all_engines import page, world
from test_all_engines.world import Running

pytestmark = pytest.mark.timeout(900)  # an engine may take minutes to start

LONG = {"messages": [{"role": "user", "content": "Count from 1 to 500."}], "max_tokens": 300, "ignore_eos": True}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"enum": ["yes", "no"]}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=world.ENGINES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    engine: str = request.param
    if (reason := world.why_not(engine)) is not None:
        page.skipped(engine, reason)
        pytest.skip(reason)
    with world.serving(engine, tmp_path_factory.mktemp(engine)) as running:
        page.began(engine, None if engine == "builtin" else world.program(engine))
        yield running


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def test_golden_prompts(model: Running) -> None:
    """It is ready only because they were answered."""
    assert model.get("/admin/model_status")["model_configs"][world.MODEL]["ready_replicas"] == 1


def test_generate(model: Running) -> None:
    status, answer = model.post(f"/generate/{world.MODEL}", {"prompt": "The capital of France is", "max_new_tokens": 8})
    assert (status, bool(answer)) == (200, True)


def test_chat(model: Running) -> None:
    status, answer = model.chat("What is the capital of France?")
    assert status == 200
    assert content(answer)


def test_chat_streamed_is_the_same(model: Running) -> None:
    _, whole = model.chat("Name three colours.")
    body = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 16, "temperature": 0}
    events = model.stream("/v1/chat/completions", body)
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
    assert text == content(whole)


def test_completions(model: Running) -> None:
    body = {"prompt": "One, two, three,", "max_tokens": 8, "temperature": 0}
    status, whole = model.post("/v1/completions", body)
    assert status == 200
    events = model.stream("/v1/completions", body)
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == whole["choices"][0]["text"]


def test_usage(model: Running) -> None:
    _, answer = model.chat("Hello", max_tokens=5, ignore_eos=True)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 5
    assert usage["total_tokens"] == usage["prompt_tokens"] + 5
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5, "ignore_eos": True, "temperature": 0}
    events = model.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert events[-1]["usage"]["prompt_tokens"] == usage["prompt_tokens"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_tools(model: Running, choice: Any) -> None:
    status, answer = model.chat(
        "Weather in Rome?", tools=[TOOL], tool_choice=choice, parallel_tool_calls=False, max_tokens=120
    )
    assert status == 200, answer
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert len(calls) >= 1
    for call in calls:
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in ("Rome", "Oslo")


def test_structured_output(model: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    status, answer = model.chat("Is water wet?", response_format=form, max_tokens=60)
    assert status == 200, answer
    assert json.loads(content(answer))["answer"] in ("yes", "no")


def test_logprobs(model: Running) -> None:
    status, answer = model.chat("Hello", logprobs=True, top_logprobs=2, max_tokens=3)
    assert status == 200, answer
    told = answer["choices"][0]["logprobs"]["content"]
    assert 1 <= len(told) <= 3
    assert all(each["logprob"] <= 0 and len(each["top_logprobs"]) == 2 for each in told)


def test_stop_strings(model: Running) -> None:
    body = {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 24, "temperature": 0}
    _, free = model.post("/v1/completions", body)
    text = free["choices"][0]["text"]
    stop = text[len(text) // 2 :][:3]
    _, stopped = model.post("/v1/completions", {**body, "stop": [stop]})
    assert stopped["choices"][0]["text"] == text[: text.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"


def test_several_answers(model: Running) -> None:
    status, answer = model.chat("Say a word.", n=3, temperature=1.0, seed=7)
    assert status == 200, answer
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


def test_a_prompt_that_is_too_long(model: Running) -> None:
    status, answer = model.chat("word " * 3 * world.CONTEXT)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


def test_responses(model: Running) -> None:
    status, answer = model.post("/v1/responses", {"input": "Hello", "max_output_tokens": 8})
    assert (status, answer["object"]) == (200, "response"), answer


def test_messages(model: Running) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    status, answer = model.post("/v1/messages", {"messages": messages, "max_tokens": 8})
    assert (status, answer["type"]) == (200, "message"), answer


def test_32_streams(model: Running) -> None:
    def one(number: int) -> str:
        body = {"messages": [{"role": "user", "content": f"Count to {number}."}], "max_tokens": 8, "temperature": 0}
        events = model.stream("/v1/chat/completions", body)
        return str([event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1])

    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(one, range(32))) <= {"stop", "length"}


def test_who_hangs_up_frees_the_engine(model: Running) -> None:
    answer = model.open("/v1/chat/completions", {**LONG, "stream": True})
    for _ in range(6):
        answer.readline()
    answer.close()
    time.sleep(1.0)
    before = model.cpu_seconds()
    time.sleep(1.0)
    assert model.cpu_seconds() - before < 0.3


def broken(model: Running, number: signal.Signals) -> None:
    """Whatever the signal does under 32 streams: none hangs, and the next request is answered."""

    def one(_: int) -> str:
        try:
            model.stream("/v1/chat/completions", {**LONG, "max_tokens": 100})
        except (urllib.error.HTTPError, OSError, ValueError) as error:
            return type(error).__name__
        return "answered"

    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(one, each) for each in range(32)]
        time.sleep(1.5)
        pids = model.computing()
        assert pids
        assert not all(each.done() for each in asked)
        for pid in pids:
            os.kill(pid, number)
        ends = [each.result(timeout=world.PATIENCE_SECONDS) for each in asked]
    assert len(ends) == 32
    status, answer = model.chat("Hello", max_tokens=2)
    assert status == 200, answer


def test_kill_9_under_32_streams(model: Running) -> None:
    broken(model, signal.SIGKILL)


def test_a_hang_under_32_streams(model: Running) -> None:
    broken(model, signal.SIGSTOP)


def test_ending_loses_nothing(model: Running) -> None:
    """The last one: SIGTERM while eight answers are being made."""
    with ThreadPoolExecutor(8) as pool:
        body = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 40, "ignore_eos": True}
        asked = [pool.submit(model.stream, "/v1/chat/completions", body) for _ in range(8)]
        time.sleep(1.5)
        model.process.send_signal(signal.SIGTERM)
        for each in asked:
            events = each.result(timeout=120)
            assert [event["choices"][0]["finish_reason"] for event in events if event["choices"]][-1] == "length"
    assert model.process.wait(90) in (0, 130)


@pytest.fixture(autouse=True)
def _remembered(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "model" in request.fixturenames and "model" in request.node.funcargs:
        report = getattr(request.node, "called", None)
        page.tried(request.node.funcargs["model"].engine, request.node.originalname, report is None or report.passed)


def test_the_page_is_written() -> None:
    if target := os.environ.get("AMS_ENGINES_PAGE"):
        Path(target).write_text(page.text())
    assert page.text().startswith("# ")
