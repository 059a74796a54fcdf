"""Tokens of texts and chats, and their text."""

from pathlib import Path
from typing import Any

from test_serve.test_tools_http import ASK, TOOL, pod


async def post(running: Any, path: str, status: int = 200, **fields: Any) -> Any:
    found, body = await running.post(path, {"model": "echo"} | fields)
    assert found == status, body
    return body


async def test_a_text_and_its_tokens(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        body = await post(running, "/tokenize", prompt="aé", return_token_strs=True)
        assert body == {"count": 2, "max_model_len": 100_000, "tokens": [97, 233], "token_strs": ["a", "é"]}
        assert (await post(running, "/tokenize", prompt="a"))["token_strs"] is None
        assert await post(running, "/detokenize", tokens=[97, 233]) == {"prompt": "aé"}


async def test_a_chat_has_the_tokens_that_its_answer_would_count(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        body = await post(running, "/tokenize", messages=ASK, tools=[TOOL])
        chat = await post(running, "/v1/chat/completions", messages=ASK, tools=[TOOL])
        assert body["count"] == chat["usage"]["prompt_tokens"]
        assert running.engine.options[0] == running.engine.options[1]


async def test_what_cant_be_tokenized_is_told(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        assert "either prompt or messages" in str(await post(running, "/tokenize", 400))
        assert "either prompt or messages" in str(await post(running, "/tokenize", 400, prompt="a", messages=ASK))
        assert "add_special_tokens" in str(await post(running, "/tokenize", 400, prompt="a", add_special_tokens=False))
        assert "model" in str(await post(running, "/tokenize", 404, model="other", prompt="a"))
