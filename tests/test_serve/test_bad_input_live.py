"""What bad input gets from a real model behind the gateway: one table, and the server is none the worse for it."""

import http.client
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from test_serve.live_client import Answer
from test_serve.live_pods import LiveGateway, LivePod

NATIVE, CHAT, TEXT = "/generate/tiny", "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Case:
    """`body` is sent as it is when it is bytes; else as JSON, on /v1 with what a good request has besides."""

    name: str
    path: str
    body: Any
    status: int
    code: str
    says: str = ""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    answer_headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        given = self.body
        if self.path == CHAT:
            given = {"model": "tiny", "messages": HELLO} | given
        elif self.path == TEXT:
            given = {"model": "tiny", "prompt": "hello"} | given
        return json.dumps(given).encode()


def _native(name: str, fields: Any, code: str = "invalid_parameter", says: str = "") -> Case:
    if isinstance(fields, dict):
        fields = {"prompt": "hello"} | fields
    return Case(name, NATIVE, fields, 400, code, says)


def _image(name: str) -> list[dict[str, Any]]:
    part = {"image_url": {"image_url": {"url": "data:,"}}, "input_audio": {"input_audio": {"data": "AA=="}}}
    part["video_url"] = {"video_url": {"url": "data:,"}}
    return [{"role": "user", "content": [{"type": name, **part[name]}]}]


def _number(field_name: str, text: bytes) -> bytes:
    return b'{"prompt":"hello","' + field_name.encode() + b'":' + text + b"}"


DEEP = 9_000
LONG = "maximum context length is 2048 tokens"
NATIVE_CASES = [
    Case("not JSON", NATIVE, b"hello", 400, "invalid_json", "not valid JSON"),
    Case("nothing", NATIVE, b"", 400, "invalid_json", "not valid JSON"),
    Case("half of a body", NATIVE, b'{"prompt":"he', 400, "invalid_json"),
    Case("two bodies", NATIVE, b'{"prompt":"a"}{"prompt":"b"}', 400, "invalid_json"),
    Case("array", NATIVE, b"[1]", 400, "invalid_parameter", "must be a JSON object"),
    Case("number", NATIVE, b"7", 400, "invalid_parameter", "must be a JSON object"),
    Case("null", NATIVE, b"null", 400, "invalid_parameter", "must be a JSON object"),
    Case("invalid UTF-8", NATIVE, b'{"prompt":"\xff\xfe"}', 400, "invalid_json", "UTF-8"),
    Case("lone surrogate", NATIVE, b'{"prompt":"a\\ud800b"}', 400, "invalid_json"),
    Case("lone low surrogate", NATIVE, b'{"prompt":"\\udc00"}', 400, "invalid_json"),
    Case("deep, unknown field", NATIVE, b'{"prompt":"a","x":' + b"[" * DEEP + b"]" * DEEP + b"}", 400, "invalid_json"),
    Case("deep, known field", NATIVE, b'{"prompt":' + b"[" * DEEP + b"]" * DEEP + b"}", 400, "invalid_parameter"),
    Case("deep, cut", NATIVE, b"[" * DEEP, 400, "invalid_parameter"),
    Case("no prompt", NATIVE, {}, 400, "missing_prompt", "prompt is required"),
    _native("empty prompt", {"prompt": ""}, "missing_prompt", "must not be empty"),
    _native("blank prompt", {"prompt": " \n\t "}, "missing_prompt", "must not be empty"),
    _native("prompt is a number", {"prompt": 7}, says="prompt: expected str, got int"),
    _native("prompt is null", {"prompt": None}, says="prompt: expected str, got null"),
    _native("prompt is a list", {"prompt": ["a"]}, says="prompt: expected str, got array"),
    _native("stream is a word", {"stream": "yes"}, says="stream: expected bool"),
    _native("system is a number", {"system": 1}, says="system: expected str"),
    _native("temperature is a word", {"temperature": "hot"}, says="temperature: expected float"),
    _native("temperature negative", {"temperature": -0.1}, says="temperature: expected float >= 0"),
    _native("temperature high", {"temperature": 2.1}, says="temperature: expected float <= 2"),
    Case("temperature NaN", NATIVE, _number("temperature", b"NaN"), 400, "invalid_json"),
    Case("temperature Infinity", NATIVE, _number("temperature", b"Infinity"), 400, "invalid_json"),
    Case("temperature 1e999", NATIVE, _number("temperature", b"1e999"),
         400, "invalid_parameter", "temperature: number out of range"),
    _native("top_p negative", {"top_p": -0.1}, says="top_p: expected float >= 0"),
    _native("top_p above 1", {"top_p": 1.01}, says="top_p: expected float <= 1"),
    _native("top_k negative", {"top_k": -2}, says="top_k: expected int >= 0"),
    _native("top_k a float", {"top_k": 1.5}, says="top_k: expected int | null, got float"),
    _native("repetition_penalty 0", {"repetition_penalty": 0}, says="repetition_penalty: expected float > 0"),
    _native("max_new_tokens -2", {"max_new_tokens": -2}, says="max_new_tokens: expected int >= 1"),
    _native("max_new_tokens 1.5", {"max_new_tokens": 1.5}, says="max_new_tokens: expected int | null, got float"),
    _native("max_new_tokens huge", {"max_new_tokens": 10**30}, says="max_new_tokens"),
    _native("max_new_tokens a word", {"max_new_tokens": "9"}, says="max_new_tokens: expected int | null, got str"),
    _native("max_new_tokens true", {"max_new_tokens": True}, says="max_new_tokens: expected int | null, got bool"),
    _native("stop a number", {"stop": 5}, says="stop: expected"),
    _native("stop too long", {"stop": "a" * 1001}, says="stop: expected str of length <= 1000"),
    _native("stop holds a number", {"stop": ["a", 1]}, says="stop[1]: expected str, got int"),
    _native("stop too many", {"stop": ["a"] * 17}, says="stop: expected array of length <= 16"),
    _native("seed too large", {"seed": 2**63}, says="seed"),
    _native("seed too small", {"seed": -(2**63) - 1}, says="seed"),
    _native("seed a word", {"seed": "x"}, says="seed: expected int"),
    _native("prompt over the context", {"prompt": "z" * 5000}, "context_length_exceeded", LONG),
    _native("prompt of 20 MB", {"prompt": "z" * 20_000_000}, "context_length_exceeded", LONG),
    _native("words of 20 MB", {"prompt": "the cat " * 2_500_000}, "context_length_exceeded", LONG),
    _native("two forms", {"guided_json": {}, "format": "json"}, says="together with guided_json"),
    _native("no JSON", {"guided_regex": "a", "guided_whitespace_pattern": " "}, says="where the answer is JSON"),
    _native("keyword that can't be enforced", {"format": {"not": {}}}, says="has not at $"),
    _native("no regular expression", {"regex": "("}, says="can't be held to this"),
    Case("image", NATIVE, {"prompt": "what", "image": "AAAA"}, 422, "unsupported_modality", "takes no image"),
    Case("audio", NATIVE, {"prompt": "what", "audio": ["AAAA"]}, 422, "unsupported_modality", "takes no audio"),
    Case("video", NATIVE, {"prompt": "what", "video": "AAAA"}, 422, "unsupported_modality", "takes no video"),
    Case("unknown model", "/generate/gpt_5", {}, 404, "model_not_found", "gpt-5. Models: reasoner, tiny"),
    Case("unknown route", "/generat/tiny", {}, 404, "not_found", "No such route: /generat/tiny."),
    Case("wrong method", NATIVE, b"", 405, "method_not_allowed", "takes POST", "PUT", {}, {"Allow": "POST"}),
    Case("wrong type", NATIVE, {}, 415, "unsupported_media_type", "text/plain", "POST", {"Content-Type": "text/plain"}),
]  # fmt: skip
CHAT_CASES = [
    Case("chat: not JSON", CHAT, b"hello", 400, "invalid_json", "not valid JSON"),
    Case("chat: array", CHAT, b"[]", 400, "invalid_parameter", "must be a JSON object"),
    Case("chat: no model", CHAT, b'{"messages":[{"role":"user","content":"a"}]}',
         400, "invalid_parameter", "model: is"),
    Case("chat: unknown model", CHAT, {"model": "gpt-5"}, 404, "model_not_found", "gpt-5. Models: reasoner, tiny"),
    Case("chat: no messages", CHAT, b'{"model":"tiny"}', 400, "invalid_parameter", "messages: is required"),
    Case("chat: empty messages", CHAT, {"messages": []},
         400, "invalid_parameter", "messages: expected array of length >= 1"),
    Case("chat: messages a text", CHAT, {"messages": "hi"}, 400, "invalid_parameter", "messages: expected array"),
    Case("chat: message a text", CHAT, {"messages": ["hi"]}, 400, "invalid_parameter", "messages[0]: expected object"),
    Case("chat: no role", CHAT, {"messages": [{"content": "a"}]},
         400, "invalid_parameter", "messages[0].role: is required"),
    Case("chat: unknown role", CHAT, {"messages": [{"role": "boss", "content": "a"}]}, 400, "invalid_parameter",
         "messages[0].role: invalid enum value 'boss'; allowed: assistant, developer, function, system, tool, user"),
    Case("chat: blank", CHAT, {"messages": [{"role": "user", "content": " "}]}, 400, "missing_prompt", "hold no text"),
    Case("chat: null content", CHAT, {"messages": [{"role": "user", "content": None}]}, 400, "missing_prompt"),
    Case("chat: no parts", CHAT, {"messages": [{"role": "user", "content": []}]}, 400, "missing_prompt"),
    Case("chat: unknown part", CHAT, {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, 400,
         "invalid_parameter", "content[0].type: invalid value 'smell'"),
    Case("chat: part without text", CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400,
         "invalid_parameter", "content[0].text: is required"),
    Case("chat: image", CHAT, {"messages": _image("image_url")}, 422, "unsupported_modality", "image"),
    Case("chat: audio", CHAT, {"messages": _image("input_audio")}, 422, "unsupported_modality", "audio"),
    Case("chat: video", CHAT, {"messages": _image("video_url")}, 422, "unsupported_modality", "video"),
    Case("chat: lone surrogate", CHAT, b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
         400, "invalid_json"),
    Case("chat: invalid UTF-8", CHAT, b'{"model":"tiny","messages":[{"role":"user","content":"\xc3"}]}',
         400, "invalid_json"),
    Case("chat: deep", CHAT,
         b'{"model":"tiny","messages":[{"role":"user","content":"a"}],"x":' + b"[" * DEEP + b"]" * DEEP + b"}",
         400, "invalid_json"),
    Case("chat: n 0", CHAT, {"n": 0}, 400, "invalid_parameter", "n: expected int >= 1"),
    Case("chat: n too large", CHAT, {"n": 1000}, 400, "invalid_parameter", "n: expected int <= 128"),
    Case("chat: no function", CHAT, {"tools": [{"type": "function"}]}, 400, "invalid_parameter", "tools[0].function"),
    Case("chat: no such tool", CHAT, {"tool_choice": "required"}, 400, "invalid_parameter", "there are no tools"),
    Case("chat: a call of a tool", CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
         400, "invalid_parameter", "messages[0].tool_calls[0].function: is required"),
    Case("chat: reasoning", CHAT, {"reasoning_effort": "a lot"}, 400, "invalid_parameter", "reasoning_effort"),
    Case("chat: logprobs", CHAT, {"top_logprobs": 3}, 400, "invalid_parameter", "logprobs"),
    Case("chat: logit_bias", CHAT, {"logit_bias": {"99999999": 1}}, 400, "invalid_parameter",
         "logit_bias: the model has no token 99999999; its tokens are 0 to"),
    Case("chat: logit_bias of a word", CHAT, {"logit_bias": {"yes": 1}}, 400, "invalid_parameter", "logit_bias"),
    Case("chat: logit_bias too strong", CHAT, {"logit_bias": {"5": 101}}, 400, "invalid_parameter",
         "expected float <= 100"),
    Case("chat: frequency_penalty", CHAT, {"frequency_penalty": 3}, 400, "invalid_parameter",
         "frequency_penalty: expected float <= 2"),
    Case("chat: presence_penalty", CHAT, {"presence_penalty": -2.1}, 400, "invalid_parameter",
         "presence_penalty: expected float >= -2"),
    Case("chat: two forms", CHAT, {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
         400, "invalid_parameter", "structured_outputs.regex: can't be asked for together with response_format"),
    Case("chat: no such form", CHAT, {"response_format": {"type": "xml"}}, 400, "invalid_parameter",
         "response_format"),
    Case("chat: a schema that is none", CHAT, {"guided_json": "{"}, 400, "invalid_parameter", "not valid JSON"),
    Case("chat: a schema of everything", CHAT, {"guided_json": {"enum": list(range(20_000))}}, 400, "invalid_parameter",
         "more than 10,000 values"),
    Case("chat: max_tokens -2", CHAT, {"max_tokens": -2}, 400, "invalid_parameter", "max_tokens: expected int >= 1"),
    Case("chat: temperature", CHAT, {"temperature": 9}, 400, "invalid_parameter", "temperature: expected float <= 2"),
    Case("chat: top_p", CHAT, {"top_p": 2}, 400, "invalid_parameter", "top_p: expected float <= 1"),
    Case("chat: stop", CHAT, {"stop": [1]}, 400, "invalid_parameter", "stop[0]"),
    Case("chat: seed", CHAT, {"seed": 2**64}, 400, "invalid_parameter", "seed"),
    Case("chat: stream options", CHAT, {"stream": True, "stream_options": 1},
         400, "invalid_parameter", "stream_options"),
    Case("chat: over the context", CHAT, {"messages": [{"role": "user", "content": "z" * 5000}]}, 400,
         "context_length_exceeded", LONG),
    Case("chat: 20 MB", CHAT, {"messages": [{"role": "user", "content": "z" * 20_000_000}]}, 400,
         "context_length_exceeded", LONG),
    Case("chat: method", CHAT, b"", 405, "method_not_allowed", "takes POST", "DELETE", {}, {"Allow": "POST"}),
    Case("chat: form", CHAT, b"a=b", 415, "unsupported_media_type", "application/json", "POST",
         {"Content-Type": "application/x-www-form-urlencoded"}),
]  # fmt: skip
TEXT_CASES = [
    Case("text: no prompt", TEXT, b'{"model":"tiny"}', 400, "missing_prompt", "prompt is required"),
    Case("text: empty", TEXT, {"prompt": ""}, 400, "missing_prompt", "must not be empty"),
    Case("text: no ids", TEXT, {"prompt": []}, 400, "missing_prompt", "must not be empty"),
    Case("text: no ids, nested", TEXT, {"prompt": [[]]}, 400, "missing_prompt", "must not be empty"),
    Case("text: an object", TEXT, {"prompt": {"a": 1}}, 400, "invalid_parameter", "prompt: expected"),
    Case("text: too many", TEXT, {"prompt": ["a"] * 200}, 400, "invalid_parameter", "128"),
    Case("text: a mixture", TEXT, {"prompt": [1, "b"]}, 400, "invalid_parameter", "prompt: expected texts, or lists"),
    Case("text: token too large", TEXT, {"prompt": [5, 10**6]},
         400, "invalid_parameter", "prompt[1]: token id 1000000 is out of range"),
    Case("text: token negative", TEXT, {"prompt": [-1]},
         400, "invalid_parameter", "prompt[0]: token id -1 is out of range"),
    Case("text: token huge", TEXT, {"prompt": [2**63]}, 400, "invalid_parameter", "prompt[0]"),
    Case("text: token a float", TEXT, {"prompt": [1.5]}, 400, "invalid_parameter", "prompt[0]"),
    Case("text: many ids", TEXT, {"prompt": [5] * 5000}, 400, "context_length_exceeded", "5000 tokens"),
    Case("text: echo", TEXT, {"echo": "yes"}, 400, "invalid_parameter", "echo: expected bool"),
    Case("text: suffix", TEXT, {"suffix": "x"}, 400, "invalid_parameter", "suffix"),
    Case("text: best_of", TEXT, {"best_of": 1, "n": 2}, 400, "invalid_parameter", "best_of"),
    Case("text: logprobs", TEXT, {"logprobs": 1000}, 400, "invalid_parameter", "logprobs: expected int <="),
    Case("text: 20 MB", TEXT, {"prompt": "z" * 20_000_000}, 400, "context_length_exceeded", LONG),
    Case("unknown /v1 route", "/v1/images/edits", {}, 404, "not_found", "No such route: /v1/images/edits."),
    Case("models: unknown", "/v1/models/gpt-5", b"", 404, "model_not_found", "Models: reasoner, tiny", "GET"),
    Case("models: method", "/v1/models", b"", 405, "method_not_allowed", "GET", "POST", {}, {"Allow": "GET, HEAD"}),
]  # fmt: skip
CASES = NATIVE_CASES + CHAT_CASES + TEXT_CASES
POD_CASES = [case for case in CASES if case.path in (NATIVE, CHAT, TEXT)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refusals(gateway: LiveGateway, case: Case) -> None:
    answer = gateway.client.request(case.method, case.path, case.encoded(), case.headers)
    sentence, code, request_id = _told(answer, case.path)
    assert (answer.status, code) == (case.status, case.code), sentence
    assert case.says in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 500
    assert request_id == answer.headers["X-Request-Id"]
    for name, value in case.answer_headers.items():
        assert answer.headers[name] == value


@pytest.mark.parametrize("case", POD_CASES, ids=lambda case: case.name)
def test_a_pod_alone_refuses_the_same(tiny: LivePod, case: Case) -> None:
    path = "/generate" if case.path == NATIVE else case.path
    answer = tiny.client.request(case.method, path, case.encoded(), case.headers)
    sentence, code, _ = _told(answer, path)
    assert (answer.status, code) == (case.status, case.code), sentence


def test_a_refused_stream_is_a_plain_error(gateway: LiveGateway) -> None:
    for path, body in ((NATIVE, {"prompt": "z" * 5000}), (TEXT, {"model": "tiny", "prompt": [10**6]})):
        answer = gateway.client.post(path, body | {"stream": True})
        assert answer.status == 400
        assert answer.headers["Content-Type"].startswith("application/json")


def test_what_is_not_known_is_named(gateway: LiveGateway) -> None:
    answer = gateway.client.post(NATIVE, {"prompt": "hi", "max_new_tokens": 1, "zebra": 1, "aspect_ratio": "4:3"})
    assert answer.status == 200
    assert answer.headers["X-AMS-Ignored-Fields"] == "aspect_ratio, zebra"


@pytest.mark.parametrize("path", [NATIVE, CHAT, TEXT])
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_too_large_bodies_are_refused_in_bounded_memory(
    gateway: LiveGateway, tiny: LivePod, path: str, announced: bool
) -> None:
    """Chunks of /generate are streamed on to the pod, which holds them up to its limit: its memory isn't flat then."""
    before = [_resident(gateway.pid), _resident(tiny.pid)]
    answer = _upload(gateway, path, 65 << 20, announced)
    assert (answer.status, _told(answer, path)[1]) == (413, "body_too_large")
    after = [_resident(gateway.pid), _resident(tiny.pid)]
    assert after[0] - before[0] < 32 << 20
    if announced or path != NATIVE:
        assert after[1] - before[1] < 16 << 20


def test_an_errors_id_is_the_headers_wherever_it_was_refused(gateway: LiveGateway) -> None:
    for path, body in ((NATIVE, b'{"prompt":""}'), (TEXT, b'{"model":"tiny","prompt":""}'), ("/nope", b"")):
        answer = gateway.client.request("POST", path, body, {"X-Request-Id": "a/b+c=@d.e:f-1"})
        assert _told(answer, path)[2] == answer.headers["X-Request-Id"] == "a/b+c=@d.e:f-1"


def test_after_all_that_a_good_request_is_answered(gateway: LiveGateway, tiny: LivePod) -> None:
    answer = gateway.client.post(NATIVE, {"prompt": "hello", "max_new_tokens": 4, "temperature": 0})
    assert answer.status == 200
    assert answer.json()["usage"]["completion_tokens"] >= 1
    tiny.until_load(in_flight=0, queued=0, cache_tokens=0)  # a row leaves the cache in the step behind its last token
    assert tiny.outcomes().get("failed", 0) == 0
    assert "Traceback" not in tiny.log.read_text()
    assert "Traceback" not in gateway.log.read_text()


def _told(answer: Answer, path: str) -> tuple[str, str, str]:
    """(sentence, code, request id) of an error in the shape that the route's clients expect."""
    assert answer.headers["Content-Type"].startswith("application/json")
    body = answer.json()
    if path.startswith("/v1"):
        assert set(body["error"]) == {"message", "type", "param", "code", "request_id"}
        return body["error"]["message"], body["error"]["code"], body["error"]["request_id"]
    return body["error"], body["details"]["code"], body["details"]["request_id"]


def _upload(gateway: LiveGateway, path: str, size: int, announced: bool) -> Answer:
    """Send a body of this size piece by piece, as far as it is taken."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader(*(("Content-Length", str(size)) if announced else ("Transfer-Encoding", "chunked")))
    connection.endheaders()
    start = b'{"model":"tiny","prompt":"'
    piece = b"z" * (1 << 20)
    try:
        for number in range(size >> 20):
            data = (start + piece)[: len(piece)] if number == 0 else piece
            connection.send(data if announced else b"%x\r\n%b\r\n" % (len(data), data))
        if not announced:
            connection.send(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all of it was sent; the answer is there to be read
    response = connection.getresponse()
    with response:
        answer = Answer(response.status, response.headers, response.read())
    connection.close()
    return answer


def _resident(pid: int) -> int:
    """Bytes of memory of its own that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("Linux tells RssAnon")
