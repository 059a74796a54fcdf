"""How many tokens a request is taken to ask for."""

import json
from typing import Any

import msgspec
import pytest
from ams_common.wire import MessagesRoutingFields, ResponsesRoutingFields, RoutingFields
from ams_gateway.front.body import WholeBody
from ams_gateway.routes.asked import (
    asked_of_form,
    asked_on_generate,
    asked_on_messages,
    asked_on_responses,
    asked_on_v1,
)
from hypothesis import given
from hypothesis import strategies as st


def asked(body: Any, most: int | None = None) -> tuple[int, int]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    whole = WholeBody(data)
    if b"messages" in data or b"max_tokens" in data:
        fields = msgspec.json.decode(b'{"model":"m",' + data[1:], type=RoutingFields)
        tokens = asked_on_v1(fields, whole, most)
    else:
        tokens = asked_on_generate(whole, most)
    return tokens.prompt, tokens.answer


CHAT = [{"role": "user", "content": "x" * 400}]


@pytest.mark.parametrize(
    ("body", "most", "tokens"),
    [
        ({"prompt": "x" * 400, "max_new_tokens": 50}, None, (100, 50)),
        ({"prompt": "x" * 400}, None, (100, 1024)),
        ({"prompt": "x" * 400}, 200, (100, 200)),
        ({"prompt": "x" * 400, "max_tokens": 5000}, 200, (100, 200)),
        ({"prompt": "x", "max_tokens": 0}, None, (1, 0)),
        ({"prompt": ["x" * 40, "y" * 40], "max_tokens": 1}, None, (21, 2)),
        ({"prompt": ['"x",' * 10], "max_tokens": 1, "n": 3}, None, (15, 3)),
        ({"prompt": [[1, 2, 3], [4]], "max_tokens": 2, "n": 2, "best_of": 3}, None, (4, 12)),
        ({"prompt": "x", "max_tokens": 1, "n": 10**9}, None, (1, 128)),
        ({"messages": [{"content": "x" * 40}], "tools": ["y" * 36], "max_tokens": 1}, None, (24, 1)),
        ({"prompt": [1, 2, 3], "max_tokens": 1}, None, (3, 1)),
        ({"messages": CHAT, "max_completion_tokens": 7, "max_tokens": 9}, None, (104, 7)),
        ({"messages": [{"content": [{"type": "text", "text": "x" * 40}, {"type": "image_url"}]}]}, 8, (514, 8)),
        ({"prompt": "x" * 40, "image": "data", "audio": ["a", "b"], "max_new_tokens": 1}, None, (1510, 1)),
        ({"prompt": "x" * 40, "system": "y" * 40, "max_new_tokens": 1}, None, (20, 1)),
        ({"prompt": "x" * 4, "max_tokens": True}, 10, (1, 10)),
        ({"prompt": "x" * 4, "max_tokens": -1}, 10, (1, 10)),
        ({"prompt": "x" * 4, "max_tokens": "9"}, 10, (1, 10)),
        ({"prompt": [], "max_tokens": 3}, None, (1, 3)),
        (b"--boundary\r\n" + b"x" * 100, None, (28, 1024)),
        (b"", None, (0, 1024)),
        ({"prompt": "x", "image": None, "audio": [], "max_new_tokens": 1}, None, (1, 1)),
    ],
)
def test_tokens_of_prompt_and_answer(body: Any, most: int | None, tokens: tuple[int, int]) -> None:
    assert asked(body, most) == tokens


@given(st.binary(max_size=400))
def test_any_body_asks_for_something_bounded(data: bytes) -> None:
    tokens = asked_on_generate(WholeBody(data), None)
    prompt, answer = tokens.prompt, tokens.answer
    assert 0 <= prompt <= 1 << 40
    assert answer >= 0


def test_a_long_text_costs_little() -> None:
    """Its length is what counts, not what it holds."""
    assert asked({"prompt": "x" * 1_000_000, "max_tokens": 1}) == (250_000, 1)


def test_nobody_knows_what_a_sound_comes_to() -> None:
    tokens = asked_of_form(WholeBody(b"x" * 100_000), 300)
    assert (tokens.prompt, tokens.answer) == (1024, 300)


LONG = "x" * 400


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"input": LONG}, (100, 1024)),
        ({"input": LONG, "instructions": LONG, "max_output_tokens": 7}, (200, 7)),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": LONG}, {"type": "input_image"}]}]},
         (604, 1024)),
        ({"input": [{"type": "function_call", "arguments": LONG}, {"type": "function_call_output", "output": LONG}]},
         (208, 1024)),
    ],
)  # fmt: skip
def test_responses(body: Any, tokens: tuple[int, int]) -> None:
    data = json.dumps({"model": "m"} | body).encode()
    fields = msgspec.json.decode(data, type=ResponsesRoutingFields)
    counted = asked_on_responses(fields, 0, WholeBody(data), None)
    assert (counted.prompt, counted.answer) == tokens
    assert asked_on_responses(fields, 4000, WholeBody(data), None).prompt == tokens[0] + 1000


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": [{"role": "user", "content": LONG}], "max_tokens": 9}, (104, 9)),
        ({"messages": [{"role": "user", "content": LONG}], "system": LONG}, (204, 1024)),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result", "content": LONG}, {"type": "image"}]}]},
         (604, 1024)),
        ({"messages": [{"role": "user", "content": [
            {"type": "tool_result", "content": [{"type": "text", "text": LONG}, {"type": "image"}]}]}]}, (604, 1024)),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"data": "A" * 9000}}]}]}, (504, 1024)),
    ],
)  # fmt: skip
def test_messages(body: Any, tokens: tuple[int, int]) -> None:
    data = json.dumps({"model": "m"} | body).encode()
    fields = msgspec.json.decode(data, type=MessagesRoutingFields)
    counted = asked_on_messages(fields, WholeBody(data), None)
    assert (counted.prompt, counted.answer) == tokens
