"""Media from the URLs that are allowed.

Each name is looked up once, every address it has is checked, and the connection goes to one of those: a name that
answers differently the second time gains nothing. Redirects are followed by hand, each checked like the first.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urljoin

import aiohttp
import yarl
from aiohttp.abc import AbstractResolver, ResolveResult

from ams_pod.media.limits import MediaLimits, too_many_bytes
from ams_pod.media.spool import Upload, UploadWriter
from ams_pod.media.urls import Address, AllowedHosts, check_url, checked, is_public, refused

Lookup = Callable[[str, int], Awaitable[list[str]]]

_REDIRECTS = 3
_REDIRECT_CODES = (301, 302, 303, 307, 308)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "ai-model-server"}
_CHUNK_BYTES = 1 << 20


async def system_lookup(host: str, port: int) -> list[str]:
    """All addresses of a name, or the address that it is. OSError if there are none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch(
    url: str,
    field: str,
    writer: UploadWriter,
    hosts: AllowedHosts,
    limits: MediaLimits,
    max_bytes: int,
    *,
    lookup: Lookup = system_lookup,
    may_connect: Callable[[Address], bool] = is_public,
) -> Upload:
    """What is at the URL. ApiError `invalid_parameter` when it isn't allowed or doesn't answer with it.

    `media_too_large` past `max_bytes`. `lookup` and `may_connect` say what a name means and which addresses are fine.
    """
    try:
        async with asyncio.timeout(limits.fetch_seconds):
            for _ in range(_REDIRECTS + 1):
                found = await _get(url, field, writer, hosts, max_bytes, lookup, may_connect)
                if isinstance(found, Upload):
                    return found
                url = found
    except TimeoutError:
        raise refused(field, f"the URL did not answer within {limits.fetch_seconds:g} seconds") from None
    except (aiohttp.ClientError, OSError, UnicodeError, ValueError) as error:
        raise refused(field, f"the URL can't be fetched ({type(error).__name__})") from None
    raise refused(field, f"the URL redirects more than {_REDIRECTS} times")


async def _get(
    url: str,
    field: str,
    writer: UploadWriter,
    hosts: AllowedHosts,
    max_bytes: int,
    lookup: Lookup,
    may_connect: Callable[[Address], bool],
) -> Upload | str:
    """The upload, or where the answer redirects to."""
    parts, host, port = check_url(url, field, hosts)
    target = yarl.URL(parts.geturl())
    if target.host != host:  # two readings of one URL: what was checked must be what is asked
        raise refused(field, "the URL is not valid")
    addresses = checked(await lookup(host, port))
    if not addresses or not all(map(may_connect, addresses)):
        raise refused(field, f"{host[:100]} has an address that media are not fetched from")
    connector = aiohttp.TCPConnector(resolver=_Known(host, addresses), use_dns_cache=False, force_close=True)
    async with (
        aiohttp.ClientSession(
            connector=connector, auto_decompress=False, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as client,
        client.get(target, headers=_HEADERS, allow_redirects=False) as response,
    ):
        if response.status in _REDIRECT_CODES and (location := response.headers.get("Location")):
            return urljoin(url, location)
        if response.status != 200:
            raise refused(field, f"the URL answered with status {response.status}")
        await _keep(response, field, writer, max_bytes)
    return await asyncio.to_thread(writer.finish)


async def _keep(response: aiohttp.ClientResponse, field: str, writer: UploadWriter, max_bytes: int) -> None:
    total = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        total += len(chunk)
        if total > max_bytes:
            raise too_many_bytes(field, max_bytes)
        await asyncio.to_thread(writer.write, chunk)


class _Known(AbstractResolver):
    """Knows the addresses of one host, which were checked, and of no other."""

    def __init__(self, host: str, addresses: list[Address]) -> None:
        self._host = host
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> list[ResolveResult]:
        if host.rstrip(".").lower() != self._host:
            raise OSError(f"{host} was not looked up")
        return [
            ResolveResult(
                hostname=host, host=str(address), port=port, proto=0, flags=socket.AI_NUMERICHOST,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
            )
            for address in self._addresses
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""
