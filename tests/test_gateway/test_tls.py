"""HTTPS of the gateway, with certificates made here."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ams_common.options import OptionError
from ams_gateway import server, tls
from ams_gateway.settings import GatewaySettings
from ams_gateway.tls import load_certificate
from certificates import Authority
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry

Pods = Callable[..., Awaitable[FakePod]]

CA = Authority()
OTHER_CA = Authority("Other CA")


def trusting(*pems: bytes, client: tuple[Path, Path] | None = None, old: bool = False) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="".join(pem.decode() for pem in pems))
    if client is not None:
        context.load_cert_chain(*client)
    if old:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def serial(port: int, context: ssl.SSLContext) -> int:
    """Of the certificate that a new connection sees."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as made,
    ):
        return int(made.getpeercert()["serialNumber"], 16)  # type: ignore[index, arg-type]


async def seen(port: int, context: ssl.SSLContext) -> int:
    return await asyncio.to_thread(serial, port, context)


async def changed(port: int, context: ssl.SSLContext, before: int) -> None:
    async with asyncio.timeout(5):
        while await seen(port, context) == before:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def registry_of(pod: FakePod) -> FakeRegistry:
    registry = FakeRegistry()
    registry.add("m", pod.address)
    return registry


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.05)


def settings_of(cert: Path, key: Path, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "tls_cert": str(cert), "tls_key": str(key), **more}


async def test_requests_and_streams_over_https(start: Start, pod: Pods, tmp_path: Path) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for _ in range(3):
            await exchange.chunk(b"data: {}\n\n")
        await exchange.end_stream()

    fake = await pod(stream)
    pair = CA.pair()
    running = await start(registry_of(fake), **settings_of(*pair.write(tmp_path)))
    assert running.url.startswith("https://")
    for old in (False, True):
        context = trusting(CA.pem, old=old)
        context.set_alpn_protocols(["h2", "http/1.1"])
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client:
            async with client.get(f"{running.url}/health") as answer:
                assert answer.status == 200
                made = answer.connection.transport.get_extra_info("ssl_object") if answer.connection else None
                assert made is None or made.selected_alpn_protocol() == "http/1.1"
            async with client.post(f"{running.url}/generate/m", json={"prompt": "x", "stream": True}) as answer:
                assert (await answer.read()).count(b"data: {}") == 3
            origin = {"Origin": running.url, "Content-Type": "application/json"}
            async with client.post(f"{running.url}/generate/m", json={"prompt": "x"}, headers=origin) as answer:
                assert answer.status != 403, "the server's own page"
            async with client.get(f"{running.url}/metrics") as answer:
                text = await answer.text()
                told = re.search(r"^ams_gateway_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
                assert told is not None
                assert float(told[1]) == pair.expires


async def test_a_renewed_certificate_is_shown_to_new_connections_alone(start: Start, pod: Pods, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"data: 1\n\n")
        await release.wait()
        await exchange.chunk(b"data: 2\n\n")
        await exchange.end_stream()

    fake = await pod(slow)
    first, second = CA.pair(), CA.pair(days=200)
    running = await start(registry_of(fake), **settings_of(*first.write(tmp_path)))
    context = trusting(CA.pem)
    before = await seen(running.port, context)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client,
        client.post(f"{running.url}/generate/m", json={"prompt": "x", "stream": True}) as answer,
    ):
        assert b"1" in await answer.content.readuntil(b"\n\n")
        second.write(tmp_path)
        await changed(running.port, context, before)
        release.set()
        assert b"data: 2" in await answer.read(), "the running stream goes on"


async def test_a_link_that_is_swapped_as_kubernetes_does(start: Start, tmp_path: Path) -> None:
    folders = []
    for number in range(2):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        CA.pair().write(folder)
        folders.append(folder)
    os.symlink(folders[0].name, tmp_path / "..data")
    for name in ("tls.crt", "tls.key"):
        os.symlink(f"..data/{name}", tmp_path / name)
    running = await start(FakeRegistry(), **settings_of(tmp_path / "tls.crt", tmp_path / "tls.key"))
    context = trusting(CA.pem)
    before = await seen(running.port, context)
    os.symlink(folders[1].name, tmp_path / "..new")
    os.rename(tmp_path / "..new", tmp_path / "..data")
    await changed(running.port, context, before)


async def test_a_pair_that_is_broken_keeps_the_one_before(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = CA.pair()
    cert, key = pair.write(tmp_path)
    running = await start(FakeRegistry(), **settings_of(cert, key))
    context = trusting(CA.pem)
    before = await seen(running.port, context)
    for text in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", CA.pair().cert):
        cert.write_bytes(text)
        await asyncio.sleep(0.3)
        assert await seen(running.port, context) == before
    told = [record.message for record in caplog.records if "is shown on" in record.message]
    assert len(told) == 2, "an empty file and one without a certificate are alike"
    assert "is not the key of the certificate" in told[-1]
    cert.unlink()
    await asyncio.sleep(0.2)
    assert await seen(running.port, context) == before
    CA.pair().write(tmp_path)
    await changed(running.port, context, before)
    caplog.clear()


async def asked(port: int, context: ssl.SSLContext) -> bool:
    """Whether a request is answered."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client:
        try:
            async with client.get(f"https://localhost:{port}/health") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, OSError):
            return False


@pytest.mark.parametrize("old", [False, True])
async def test_client_certificates(start: Start, tmp_path: Path, old: bool) -> None:
    clients = tmp_path / "clients.pem"
    clients.write_bytes(CA.pem)
    good = CA.pair("ann").write(tmp_path, "good")
    stranger = OTHER_CA.pair("eve").write(tmp_path, "stranger")
    running = await start(
        FakeRegistry(), **settings_of(*CA.pair().write(tmp_path), tls_client_ca=str(clients), metrics_port=_free())
    )
    assert not await asked(running.port, trusting(CA.pem, old=old))
    assert not await asked(running.port, trusting(CA.pem, client=stranger, old=old))
    resumed = trusting(CA.pem, client=good, old=old)
    assert await asked(running.port, resumed)
    async with aiohttp.ClientSession() as client:
        for path in ("/health", "/ready", "/metrics"):
            url = f"http://127.0.0.1:{running.gateway.settings.metrics_port}{path}"
            async with client.get(url) as answer:
                assert answer.status == 200, "a kubelet has no certificate"
    clients.write_bytes(OTHER_CA.pem)  # the old authority counts no more
    os.utime(clients, (1, 1))
    async with asyncio.timeout(5):
        while not await asked(running.port, trusting(CA.pem, client=stranger, old=old)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert not await asked(running.port, resumed)


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_who_never_ends_a_handshake_or_speaks_plain_http(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HANDSHAKE_SECONDS", 0.3)
    running = await start(FakeRegistry(), **settings_of(*CA.pair().write(tmp_path)))
    silent = [await asyncio.open_connection("127.0.0.1", running.port) for _ in range(20)]
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionError):
            assert b"200" not in await reader.read()
        assert await asked(running.port, trusting(CA.pem))
        for reader, _ in silent:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
    for _, each in (*silent, (None, writer)):
        each.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tls_cert": "none.crt"}, "--tls-cert=.*there is no such file"),
        ({"tls_key": "none.key"}, "--tls-key=.*there is no such file"),
        ({"tls_key": "other.key"}, "is not the key of the certificate"),
        ({"tls_key": "locked.key"}, "encrypted"),
        ({"tls_cert": "tls.key"}, "holds no certificate in PEM"),
        ({"tls_key": "tls.crt"}, "holds no key in PEM"),
        ({"tls_client_ca": "tls.key"}, "--tls-client-ca=.*holds no certificates"),
        ({"tls_cert": ""}, "it needs --tls-cert"),
    ],
)
def test_what_can_not_be_used_is_told_at_the_start(tmp_path: Path, change: dict[str, str], words: str) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = CA.pair()
    cert, key = pair.write(tmp_path)
    CA.pair().write(tmp_path, "other")
    locked = serialization.load_pem_private_key(pair.key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    given = {"tls_cert": str(cert), "tls_key": str(key)}
    given |= {name: str(tmp_path / value) if value else "" for name, value in change.items()}
    with pytest.raises(OptionError, match=words):
        load_certificate(GatewaySettings(**given))


def test_a_certificate_and_its_key_in_one_file(tmp_path: Path) -> None:
    pair = CA.pair()
    path = tmp_path / "both.pem"
    path.write_bytes(pair.cert + pair.key)
    certificate = load_certificate(GatewaySettings(tls_cert=str(path)))
    assert certificate is not None
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert certificate.expires == pair.expires
    assert load_certificate(GatewaySettings()) is None


def test_the_process_ends_with_2(tmp_path: Path) -> None:
    arguments = ("--host", "127.0.0.1", "--port", "0", "--tls-cert", str(tmp_path / "x"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AMS_")}
    done = subprocess.run(
        [sys.executable, "-c", "from ams_gateway.main import main; main()", *arguments],
        capture_output=True, text=True, timeout=30, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no such file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


async def test_a_key_that_others_read_and_an_end_that_is_near_are_told(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = CA.pair(days=2).write(tmp_path)
    key.chmod(0o644)
    await start(FakeRegistry(), **settings_of(cert, key))
    assert any("chmod 600" in record.message for record in caplog.records)
    assert any("the certificate ends on" in record.message for record in caplog.records)


async def test_handshakes_a_second(start: Start, tmp_path: Path) -> None:
    """Renewals cost the connections nothing: a context of its own is chosen, not made, for each."""
    running = await start(FakeRegistry(), **settings_of(*CA.pair().write(tmp_path)))
    context = trusting(CA.pem)
    began = time.monotonic()
    for _ in range(50):
        await seen(running.port, context)
    assert time.monotonic() - began < 5.0
