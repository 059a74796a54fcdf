"""Requests for messages as chats: what Claude Code, Anthropic's SDK and people send."""

from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire.messages import CountTokensRequest, MessagesRequest
from ams_pod.serve.messages.translating import Translation, to_chat

READER = RequestReader(MessagesRequest)
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
CACHED = {"cache_control": {"type": "ephemeral"}}


def translated(**fields: Any) -> Translation:
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]} | fields
    return to_chat(READER.read(msgspec.json.encode(body))[0])


def chat(**fields: Any) -> list[Any]:
    told = msgspec.to_builtins(translated(**fields).chat.messages)
    return [{name: value for name, value in message.items() if value is not None} for message in told]


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        translated(**fields)
    return caught.value


def text(value: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **fields}


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "description": "x", "input_schema": {"type": "object", "properties": {}}, **fields}


HI = {"role": "user", "content": "hi"}


def test_system_texts() -> None:
    assert chat(system="be brief") == [{"role": "system", "content": "be brief"}, HI]
    blocks = [text("x-anthropic-billing-header: cch=1f;"), text("a", **CACHED), text("b")]
    assert chat(system=blocks) == [{"role": "system", "content": [text("a"), text("b")]}, HI]
    assert chat(messages=[HI, {"role": "system", "content": "now"}]) == [HI, {"role": "system", "content": "now"}]


def test_images_and_documents() -> None:
    content = [
        text("see"),
        IMAGE,
        {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
        {"type": "document", "title": "T", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "plain"}},
        {"type": "document", "source": {"type": "content", "content": [text("in parts")]}},
        {"type": "search_result", "source": "https://c", "title": "C", "content": [text("found")]},
    ]
    [message] = chat(messages=[{"role": "user", "content": content}])
    assert [part["type"] for part in message["content"]] == [
        "text", "image_url", "image_url", "text", "file", "text", "text", "text",
    ]  # fmt: skip
    assert message["content"][1]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert message["content"][4]["file"]["file_data"] == "data:application/pdf;base64,AA"
    assert message["content"][7]["text"] == "C\nhttps://c\nfound"
    word = {"type": "document", "source": {"type": "base64", "media_type": "application/msword", "data": "AA"}}
    assert refused(messages=[{"role": "user", "content": [word]}]).param == "messages[0].content[0].source.media_type"


def test_a_loop_of_tools() -> None:
    """As Claude Code goes on: thoughts, text and parallel calls, results in one message, one of them an error."""
    messages = [
        {"role": "user", "content": [text("list and read", **CACHED)]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "sig"},
            {"type": "redacted_thinking", "data": "xx"},
            text("Looking."),
            {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
            {"type": "tool_use", "id": "t2", "name": "Read", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": "a b", **CACHED},
            {"type": "tool_result", "tool_use_id": "t2", "content": [text("no such file")], "is_error": True},
            text("<system-reminder>go on</system-reminder>"),
        ]},
    ]  # fmt: skip
    asked, said, first, second, reminder = chat(messages=messages)
    assert asked["content"] == "list and read"
    assert (said["reasoning_content"], said["content"]) == ("hm", "Looking.")
    assert [(call["id"], call["function"]) for call in said["tool_calls"]] == [
        ("t1", {"name": "Bash", "arguments": '{"command":"ls"}'}),
        ("t2", {"name": "Read", "arguments": "{}"}),
    ]
    assert first == {"role": "tool", "content": "a b", "tool_call_id": "t1", "name": "Bash"}
    assert second["content"] == [text("Error:"), text("no such file")]
    assert reminder == {"role": "user", "content": "<system-reminder>go on</system-reminder>"}


def test_results_without_content_and_with_images() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": "t1"},
        {"type": "tool_result", "tool_use_id": "t2", "content": [IMAGE, text("a picture")]},
        {"type": "tool_result", "tool_use_id": "t3", "content": "Error: no", "is_error": True},
    ]
    first, second, third, media = chat(messages=[{"role": "user", "content": results}])
    assert (first["content"], second["content"], third["content"]) == ("", "a picture", "Error: no")
    assert [part["type"] for part in media["content"]] == ["image_url"]
    assert media["role"] == "user"


@pytest.mark.parametrize(
    ("choice", "told", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        ({"type": "tool", "name": "b"}, "b", None),
    ],
)
def test_the_choice_of_a_tool(choice: Any, told: str, parallel: bool | None) -> None:
    made = translated(tools=[tool("a", strict=True), tool("b", type="custom")], tool_choice=choice).chat
    assert [each.function.name for each in made.tools or []] == ["a", "b"]
    assert (made.tools or [])[0].function.strict is True
    assert (made.tool_choice if isinstance(made.tool_choice, str) else made.tool_choice.function.name) == told  # type: ignore[union-attr]
    assert made.parallel_tool_calls is parallel


@pytest.mark.parametrize(
    "kind",
    ["web_search_20250305", "web_fetch_20250910", "code_execution_20250825", "bash_20250124", "text_editor_20250728"],
)
def test_tools_of_anthropics_servers(kind: str) -> None:
    """Beside tools that the client runs they are left out, and named; alone, or chosen, they are refused."""
    other = {"type": kind, "name": "it", "max_uses": 8}
    translation = translated(tools=[tool("a"), other])
    assert [each.function.name for each in translation.chat.tools or []] == ["a"]
    assert translation.left_out == [f"tools[1] ({kind})"]
    error = refused(tools=[other])
    assert (error.code, error.param) == ("invalid_parameter", "tools[0].type")
    assert kind in error.message
    assert refused(tools=[tool("a"), other], tool_choice={"type": "tool", "name": "it"}).param == "tools[1].type"


def test_the_rest_reaches_the_chat() -> None:
    made = translated(
        temperature=0.2, top_p=0.5, top_k=3, stop_sequences=["\n\nHuman:"], stream=True, max_tokens=7
    ).chat
    assert (made.temperature, made.top_p, made.top_k, made.stop) == (0.2, 0.5, 3, ["\n\nHuman:"])
    assert (made.stream, made.max_tokens) == (True, 7)


def test_thinking_effort_and_structured_output() -> None:
    schema = {"type": "object"}
    made = translated(output_config={"effort": "low", "format": {"type": "json_schema", "schema": schema}}).chat
    assert made.reasoning_effort == "low"
    assert msgspec.to_builtins(made.response_format)["json_schema"]["schema"] == schema
    for kind, thinks in (("disabled", False), ("enabled", True), ("adaptive", None), ("between_tools", None)):
        assert translated(thinking={"type": kind, "budget_tokens": 1024}).chat.enable_thinking is thinks


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]},
         "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "web_search_tool_result", "tool_use_id": "a"}]}]},
         "messages[0].content[0].type"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [tool("a"), tool("a")]}, "tools[1].name"),
        ({"tools": [tool("a")], "tool_choice": {"type": "tool", "name": "b"}}, "tool_choice.name"),
        ({"tools": [tool("a")], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"name": "a"}]}, "mcp_servers"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (400, param)


def test_nothing_that_claude_code_sends_is_ignored() -> None:
    """A request of Claude Code, as its users have logged them."""
    body = {
        "model": "claude-sonnet-4-5-20250929",
        "max_tokens": 32000,
        "system": [
            text("x-anthropic-billing-header: cc_version=2.1;"),
            text("You are Claude Code, Anthropic's official CLI for Claude.", **CACHED),
            text("You are an interactive CLI tool that helps users with software engineering tasks. " * 200, **CACHED),
        ],
        "messages": [
            {"role": "user", "content": [text("<system-reminder>CLAUDE.md</system-reminder>"), text("fix", **CACHED)]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}, "caller": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "main.py", "is_error": False, **CACHED},
            ]},
        ],
        "tools": [tool("Bash", eager_input_streaming=True), tool("Read", **CACHED)],
        "metadata": {"user_id": "user_1_session_2"},
        "thinking": {"type": "adaptive"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "temperature": 1,
        "stream": True,
    }  # fmt: skip
    request, ignored = READER.read(msgspec.json.encode(body))
    assert ignored == []
    made = to_chat(request)
    assert [message.role for message in made.chat.messages] == ["system", "user", "assistant", "tool"]
    assert len(made.chat.messages[0].content or "") == 2
    counted = {name: body[name] for name in ("model", "messages", "system", "tools", "thinking")}
    count, ignored = RequestReader(CountTokensRequest).read(msgspec.json.encode(counted))
    assert ignored == []
    assert to_chat(count).chat.messages == made.chat.messages
