"""Requests for responses as chats: what Codex, openai-agents and people send."""

from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire import ChatRequest
from ams_common.wire.responses import ResponsesRequest
from ams_pod.serve.conversation import retold
from ams_pod.serve.responses.toolbox import custom_arguments, custom_input
from ams_pod.serve.responses.translating import Translation, sealed, to_chat, unsealed

READER = RequestReader(ResponsesRequest)
PNG = "data:image/png;base64,AAAA"


def translated(**fields: Any) -> Translation:
    return to_chat(READER.read(msgspec.json.encode({"model": "m"} | fields))[0])


def chat(**fields: Any) -> list[Any]:
    """The messages of the chat, without what is left out."""
    told = msgspec.to_builtins(translated(**fields).chat.messages)
    return [{name: value for name, value in message.items() if value is not None} for message in told]


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        translated(**fields)
    return caught.value


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def function(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **fields}


@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"input": "hi"}, [user("hi")]),
        ({"input": "hi", "instructions": "be brief"}, [{"role": "system", "content": "be brief"}, user("hi")]),
        ({"input": [user("hi")]}, [user("hi")]),
        ({"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
         [user("hi")]),
        ({"input": [{"role": "developer", "content": "a"}, user("hi")], "instructions": "b"},
         [{"role": "system", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "a"}]}, user("hi")]),
        ({"input": [user("hi"), {"role": "system", "content": "now"}]},
         [user("hi"), {"role": "system", "content": "now"}]),
        ({"input": [user("hi"), {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                                 "content": [{"type": "output_text", "text": "yes", "annotations": []}]}, user("so")]},
         [user("hi"), {"role": "assistant", "content": "yes"}, user("so")]),
        ({"input": [user("hi"), {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]},
         [user("hi"), {"role": "assistant", "content": "no"}]),
        ({"previous_response_id": "resp_1", "previous_items": [user("first")], "input": "hi"},
         [user("first"), user("hi")]),
    ],
)  # fmt: skip
def test_texts(fields: dict[str, Any], messages: list[Any]) -> None:
    assert chat(**fields) == messages


def test_media() -> None:
    parts = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": PNG, "detail": "low"},
        {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    [message] = chat(input=[{"role": "user", "content": parts}])
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "file", "input_audio"]
    assert message["content"][1]["image_url"]["url"] == PNG
    assert message["content"][1]["image_url"]["detail"] == "low"
    error = refused(input=[{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}])
    assert (error.code, error.param) == ("invalid_parameter", "input[0].content[0].file_id")


def test_a_turn_with_thoughts_and_parallel_calls_is_one_message() -> None:
    """As the items of a response come back: Codex keeps them all."""
    items = [
        user("list and read"),
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Looking."}]},
        {"type": "function_call", "call_id": "c1", "name": "ls", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "c2", "name": "cat", "arguments": '{"path":"a"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "a b"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "x"}]},
    ]
    asked, said, first, second = chat(input=items)
    assert asked == user("list and read")
    assert (said["reasoning_content"], said["content"]) == ("hm", "Looking.")
    assert [(call["id"], call["function"]) for call in said["tool_calls"]] == [
        ("c1", {"name": "ls", "arguments": "{}"}),
        ("c2", {"name": "cat", "arguments": '{"path":"a"}'}),
    ]
    assert first == {"role": "tool", "content": "a b", "tool_call_id": "c1", "name": "ls"}
    assert second == {"role": "tool", "content": "x", "tool_call_id": "c2", "name": "cat"}


def test_an_image_that_a_tool_gave_back_follows_its_result() -> None:
    items = [
        user("look"),
        {"type": "function_call", "call_id": "c1", "name": "view_image", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_image", "image_url": PNG}]},
        user("and?"),
    ]
    translation = translated(input=items)
    roles = [message.role for message in translation.chat.messages]
    assert roles == ["user", "assistant", "tool", "user"]
    assert translation.chat.messages[2].content == "(see the image below)"
    content = translation.chat.messages[3].content
    assert isinstance(content, list)
    assert [type(part).__name__ for part in content] == ["ImagePart", "TextPart"]
    assert translation.places == ["input[0]", "input[1]", "input[2]", "input[3]"]


def test_thoughts_come_back_sealed() -> None:
    """What Codex sends: the content of reasoning is left out, what is sealed isn't."""
    assert unsealed(sealed("grübeln 🤔")) == "grübeln 🤔"
    assert (unsealed("gAAAAB"), unsealed("ams-1.%%"), unsealed("ams-1./w==")) == ("", "", "")
    items = [
        user("a"),
        {"type": "reasoning", "summary": [], "encrypted_content": sealed("hm")},
        {"role": "assistant", "content": "b"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}], "encrypted_content": "gAA"},
        {"role": "assistant", "content": "c"},
    ]
    [_, said] = chat(input=items)
    assert said["reasoning_content"] == "hm\nin short"
    assert said["content"] == "b\nc"


def test_a_custom_tool_is_a_function_with_a_text() -> None:
    """Codex's apply_patch."""
    grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch"'}
    tools = [{"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": grammar}]
    items = [
        user("fix it"),
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": '*** Begin Patch\n"x"'},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "Done!"},
    ]
    translation = translated(input=items, tools=tools)
    [tool] = translation.chat.tools or []
    assert tool.function.name == "apply_patch"
    assert (tool.function.parameters or {})["required"] == ["input"]
    assert "Edits files." in str(tool.function.description)
    assert 'start: "*** Begin Patch"' in str(tool.function.description)
    [call] = translation.chat.messages[1].tool_calls or []
    assert custom_input(call.function.arguments) == '*** Begin Patch\n"x"'
    assert translation.toolbox.address("apply_patch").custom
    assert custom_input('{"input": "half') == '{"input": "half'
    assert custom_input(custom_arguments("a\nb")) == "a\nb"


def test_tools_of_a_namespace() -> None:
    """Codex's MCP servers."""
    tools = [
        {"type": "namespace", "name": "mcp__docs__", "description": "Docs", "tools": [function("search")]},
        {"type": "namespace", "name": "git", "description": "Git", "tools": [function("log"), {"type": "mcp"}]},
    ]
    items = [{"type": "function_call", "call_id": "c", "name": "log", "namespace": "git", "arguments": "{}"}]
    translation = translated(input=[user("hi"), *items], tools=tools)
    assert [tool.function.name for tool in translation.chat.tools or []] == ["mcp__docs__search", "git__log"]
    address = translation.toolbox.address("git__log")
    assert (address.namespace, address.name) == ("git", "log")
    [call] = translation.chat.messages[1].tool_calls or []
    assert call.function.name == "git__log"
    assert translation.toolbox.left_out == ("tools[1].tools[1] (mcp)",)


HOSTED = [
    "web_search",
    "web_search_preview",
    "file_search",
    "code_interpreter",
    "mcp",
    "image_generation",
    "local_shell",
]


@pytest.mark.parametrize("kind", HOSTED)
def test_tools_that_a_server_would_run(kind: str) -> None:
    """Beside tools that the client runs they are left out, and named; alone they are refused."""
    tool = {"type": kind, "external_web_access": True}
    translation = translated(input="hi", tools=[function("f"), tool])
    assert [each.function.name for each in translation.chat.tools or []] == ["f"]
    assert translation.toolbox.left_out == (f"tools[1] ({kind})",)
    assert [each.type for each in translation.toolbox.told] == ["function"]
    error = refused(input="hi", tools=[tool])
    assert (error.code, error.param) == ("invalid_parameter", "tools[0].type")
    assert kind in error.message
    assert refused(input="hi", tools=[function("f"), tool], tool_choice={"type": kind}).code == "invalid_parameter"
    assert translated(input="hi", tools=[tool], tool_choice="none").chat.tools is None


@pytest.mark.parametrize(
    ("choice", "names", "told"),
    [
        ("auto", ["a", "b"], "auto"),
        ("required", ["a", "b"], "required"),
        ({"type": "function", "name": "b"}, ["a", "b"], "b"),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "b"}]},
            ["b"],
            "required",
        ),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "a"}]}, ["a"], "auto"),
    ],
)
def test_the_choice_of_a_tool(choice: Any, names: list[str], told: str) -> None:
    made = translated(input="hi", tools=[function("a"), function("b")], tool_choice=choice).chat
    assert [tool.function.name for tool in made.tools or []] == names
    assert (made.tool_choice if isinstance(made.tool_choice, str) else made.tool_choice.function.name) == told  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name"),
        ({"input": [{"type": "function_call", "name": "c"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"role": "assistant", "content": [{"type": "input_image", "image_url": PNG}]}]},
         "input[0].content[0]"),
        ({"input": "hi", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "hi", "tools": [function("f"), function("f")]}, "tools[1].name"),
        ({"input": "hi", "tools": [function("f")], "tool_choice": {"type": "function", "name": "g"}},
         "tool_choice.name"),
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "web_search_call", "id": "ws_1"}]}, "input[0].type"),
        ({"input": "hi", "background": True}, "background"),
        ({"input": "hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "hi", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": "hi", "truncation": "auto"}, "truncation"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert (error.status, error.param) == (404 if param == "previous_response_id" else 400, param)
    assert error.message.endswith(".")


def test_the_rest_reaches_the_chat() -> None:
    fields = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 7, "stream": True, "max_output_tokens": 9}
    made = translated(input="hi", **fields, parallel_tool_calls=False).chat
    assert isinstance(made, ChatRequest)
    assert (made.temperature, made.top_p, made.top_k, made.seed, made.stream) == (0.5, 0.9, 5, 7, True)
    assert (made.max_completion_tokens, made.parallel_tool_calls) == (9, False)


def test_errors_name_the_places_of_the_request() -> None:
    error = ApiError("invalid_base64", "messages[1].content[0].image_url.url: no.", param="messages[1].content")
    told = retold(error, ["instructions", "input[4]"], "text.format")
    assert (told.message, told.param) == ("input[4]: no.", "input[4]")


def test_structured_output() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    text = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
    made = msgspec.to_builtins(translated(input="hi", text=text).chat.response_format)
    assert (made["type"], made["json_schema"]["schema"]) == ("json_schema", schema)
    made = msgspec.to_builtins(translated(input="hi", text={"format": {"type": "json_object"}}).chat.response_format)
    assert made == {"type": "json_object"}
    assert translated(input="hi", text={"format": {"type": "text"}}).chat.response_format is None
    assert refused(input="hi", text={"format": {"type": "json_schema", "name": "n"}}).param == "text.format.schema"


def test_nothing_that_codex_sends_is_ignored() -> None:
    """A request of Codex as its source and public logs have it."""
    body = {
        "model": "m",
        "instructions": "You are a coding agent running in the Codex CLI.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "<permissions>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<environment_context>"}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "fix the test"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "content": None,
             "encrypted_content": sealed("thought")},
            {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}', "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "main.py"},
        ],
        "tools": [
            function("exec_command", strict=False, description="Runs a command in a PTY."),
            {"type": "custom", "name": "apply_patch", "description": "x",
             "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/s"}},
            {"type": "web_search"},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "019a",
        "text": {"verbosity": "medium"},
        "client_metadata": {"x-codex-installation-id": "1"},
    }  # fmt: skip
    request, ignored = READER.read(msgspec.json.encode(body))
    assert ignored == []
    made = to_chat(request)
    assert [message.role for message in made.chat.messages] == ["system", "user", "user", "assistant", "tool"]
    assert made.chat.messages[3].reasoning_content == "thought"
    assert made.toolbox.left_out == ("tools[2] (web_search)",)
