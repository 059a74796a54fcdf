"""Clients generated from /openapi.json work against a real gateway; `make clients` installs the generators."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
GENERATORS = Path(os.environ.get("AMS_CLIENTS", HERE.parents[1] / ".clients"))
PYTHON = GENERATORS / "venv" / "bin" / "python"
NODE_BIN = GENERATORS / "node_modules" / ".bin"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
EXPECTED = {
    "chat": "Good day.",
    "chat_tokens": 5,
    "stream": ["Good", " day."],
    "refusal": "model_not_found",
    "transcription": "a.wav en 0.5: 10 bytes",
    "models": ["m"],
    "memory": 1.5,
    "state": "ready",
    "cleaned": 2,
}


def needs(program: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not program.exists(), reason=f"{program.name} is not installed there: make clients")


async def behave(exchange: Exchange) -> None:
    """A pod with a chat, a transcription that tells what it was sent, and the admin routes."""
    request = exchange.request
    common = {"id": "1", "created": 1, "model": "m"}
    match request.target:
        case "/v1/chat/completions" if json.loads(request.body).get("stream"):
            await exchange.start_stream()
            for text in ("Good", " day."):
                choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
                event = {**common, "object": "chat.completion.chunk", "choices": [choice], "usage": None}
                await exchange.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
            await exchange.chunk(b"data: [DONE]\n\n")
            await exchange.end_stream()
        case "/v1/chat/completions":
            message = {"role": "assistant", "content": "Good day."}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            await exchange.json(200, {**common, "object": "chat.completion", "choices": [choice], "usage": USAGE})
        case "/v1/audio/transcriptions":
            file, fields = form_of(request.headers["content-type"], request.body)
            text = f"{file[0]} {fields['language']} {fields['temperature']}: {len(file[1])} bytes"
            usage = {"type": "tokens", "input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
            await exchange.json(200, {"text": text, "usage": usage})
        case "/v1/models":
            await exchange.json(200, {"data": [{"max_model_len": 4096, "modalities": ["text", "audio"]}]})
        case "/admin/memory_status":
            await exchange.json(200, {"gpu_available": False, "process_gb": 1.5})
        case "/admin/model_status":
            await exchange.json(200, {"state": "ready", "modalities": ["text", "audio"]})
        case "/admin/cleanup_temp":
            await exchange.json(200, {"message": "x", "cleaned_files": 2, "total_size_mb": 0.5})


def form_of(content_type: str, body: bytes) -> tuple[tuple[str, bytes], dict[str, str]]:
    """((name, content) of the file, texts by name) of a multipart body."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    file, fields = ("", b""), {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.removesuffix(b"\r\n").partition(b"\r\n\r\n")
        names = dict(item.split("=", 1) for item in head.decode().splitlines()[1].split("; ")[1:])
        if "filename" in names:
            file = names["filename"].strip('"'), content
        else:
            fields[names["name"].strip('"')] = content.decode()
    return file, fields


async def run(*command: Path | str, cwd: Path) -> str:
    """The output of a program that has to succeed."""
    path = f"{NODE_BIN}:{PYTHON.parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env={**os.environ, "PATH": path, "PYTHONPATH": str(cwd / "client")},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    assert process.returncode == 0, (output + errors).decode()
    return output.decode()


@pytest.fixture
async def gateway(start: Start, pod, registry: FakeRegistry, tmp_path: Path) -> Running:
    """A gateway, whose document lies in openapi.json."""
    registry.add("m", (await pod(behave)).address)
    running = await start(registry)
    async with running.client.get(running.url + "/openapi.json") as response:
        (tmp_path / "openapi.json").write_bytes(await response.read())
    return running


@needs(PYTHON.with_name("openapi-python-client"))
async def test_the_client_of_openapi_python_client(gateway: Running, tmp_path: Path) -> None:
    generated = await run(
        "openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "client", cwd=tmp_path
    )
    assert "Warning" not in generated
    result: Any = json.loads(await run(PYTHON, HERE / "generated_client.py", gateway.url, cwd=tmp_path))
    assert result == EXPECTED


@needs(NODE_BIN / "openapi-typescript")
async def test_the_client_of_openapi_typescript(gateway: Running, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(GENERATORS / "node_modules")
    (tmp_path / "client.ts").write_text((HERE / "generated_client.ts").read_text())
    await run("openapi-typescript", "openapi.json", "--output", "api.d.ts", cwd=tmp_path)
    options = ("--strict", "--skipLibCheck", "--target=es2022", "--lib=es2022,dom,dom.iterable", "--module=commonjs")
    await run("tsc", *(part for option in options for part in option.split("=")), "client.ts", cwd=tmp_path)
    assert json.loads(await run("node", "client.js", gateway.url, cwd=tmp_path)) == EXPECTED


@needs(PYTHON.with_name("openapi-spec-validator"))
@pytest.mark.usefixtures("gateway")
async def test_the_document_is_valid(tmp_path: Path) -> None:
    assert "OK" in await run("openapi-spec-validator", "openapi.json", cwd=tmp_path)
