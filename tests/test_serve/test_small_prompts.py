"""Small prompts: made at once, whatever the thread for prompts is busy with; and read the same in any way they come."""

import asyncio
import gzip
import json
import threading
from pathlib import Path

import pytest
from test_gateway.gateway_fakes import post, raw_connection, read_raw_answer
from test_serve.echo_pod import echo_pod


async def test_a_small_prompt_waits_for_no_thread(tmp_path: Path) -> None:
    held = threading.Event()
    async with echo_pod(tmp_path) as echo:
        blocking = asyncio.ensure_future(echo.pod.text_pool.run(held.wait))
        try:
            status, _ = await echo.generate(prompt="what")
            assert status == 200
            large = asyncio.ensure_future(echo.generate(prompt="what " * 1000))
            packed = gzip.compress(json.dumps({"prompt": "what " * 1000}).encode())
            assert len(packed) < 4096
            headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
            unpacked = asyncio.ensure_future(echo.client.post(echo.url + "/generate", data=packed, headers=headers))
            await asyncio.sleep(0.3)
            assert not large.done()
            assert not unpacked.done()
        finally:
            held.set()
        assert (await large)[0] == 200
        async with await unpacked as response:
            assert response.status == 200
        await blocking


@pytest.mark.parametrize("way", ["at once", "in pieces", "chunked", "gzip"])
async def test_a_small_body_is_read_however_it_comes(tmp_path: Path, way: str) -> None:
    body = json.dumps({"prompt": "what", "max_new_tokens": 3, "unknown": 1}).encode()
    async with echo_pod(tmp_path) as echo:
        port = int(echo.url.rsplit(":", 1)[1])
        async with raw_connection(port) as (reader, writer):
            if way == "chunked":
                writer.write(
                    post("/generate", b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), "Transfer-Encoding: chunked")
                )
            elif way == "gzip":
                packed = gzip.compress(body)
                writer.write(post("/generate", packed, "Content-Encoding: gzip", f"Content-Length: {len(packed)}"))
            else:
                cut = len(body) if way == "at once" else 5
                writer.write(post("/generate", body[:cut], f"Content-Length: {len(body)}"))
                await asyncio.sleep(0.1)
                writer.write(body[cut:])
            answer = await asyncio.wait_for(read_raw_answer(reader), 5)
    assert answer.status == 200
    assert json.loads(answer.body)["response"]


async def test_a_small_body_that_is_larger_than_allowed(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, max_body_bytes=1024) as echo:
        status, _ = await echo.generate(prompt="x" * 2000)
        assert status == 413
