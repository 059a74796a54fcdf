"""Every refusal that is the gateway's: status, code, and a sentence, in the shape of the route."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakeRegistry, post, raw_connection, read_raw_answer


@dataclass
class Case:
    name: str
    path: str
    body: bytes = b"{}"
    status: int = 400
    code: str = ""
    says: str = ""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    answer_headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


CHAT = "/v1/chat/completions"
IMAGE = b'{"model":"text","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}'
DEEP = b'{"model":"text","messages":' + b"[" * 9_000 + b"]" * 9_000 + b"}"
DEEP_UNKNOWN = b'{"model":"text","x":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000 + b"}"


def _part(kind: str) -> bytes:
    return b'{"model":"text","messages":[{"role":"user","content":[{"type":"%s"}]}]}' % kind.encode()


CASES = [
    Case("unknown route", "/nope", status=404, code="not_found", says="No such route: /nope."),
    Case("unknown /v1 route", "/v1/nope", status=404, code="not_found"),
    Case("a name with a slash", "/generate/a/b", status=404, code="model_not_found", says="a/b. Models: text"),
    Case("no name", "/generate/", status=404, code="not_found"),
    Case(
        "unknown model", "/generate/gpt_5", status=404, code="model_not_found", says="gpt-5. Models: text",
        details={"models": ["text"]},
    ),
    Case("unknown model in a body", CHAT, b'{"model":"gpt-5"}', 404, "model_not_found", "gpt-5. Models: text"),
    Case("unknown model, listed", "/v1/models/gpt-5", method="GET", status=404, code="model_not_found"),
    Case(
        "wrong method", "/generate/text", method="GET", status=405, code="method_not_allowed",
        answer_headers={"Allow": "POST"},
    ),
    Case("wrong method on /v1", CHAT, method="DELETE", status=405, code="method_not_allowed"),
    Case(
        "wrong method on a list", "/v1/models", status=405, code="method_not_allowed",
        answer_headers={"Allow": "GET, HEAD"},
    ),
    Case(
        "form", "/generate/text", status=415, code="unsupported_media_type", says="application/json",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Case("text", CHAT, status=415, code="unsupported_media_type", headers={"Content-Type": "text/plain"}),
    Case("too large", "/generate/text", b"x" * 70_000, 413, "body_too_large", "65,536", details={"limit": 65536}),
    Case("too large for /v1", CHAT, b"x" * 1_040_000, 413, "body_too_large"),
    Case("empty", CHAT, b"", 400, "invalid_json"),
    Case("not JSON", CHAT, b"hello", 400, "invalid_json", "not valid JSON"),
    Case("truncated JSON", CHAT, b'{"model":"te', 400, "invalid_json"),
    Case("no object", CHAT, b"[1]", 400, "invalid_parameter", "JSON object"),
    Case("no model", CHAT, b'{"messages":[]}', 400, "invalid_parameter", "model: is required"),
    Case("model no string", CHAT, b'{"model":7}', 400, "invalid_parameter", "model: expected str"),
    Case("stream no bool", CHAT, b'{"model":"text","stream":"yes"}', 400, "invalid_parameter", "stream"),
    Case("nested too deeply", CHAT, DEEP, 400),
    Case("nested too deeply, unknown field", CHAT, DEEP_UNKNOWN, 400, "invalid_json", "nested too deeply"),
    Case("invalid UTF-8", CHAT, b'{"model":"\xff\xfe"}', 400, "invalid_json"),
    Case(
        "modality", CHAT, IMAGE, 422, "unsupported_modality", "text takes text, not image",
        details={"param": "messages[0].content"},
    ),
    Case("a PDF", CHAT, _part("file"), 422, "unsupported_modality", "text takes text, not image"),
    Case("vLLM's audio", CHAT, _part("audio_url"), 422, "unsupported_modality", "text takes text, not audio"),
]  # fmt: skip


@pytest.fixture
async def running(start: Start, pod, registry: FakeRegistry) -> Running:
    backend = await pod()
    registry.add("text", backend.address, modalities=frozenset({"text"}), max_body_bytes=65536)
    return await start(registry, max_body_bytes=1_000_000)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_refusals(running: Running, case: Case) -> None:
    headers = {"Content-Type": "application/json"} | case.headers
    data = None if case.method == "GET" else case.body
    async with running.client.request(case.method, running.url + case.path, data=data, headers=headers) as response:
        body = await response.json()
        request_id = response.headers["X-Request-Id"]
        for name, value in case.answer_headers.items():
            assert response.headers[name] == value
    assert response.status == case.status
    if case.path.startswith("/v1"):
        error = body["error"]
        assert set(error) == {"message", "type", "param", "code", "request_id"}
        sentence, code, found = error["message"], error["code"], error
    else:
        sentence, code, found = body["error"], body["details"]["code"], body["details"]
    assert found["request_id"] == request_id
    assert sentence.endswith(".")
    assert case.says in sentence
    if case.code:
        assert code == case.code
    for name, value in case.details.items():
        assert found[name] == value


async def test_head_answers_without_a_body(running: Running) -> None:
    async with running.client.head(running.url + "/health") as response:
        assert response.status == 200
        assert await response.read() == b""


GARBAGE = [
    (b"hello world\r\n\r\n", 400, b'"bad_request"'),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, b'"bad_request"'),
    (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400, b'"bad_request"'),
    (b"POST /generate/text HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400, b'"bad_request"'),
    (b"POST /generate/text HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b""),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431, b'"headers_too_large"'),
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431, b'"headers_too_large"'),
]


@pytest.mark.parametrize(("sent", "status", "code"), GARBAGE, ids=lambda value: repr(value)[:30])
async def test_bad_http_is_answered_and_the_connection_closed(
    running: Running, sent: bytes, status: int, code: bytes
) -> None:
    async with raw_connection(running.port) as (reader, writer):
        writer.write(sent)
        answer = await read_raw_answer(reader)
        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/json")
        assert code in answer.body
        assert await reader.read() == b""
    assert (await running.post("/generate/text", {}))[0] == 200


async def test_broken_chunks_are_refused_at_once(running: Running) -> None:
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/text", b"", "Transfer-Encoding: chunked", "Expect: 100-continue"))
        assert (await read_raw_answer(reader)).status == 100
        writer.write(b"zz\r\nhello\r\n")
        answer = await read_raw_answer(reader)
        assert answer.status == 400
        assert b'"bad_request"' in answer.body
        assert await reader.read() == b""


async def test_a_body_in_a_wrong_encoding_is_refused(running: Running) -> None:
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/text", b"this is not gzip", "Content-Encoding: gzip"))
        answer = await read_raw_answer(reader)
        assert answer.status == 400
        assert b'"bad_request"' in answer.body
        assert await reader.read() == b""


async def test_a_client_that_stops_sending_its_body(start: Start, registry: FakeRegistry) -> None:
    registry.add("m", "http://127.0.0.1:1")
    running = await start(registry, body_timeout_seconds=0.05)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{", "Content-Length: 10"))
        answer = await read_raw_answer(reader)
    assert answer.status == 408
    assert b'"request_timeout"' in answer.body


async def test_refusals_name_no_unknown_model_in_metrics(running: Running) -> None:
    for number in range(3):
        await running.post(f"/generate/guess-{number}", {})
    text = await running.metrics()
    assert 'ams_gateway_requests_total{code="404",model="_unknown",route="/generate/{model}"} 3.0' in text
    assert "guess" not in text
