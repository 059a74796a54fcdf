"""Structured output through gateway and pod, by OpenAI's client and by plain requests."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from constraint_cases import SCHEMAS, closed
from test_serve.live_pods import LiveGateway

HELLO = [{"role": "user", "content": "say hello to the world"}]
PERSON = SCHEMAS["person"]
TEMPERATURES = (0, 0.7, 1, 2)


@pytest.fixture(scope="module")
def client(gateway: LiveGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def response_format(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "form", "strict": True, "schema": schema}}


def test_answers_follow_their_schemas_among_free_ones(client: openai.OpenAI) -> None:
    def ask(case: tuple[int, float, str | None]) -> None:
        number, temperature, name = case
        asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "temperature": temperature, "seed": number}
        if name is None:
            free = client.chat.completions.create(**asked, max_tokens=20)
            assert free.choices[0].message.content is not None
            return
        asked |= {"response_format": response_format(SCHEMAS[name]), "max_tokens": 600}
        if number % 2:
            chunks = list(client.chat.completions.create(**asked, stream=True))
            content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            finish = chunks[-1].choices[0].finish_reason
        else:
            choice = client.chat.completions.create(**asked).choices[0]
            content, finish = choice.message.content or "", choice.finish_reason
        assert finish in ("stop", "length")
        if finish == "stop":
            jsonschema.validate(json.loads(content), SCHEMAS[name])
            complete.append(name)

    complete: list[str] = []
    cases = [(n, t, name) for n, t in enumerate(TEMPERATURES) for name in (*SCHEMAS, None, None)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, cases))
    assert len(complete) >= 0.97 * len(SCHEMAS) * len(TEMPERATURES)


def test_a_reasoner_thinks_freely_and_answers_in_form(client: openai.OpenAI) -> None:
    schema = closed({"n": {"type": "integer", "minimum": 1, "maximum": 9}})
    for seed in range(6):
        answer = client.chat.completions.create(
            model="reasoner", messages=HELLO, temperature=1, seed=seed, max_tokens=1500,
            response_format=response_format(schema),
        )  # fmt: skip
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            jsonschema.validate(json.loads(choice.message.content or ""), schema)


@pytest.mark.parametrize(("fields", "fits"), [
    ({"format": "json"}, lambda text: isinstance(json.loads(text), dict)),
    ({"format": PERSON}, lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
    ({"guided_json": PERSON}, lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
    ({"guided_json": json.dumps(PERSON)}, lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
    ({"json_schema": PERSON}, lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
    ({"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}},
     lambda text: jsonschema.validate(json.loads(text), PERSON) is None and not re.search(r'[,:{]\s', text)),
    ({"guided_json": PERSON, "guided_whitespace_pattern": r"[ ]?"},
     lambda text: jsonschema.validate(json.loads(text), PERSON) is None),
    ({"structured_outputs": {"json_object": True}}, lambda text: isinstance(json.loads(text), dict)),
    ({"response_format": {"type": "json_object"}}, lambda text: isinstance(json.loads(text), dict)),
    ({"guided_regex": r"\d{4}"}, lambda text: re.fullmatch(r"\d{4}", text)),
    ({"regex": "^[ab]{3}$"}, lambda text: re.fullmatch("[ab]{3}", text)),
    ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
    ({"guided_grammar": 'start: "a" /b+/ "c"'}, lambda text: re.fullmatch("ab+c", text)),
    ({"grammar": 'root ::= "a" [0-9] "c"'}, lambda text: re.fullmatch(r"a\dc", text)),
    ({"ebnf": 'root ::= "a" "b"?'}, lambda text: text in ("a", "ab")),
    ({"response_format": {"type": "text"}, "grammar": "", "format": ""}, lambda text: True),
])  # fmt: skip
def test_all_routes_know_all_names(gateway: LiveGateway, fields: dict[str, Any], fits: Any) -> None:
    asked: dict[str, Any] = {"temperature": 0.7, "seed": 1, **fields}
    routes = {
        "/generate/tiny": {"prompt": "hello", "max_new_tokens": 600},
        "/v1/completions": {"model": "tiny", "prompt": "hello", "max_tokens": 600},
        "/v1/chat/completions": {"model": "tiny", "messages": HELLO, "max_tokens": 600},
    }
    for route, own in routes.items():
        answer = gateway.client.post(route, own | asked)
        assert answer.status == 200, answer.text
        assert "X-AMS-Ignored-Fields" not in answer.headers
        body = answer.json()
        choice = body if route.startswith("/generate") else body["choices"][0]
        message = choice.get("message", choice)
        text = next(message[name] for name in ("response", "text", "content") if name in message)
        assert choice["finish_reason"] == "length" or fits(text), text


def test_a_stop_string_or_the_longest_answer_cut_it(gateway: LiveGateway) -> None:
    asked = {"prompt": "hello", "temperature": 0, "guided_regex": "[a]{30}b"}
    cut = gateway.client.post("/generate/tiny", asked | {"max_new_tokens": 3}).json()
    assert cut["finish_reason"] == "length"
    assert re.fullmatch("a+", cut["response"])
    stopped = gateway.client.post("/generate/tiny", asked | {"stop": "b", "max_new_tokens": 60}).json()
    assert (stopped["response"], stopped["finish_reason"]) == ("a" * 30, "stop")


def test_a_hostile_schema_is_an_error_at_once_and_others_go_on(gateway: LiveGateway) -> None:
    hostile = [
        {"type": "integer", "multipleOf": 1_000_003},
        {"type": "object", "patternProperties": {f"^a{n}.*b$": {"type": "integer"} for n in range(300)}},
        {"enum": [{"a": n, "b": [n] * 5} for n in range(2_500)]},
        {"$ref": "#"},
    ]
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 5}
    gateway.client.post("/v1/chat/completions", asked | {"guided_json": {}})
    with ThreadPoolExecutor(8) as pool:
        free = [pool.submit(gateway.client.post, "/v1/chat/completions", asked) for _ in range(4)]
        for schema in hostile:
            started = time.monotonic()
            answer = gateway.client.post("/v1/chat/completions", asked | {"response_format": response_format(schema)})
            assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_parameter")
            assert time.monotonic() - started < 1.5  # a busy machine's
        assert [future.result().status for future in free] == [200] * 4
