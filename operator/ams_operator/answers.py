"""Answers of strangers over HTTP: read within bounds, and JSON of them only as a value or one error."""

from typing import TypeVar

import aiohttp
from ams_common.outside import InvalidJson, read_json

T = TypeVar("T")

_PIECE_BYTES = 1 << 16


class TooLarge(InvalidJson):
    """An answer has more bytes than it may."""


async def read_bounded(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """The whole body. TooLarge as soon as it has more than `most_bytes`; aiohttp's errors as it breaks."""
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        body += piece
        if len(body) > most_bytes:
            raise TooLarge(f"is larger than {most_bytes:,} bytes")
    return bytes(body)


async def get_json(
    session: aiohttp.ClientSession,
    url: str,
    type_: type[T],
    *,
    most_bytes: int,
    statuses: tuple[int, ...] = (200,),
    query: dict[str, str] | None = None,
) -> T:
    """What `url` itself answers: a redirect is an answer of another status, and never followed.

    aiohttp.ClientError, OSError, or InvalidJson.
    """
    async with session.get(url, params=query, allow_redirects=False) as response:
        if response.status not in statuses:
            raise InvalidJson(f"has status {response.status}")
        return read_json(await read_bounded(response, most_bytes), type_, max_bytes=most_bytes)
