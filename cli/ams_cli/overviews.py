"""A gateway's overview of its models, followed as it changes."""

from collections.abc import AsyncGenerator

import aiohttp
from ams_common.outside import InvalidJson, read_json
from ams_common.wire import Overview

from ams_cli.gateway_client import GatewayClient, GatewayError, refusal

_PATH = "/overview"
_MOST_BYTES = 16 << 20  # of one event
_CHUNK_BYTES = 64 << 10


async def follow(gateway: GatewayClient) -> AsyncGenerator[Overview, None]:
    """Each overview as it comes, until the gateway ends the stream. GatewayError."""
    answer = await gateway.open("GET", _PATH, accept="text/event-stream")
    try:
        if answer.status != 200:
            raise GatewayError(refusal(answer, await answer.read()))
        buffer = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK_BYTES):
            buffer += chunk
            if len(buffer) > _MOST_BYTES:
                raise GatewayError(f"{gateway.where}{_PATH} is not AI Model Server's")
            *events, rest = bytes(buffer).split(b"\n\n")
            buffer = bytearray(rest)
            for event in events:
                for line in event.splitlines():
                    if line.startswith(b"data: "):
                        yield _overview(line.removeprefix(b"data: "), gateway)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise GatewayError(f"{gateway.where} closed the connection ({error})") from None
    finally:
        answer.close()


def _overview(data: bytes, gateway: GatewayClient) -> Overview:
    try:
        return read_json(data, Overview, max_bytes=_MOST_BYTES)
    except InvalidJson:
        raise GatewayError(f"{gateway.where}{_PATH} is not AI Model Server's") from None
