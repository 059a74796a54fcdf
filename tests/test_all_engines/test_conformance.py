"""What every engine does, through the gateway of a real `ams up`: one model, one line of its manifest differs.

AMS_ENGINES names the engines, AMS_LLAMA_SERVER and AMS_VLLM where their programs are, AMS_ENGINES_FOLDER a folder of
bfloat16 weights instead of those that are made of the GGUF file. With AMS_ENGINES_PAGE the columns of
docs/engines-conformance.md are written; those of other engines stay. `make engines` sets all of them.
"""

import json
import os
import re
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
GOLDEN = [{"prompt": "Say yes.", "regex": "[A-Za-z]"}]
CANNOT = {
    ("llamacpp", "test_logprobs_of_prompts"): "its server tells those of answers alone",
    ("llamacpp", "test_regular_expressions"): "it takes JSON schemas and grammars",
    ("llamacpp", "test_least_tokens"): "it has no such setting",
    ("llamacpp", "test_allowed_tokens"): "it can forbid tokens, and not all but some",
}
"""What engines have no way to do, and why; the tests see that it is refused."""
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
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(engine)
    limits = {"contextTokens": world.CONTEXT, "maxNewTokens": 300}
    with world.serving(engine, folder, world.source(engine, folder), limits, GOLDEN) as running:
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


def completed(model: Running, test: str, **fields: Any) -> dict[str, Any] | None:
    """A completion; None from an engine that is known not to do it, and was seen to say so."""
    body = {"prompt": "One, two, three,", "max_tokens": 8, "temperature": 0, **fields}
    status, answer = model.post("/v1/completions", body)
    if (reason := CANNOT.get((model.engine, test))) is not None:
        assert status == 400, answer
        page.cannot(model.engine, test, reason)
        return None
    assert status == 200, answer
    return answer


def test_logprobs_of_prompts(model: Running) -> None:
    answer = completed(model, "test_logprobs_of_prompts", prompt_logprobs=1)
    if answer is not None:
        told = answer["choices"][0]["prompt_logprobs"]
        assert len(told) == answer["usage"]["prompt_tokens"]
        assert told[0] is None
        assert all(next(iter(each.values()))["logprob"] <= 0 for each in told[1:])


def test_regular_expressions(model: Running) -> None:
    form = "(red|blue)-[0-9]{2}"
    answer = completed(model, "test_regular_expressions", guided_regex=form)
    if answer is not None:
        assert re.fullmatch(form, answer["choices"][0]["text"])


def test_choices(model: Running) -> None:
    answer = completed(model, "test_choices", guided_choice=["heron", "stork"])
    assert answer is not None
    assert answer["choices"][0]["text"] in ("heron", "stork")


def test_grammars(model: Running) -> None:
    answer = completed(model, "test_grammars", guided_grammar='start: "heron" | "stork" " " ("one" | "two")\n')
    assert answer is not None
    assert re.fullmatch("heron|stork (one|two)", answer["choices"][0]["text"])


def test_least_tokens(model: Running) -> None:
    """The token that ends answers is the likeliest one, and waits."""
    ends = {"logit_bias": {"2": 100}}
    status, short = model.post("/v1/completions", {"prompt": "One, two,", "max_tokens": 8, "temperature": 0, **ends})
    assert status == 200, short
    assert short["usage"]["completion_tokens"] <= 1
    answer = completed(model, "test_least_tokens", min_tokens=4, **ends)
    if answer is not None:
        assert 4 <= answer["usage"]["completion_tokens"] <= 5


def test_allowed_tokens(model: Running) -> None:
    _, found = model.post("/tokenize", {"prompt": " cat dog"})
    answer = completed(model, "test_allowed_tokens", allowed_token_ids=found["tokens"])
    if answer is not None:
        assert set(answer["choices"][0]["text"].split()) <= {"cat", "dog"}


def test_cached_prompts(model: Running) -> None:
    text = "Once upon a time there was a heron, " * 20
    for _ in range(2):
        _, answer = model.chat(text, max_tokens=1)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 50


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


def broken(model: Running, number: signal.Signals, whom: Callable[[], list[int]]) -> None:
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
        starts, pids = model.starts(), whom()
        assert pids
        assert not all(each.done() for each in asked)
        for pid in pids:
            os.kill(pid, number)
        ends = [each.result(timeout=world.PATIENCE_SECONDS) for each in asked]
    assert len(ends) == 32
    assert model.engine == "builtin" or model.starts() == starts + 1
    status, answer = model.chat("Hello", max_tokens=2)
    assert status == 200, answer


def test_kill_9_under_32_streams(model: Running) -> None:
    broken(model, signal.SIGKILL, model.computing)


def test_kill_9_of_the_core(model: Running) -> None:
    """What computes dies; the engine's own HTTP server is there and answers."""
    if sorted(model.core()) == sorted(model.computing()):
        page.is_as_above(model.engine, "test_kill_9_of_the_core")  # what computes answers HTTP too
        return
    broken(model, signal.SIGKILL, model.core)


def test_a_hang_under_32_streams(model: Running) -> None:
    broken(model, signal.SIGSTOP, model.core)


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
        engine = request.node.funcargs["model"].engine
        page.tried(engine, request.node.originalname, passed=report is not None and report.passed)
