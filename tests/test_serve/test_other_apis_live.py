"""Responses and messages of a real model through the gateway: one prompt is the same in all APIs, turns are cached."""

import time

import anthropic
import openai
import pytest
from test_serve.live_pods import LiveGateway, LivePod

QUESTION = "What is the capital of France? " * 8


@pytest.fixture
def openais(gateway: LiveGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


@pytest.fixture
def anthropics(gateway: LiveGateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0)


def test_three_apis_give_one_answer(openais: openai.OpenAI, anthropics: anthropic.Anthropic) -> None:
    chat = openais.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=12,
    )
    response = openais.responses.create(
        model="tiny", instructions="Be brief.", input=QUESTION, temperature=0, max_output_tokens=12
    )
    message = anthropics.messages.create(
        model="tiny", system="Be brief.", messages=[{"role": "user", "content": QUESTION}], max_tokens=12,
        extra_body={"temperature": 0},
    )  # fmt: skip
    counted = anthropics.messages.count_tokens(
        model="tiny", system="Be brief.", messages=[{"role": "user", "content": QUESTION}]
    )
    text = chat.choices[0].message.content
    assert text
    assert response.output_text == text
    assert "".join(block.text for block in message.content if block.type == "text") == text
    assert chat.usage is not None
    assert response.usage is not None
    prompt = chat.usage.prompt_tokens
    assert response.usage.input_tokens == counted.input_tokens == prompt
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == prompt


def test_turns_are_cached_and_told(openais: openai.OpenAI, anthropics: anthropic.Anthropic) -> None:
    first = openais.responses.create(model="tiny", input="Once. " + QUESTION, max_output_tokens=8)
    second = openais.responses.create(
        model="tiny", input="And then?", previous_response_id=first.id, max_output_tokens=8
    )
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens // 2
    turn: anthropic.types.MessageParam = {"role": "user", "content": "Twice. " + QUESTION}
    messages = [anthropics.messages.create(model="tiny", messages=[turn], max_tokens=4) for _ in range(2)]
    usage = messages[1].usage
    assert usage.cache_read_input_tokens
    assert usage.cache_read_input_tokens + usage.input_tokens == messages[0].usage.input_tokens + (
        messages[0].usage.cache_read_input_tokens or 0
    )


@pytest.mark.parametrize("api", ["responses", "messages"])
def test_who_leaves_a_stream_frees_its_place(
    openais: openai.OpenAI, anthropics: anthropic.Anthropic, tiny: LivePod, api: str
) -> None:
    if api == "responses":
        stream = openais.responses.create(model="tiny", input=QUESTION, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
    else:
        turn: anthropic.types.MessageParam = {"role": "user", "content": QUESTION}
        events = anthropics.messages.create(
            model="tiny", messages=[turn], max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(events))
        events.close()
    ends = time.monotonic() + 10
    while tiny.client.get("/load").json()["in_flight"]:
        assert time.monotonic() < ends
        time.sleep(0.05)
