"""`ams chat`: a conversation with one model, in the terminal."""

import base64
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_cli.gateway_client import GatewayClient, GatewayError, refusal

_HELP = (
    "/image FILE, /audio FILE and /video FILE attach to the next question; /clear starts over; /quit or Ctrl-D exits."
)
_MODALITIES = ("image", "audio", "video")


class ChatError(Exception):
    """A question can't be asked; the message is a sentence."""


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    error: _Error | None = None


def attachment(kind: str, path: str) -> dict[str, Any]:
    """A file as a content part of OpenAI's chat. ChatError if it can't be read."""
    file = Path(path).expanduser()
    try:
        data = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise ChatError(f"{path}: {error.strerror or error}") from None
    suffix = file.suffix.lstrip(".").lower() or "octet-stream"
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": suffix}}
    name = f"{kind}_url"
    return {"type": name, name: {"url": f"data:{kind}/{suffix};base64,{data}"}}


class Conversation:
    """The conversation so far. `ask` streams the answer to the next question."""

    def __init__(self, gateway: GatewayClient, model: str, system: str = "") -> None:
        self._gateway = gateway
        self._model = model
        self._system = [{"role": "system", "content": system}] if system else []
        self._said: list[dict[str, Any]] = []

    def clear(self) -> None:
        self._said = []

    async def ask(
        self, question: str, attachments: list[dict[str, Any]], on_wait: Callable[[str], None]
    ) -> AsyncIterator[str]:
        """The answer, piece by piece. `on_wait` hears how far a model is that isn't ready. GatewayError."""
        content: Any = [*attachments, {"type": "text", "text": question}] if attachments else question
        messages = [*self._system, *self._said, {"role": "user", "content": content}]
        body = {"model": self._model, "messages": messages, "stream": True}
        answer = await self._gateway.open("POST", "/v1/chat/completions", body)
        try:
            if answer.status != 200:
                raise GatewayError(refusal(answer, await answer.read()))
            whole = ""
            async for raw in answer.content:
                line = raw.strip()
                if line.startswith(b":") and not line.startswith((b": usage", b": queued")):
                    on_wait(line[1:].strip().decode(errors="replace"))
                if not line.startswith(b"data: ") or line == b"data: [DONE]":
                    continue
                chunk = read_json(line[6:], _Chunk)
                if chunk.error is not None:
                    raise GatewayError(chunk.error.message or "the gateway reported an error without a message")
                piece = "".join(choice.delta.content or "" for choice in chunk.choices)
                whole += piece
                if piece:
                    yield piece
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GatewayError(f"the answer was cut off ({error})") from None
        except InvalidJson:
            raise GatewayError(f"{self._gateway.where} doesn't stream like AI Model Server") from None
        finally:
            answer.close()
        self._said += [{"role": "user", "content": content}, {"role": "assistant", "content": whole}]


async def once(conversation: Conversation, question: str, attachments: list[dict[str, Any]]) -> None:
    """One question, its answer on the standard output."""
    waiting = _Waiting()
    async for piece in conversation.ask(question, attachments, waiting.tell):
        waiting.end()
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


async def talk(conversation: Conversation, read: Callable[[], str], attachments: list[dict[str, Any]]) -> None:
    """Questions from `read` until EOFError; what goes wrong with one of them doesn't end the conversation."""
    print(_HELP)
    while True:
        try:
            question = read().strip()
        except EOFError:
            print()
            return
        if question in ("/quit", "/exit"):
            return
        if question == "/clear":
            conversation.clear()
            attachments = []
        elif question.startswith("/"):
            try:
                attachments = [*attachments, _attached(question)]
            except ChatError as error:
                print(f"ams: {error}")
        elif question:
            try:
                await once(conversation, question, attachments)
                attachments = []
            except GatewayError as error:
                print(f"ams: {error}")


def _attached(command: str) -> dict[str, Any]:
    kind, _, path = command[1:].partition(" ")
    if kind not in _MODALITIES or not path.strip():
        raise ChatError(f"{command.split()[0]} is not a command. {_HELP}")
    return attachment(kind, path.strip())


class _Waiting:
    """How far the model is, in one line that is overwritten; only where a person looks."""

    def __init__(self) -> None:
        self._width = 0

    def tell(self, words: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{words.ljust(self._width)}")
            sys.stderr.flush()
            self._width = max(self._width, len(words))

    def end(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0
