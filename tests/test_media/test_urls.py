"""URLs: which are allowed, and what a server at one may do."""

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from ams_common.errors import ApiError
from ams_pod.media.fetch import fetch
from ams_pod.media.limits import MediaLimits
from ams_pod.media.spool import Spool
from ams_pod.media.temp import TempFolder
from ams_pod.media.urls import AllowedHosts, check_url, is_public, is_url

HOSTS = AllowedHosts.parse("example.com, *.example.org, media.example.net:8443")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png", "http://example.com/a", "HTTPS://EXAMPLE.com:443/a?b=c#d", "https://example.com",
        "https://cdn.example.org/a", "https://a.b.example.org/", "https://media.example.net:8443/x",
        "https://example.com./a", " https://example.com/a ",
    ],
)  # fmt: skip
def test_allowed(url: str) -> None:
    assert is_url(url)
    assert check_url(url, "image", HOSTS)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.com/", "https://example.org/", "https://notexample.com/", "https://example.com.evil.com/",
        "https://example.com:8080/", "https://media.example.net/", "http://user@example.com/",
        "http://user:word@example.com/", "http://example.com@evil.com/", "http://example.com\\@evil.com/",
        "http://[::1]/", "http://127.0.0.1/", "http://0x7f.1/", "ftp://example.com/a", "file:///etc/passwd",
        "gopher://example.com/", "http:///a", "http://", "http://exa mple.com/", "http://example.com:99999/",
        "http://example.com:0x50/", "http://[::1/", "http://example.com/\r\nX: y",
    ],
)  # fmt: skip
def test_refused(url: str) -> None:
    assert is_url(url)
    with pytest.raises(ApiError) as caught:
        check_url(url, "image", HOSTS)
    assert (caught.value.code, caught.value.status, caught.value.param) == ("invalid_parameter", 400, "image")


def test_none_are_allowed_unless_configured() -> None:
    with pytest.raises(ApiError, match="URLs are not fetched by this server; send base64 or a data URI"):
        check_url("https://example.com/a.png", "image", AllowedHosts.parse(""))


def test_what_is_no_url() -> None:
    for text in ("data:image/png;base64,AAAA", "AAAA", "", "/etc/passwd", "C:\\a.png", "//example.com/a"):
        assert not is_url(text)


@pytest.mark.parametrize("text", ["https://example.com", "*", "a*b.com", "example.com:port", "user@example.com"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        AllowedHosts.parse(text)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "::1", "::", "fe80::1",
        "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:808:808::", "2001::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_inside_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_outside_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@dataclass
class Site:
    """A server on loopback, and what was asked of it and of the names."""

    port: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    addresses: dict[str, list[str]] = field(default_factory=dict)
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.host, request.path_qs))
        self.headers.append(dict(request.headers))
        assert self.answer is not None
        return await self.answer(request)

    async def lookup(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        return self.addresses.get(host, ["127.0.0.1"])

    async def get(self, folder: Path, path: str = "/a", host: str = "site.test", **options: Any) -> bytes:
        values = {"max_bytes": 1000, "limits": MediaLimits(fetch_seconds=20)} | options
        allowed = AllowedHosts.parse(f"site.test:{self.port},other.test:{self.port}")
        with Spool(TempFolder(str(folder)), 100) as spool:
            upload = await fetch(
                f"http://{host}:{self.port}{path}", "image", spool.writer(), allowed, values["limits"],
                values["max_bytes"], lookup=self.lookup, may_connect=lambda address: str(address) == "127.0.0.1",
            )  # fmt: skip
            return upload.open().read()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    runner = web.ServerRunner(web.Server(site.handle, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


def _sends(body: bytes, status: int = 200, **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return answer


@pytest.mark.parametrize("size", [10, 999])
async def test_fetching(site: Site, tmp_path: Path, size: int) -> None:
    site.answer = _sends(b"x" * size)
    assert await site.get(tmp_path, "/a?b=c%20d") == b"x" * size
    assert site.asked == [(f"site.test:{site.port}", "/a?b=c%20d")]
    assert site.looked_up == ["site.test"], "a name is looked up once: it can't mean something else on connecting"
    assert {name.lower() for name in site.headers[0]} <= {
        "host",
        "accept",
        "accept-encoding",
        "user-agent",
        "connection",
    }


async def test_redirects_are_checked_like_the_first(site: Site, tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        step = int(request.query.get("n", "0"))
        if step < int(request.query["of"]):
            target = f"http://other.test:{site.port}/a?of={request.query['of']}&n={step + 1}"
            return web.Response(status=302, headers={"Location": target})
        return web.Response(body=b"there")

    site.answer = answer
    assert await site.get(tmp_path, "/a?of=3") == b"there"
    assert site.looked_up == ["site.test", "other.test", "other.test", "other.test"]
    with pytest.raises(ApiError, match="redirects more than 3 times"):
        await site.get(tmp_path, "/a?of=4")


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/",
        "file:///etc/passwd",
        "http://evil.test/",
        "//evil.test/",
    ],
)
async def test_redirects_to_elsewhere(site: Site, tmp_path: Path, target: str) -> None:
    site.answer = _sends(b"", 302, Location=target)
    with pytest.raises(ApiError) as caught:
        await site.get(tmp_path)
    assert caught.value.code == "invalid_parameter"
    assert len(site.asked) == 1


async def test_redirects_to_a_name_that_means_this_machine(site: Site, tmp_path: Path) -> None:
    site.answer = _sends(b"", 302, Location=f"http://other.test:{site.port}/")
    site.addresses["other.test"] = ["10.0.0.1"]
    with pytest.raises(ApiError, match=r"other\.test has an address that media are not fetched from"):
        await site.get(tmp_path)
    assert len(site.asked) == 1


async def test_one_bad_address_of_several_is_enough(site: Site, tmp_path: Path) -> None:
    site.answer = _sends(b"x")
    site.addresses["site.test"] = ["127.0.0.1", "169.254.169.254"]
    with pytest.raises(ApiError, match="has an address"):
        await site.get(tmp_path)
    assert site.asked == []


async def test_loopback_is_refused_by_default(site: Site, tmp_path: Path) -> None:
    site.answer = _sends(b"x")
    with Spool(TempFolder(str(tmp_path)), 100) as spool, pytest.raises(ApiError, match="has an address"):
        await fetch(
            f"http://localhost:{site.port}/", "image", spool.writer(), AllowedHosts.parse(f"localhost:{site.port}"),
            MediaLimits(), 1000,
        )  # fmt: skip
    assert site.asked == []


@pytest.mark.parametrize("announced", [True, False])
async def test_more_bytes_than_are_allowed(site: Site, tmp_path: Path, announced: bool) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = 1 << 40
        await response.prepare(request)
        while True:
            await response.write(bytes(5000))

    site.answer = answer
    with pytest.raises(ApiError) as caught:
        await site.get(tmp_path)
    assert (caught.value.code, caught.value.status) == ("media_too_large", 413)
    assert "more than the 1,000 bytes" in caught.value.message
    assert list(TempFolder(str(tmp_path)).files()) == []


async def test_no_answer_in_time(site: Site, tmp_path: Path) -> None:
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        await never.wait()
        return web.Response()

    site.answer = answer
    with pytest.raises(ApiError, match=r"did not answer within 0\.2 seconds"):
        await site.get(tmp_path, limits=MediaLimits(fetch_seconds=0.2))


@pytest.mark.parametrize("status", [404, 500, 304, 206])
async def test_other_answers(site: Site, tmp_path: Path, status: int) -> None:
    site.answer = _sends(b"", status)
    with pytest.raises(ApiError, match=f"answered with status {status}"):
        await site.get(tmp_path)


async def test_packed_answers_are_not_unpacked(site: Site, tmp_path: Path) -> None:
    site.answer = _sends(b"\x1f\x8b not really", 200, **{"Content-Encoding": "gzip"})
    assert await site.get(tmp_path) == b"\x1f\x8b not really"


async def test_nobody_there(site: Site, tmp_path: Path) -> None:
    site.addresses["site.test"] = []
    with pytest.raises(ApiError):
        await site.get(tmp_path)

    async def fail(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with Spool(TempFolder(str(tmp_path)), 100) as spool, pytest.raises(ApiError, match="can't be fetched"):
        await fetch(
            "http://site.test/", "image", spool.writer(), AllowedHosts.parse("site.test"), MediaLimits(), 1000,
            lookup=fail,
        )  # fmt: skip
