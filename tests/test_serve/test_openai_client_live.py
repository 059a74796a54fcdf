"""OpenAI's Python client, unchanged, against a real model behind the gateway."""

from collections.abc import Iterator

import openai
import pytest
from test_serve.live_pods import LiveGateway

HELLO = [{"role": "user", "content": "say hello to the world"}]


@pytest.fixture(scope="module")
def client(gateway: LiveGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["reasoner", "tiny"]
    card = client.models.retrieve("tiny")
    assert (card.id, card.object, card.owned_by) == ("tiny", "model", "ai-model-server")
    assert card.created > 1_700_000_000


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=12, temperature=0)
    choice = answer.choices[0]
    assert (answer.model, answer.object, choice.message.role) == ("tiny", "chat.completion", "assistant")
    assert choice.message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.finish_reason == ("length" if answer.usage.completion_tokens == 12 else "stop")


def test_a_streamed_chat_is_the_plain_one(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    *pieces, last = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == plain.choices[0].message.content
    assert pieces[-1].choices[0].finish_reason == plain.choices[0].finish_reason
    assert [chunk.choices[0].finish_reason for chunk in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert (last.choices, last.usage) == ([], plain.usage)


def test_usage_comes_only_when_it_is_asked_for(client: openai.OpenAI) -> None:
    for options in ({}, {"stream_options": {"include_usage": False}}):
        chunks = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3, stream=True, **options)
        assert [chunk.usage for chunk in chunks if chunk.usage] == []


def test_completions(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": "the red cat", "max_tokens": 20, "temperature": 0}
    plain = client.completions.create(**asked)
    assert plain.object == "text_completion"
    assert plain.choices[0].text
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == plain.choices[0].text
    assert chunks[-1].usage == plain.usage


def test_a_prompt_of_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=4, temperature=0)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3
    nested = client.completions.create(model="tiny", prompt=[[5, 6, 7]], max_tokens=4, temperature=0)
    assert nested.choices[0].text == answer.choices[0].text


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_number_of_tokens(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=HELLO, temperature=0, extra_body={field: 5, "ignore_eos": True}
    )
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")


def test_seeds(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.chat.completions.create(
            model="tiny", messages=HELLO, max_tokens=24, seed=seed, temperature=1.5, extra_body={"ignore_eos": True}
        )
        return answer.choices[0].message.content or ""

    first = [sample(seed) for seed in range(6)]
    assert first == [sample(seed) for seed in range(6)]
    assert len(set(first)) == 6


def test_stop(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content or ""
    middle = whole[len(whole) // 2 :][:3]
    for stop in (middle, ["never said at all", middle]):
        answer = client.chat.completions.create(**asked, stop=stop).choices[0]
        assert answer.message.content == whole[: whole.index(middle)]
        assert answer.finish_reason == "stop"


def test_several_turns_and_parts(client: openai.OpenAI) -> None:
    def answer(messages: list[dict[str, object]]) -> tuple[str | None, int]:
        found = client.chat.completions.create(model="tiny", messages=messages, max_tokens=8, temperature=0)
        assert found.usage is not None
        return found.choices[0].message.content, found.usage.prompt_tokens

    turns: list[dict[str, object]] = [
        {"role": "system", "content": "answer in few words"},
        {"role": "user", "content": "who"},
        {"role": "assistant", "content": "he"},
        {"role": "user", "content": "why\nhow"},
    ]
    parts = [{"type": "text", "text": "why"}, {"type": "text", "text": "how"}]
    assert answer([*turns[:3], {"role": "user", "content": parts}]) == answer(turns)
    assert answer([{"role": "developer", "content": "answer in few words"}, *turns[1:]]) == answer(turns)
    assert answer(turns)[1] > answer(turns[-1:])[1]


def test_its_error_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-5", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "reasoner, tiny" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=HELLO, temperature=3)
    assert (refused.value.code, refused.value.param) == ("invalid_parameter", "temperature")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "z" * 5000}])
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "messages")
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.APIStatusError) as picture:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])
    assert (picture.value.status_code, picture.value.code) == (422, "unsupported_modality")


async def test_its_asynchronous_client(gateway: LiveGateway) -> None:
    async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["reasoner", "tiny"]
        asked = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "temperature": 0}
        plain = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(pieces) == plain.choices[0].message.content
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="tiny", prompt="")
