"""Who gets in: keys in a file, their scopes and models, and what becomes of them on the way."""

import asyncio
import io
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ams_common.keys import KeyFile, Scope, Secret, StoredKey, hash_of, write_keys
from ams_common.options import OptionError
from ams_gateway.auth.authentication import credential_of
from ams_gateway.auth.door import Door, open_door
from ams_gateway.auth.key_secret import KeySecret
from ams_gateway.auth.key_secret import Secret as KubernetesSecret
from ams_gateway.auth.keyring import Keyring, Known
from ams_gateway.auth.keys import Keys
from ams_gateway.settings import GatewaySettings
from ams_kube.objects import Metadata
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakePod, FakeRegistry

TEAM, ADMIN, OLD, SCRAPER, NEVER = "ams-key-team", "ams-key-admin", "ams-key-old", "ams-key-scraper", "ams-key-never"
StartPod = Callable[..., Awaitable[FakePod]]


def stored(name: str, key: str, *, expires: int | None = None, **policy: Any) -> StoredKey:
    return StoredKey(id=f"k-{name}", name=name, secrets=(Secret(sha256=hash_of(key), expires=expires),), **policy)


KEYS = KeyFile(
    keys=(
        stored("team", TEAM, models=("qwen*", "open-*"), priority=30),
        stored("admin", ADMIN, scopes=(Scope.ADMIN,)),
        stored("old", OLD, expires=1_600_000_000),
        stored("scraper", SCRAPER, scopes=(Scope.METRICS,)),
    )
)


def door_of(folder: Path, file: KeyFile = KEYS, **settings: Any) -> Door:
    folder.mkdir(exist_ok=True)
    path = folder / "keys.json"
    path.write_bytes(write_keys(file))
    values = {"host": "127.0.0.1", "keys_file": str(path), "audit_log": str(folder / "audit.log")} | settings
    return open_door(GatewaySettings(**values))


def audit_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "audit.log").read_text().splitlines()]


async def get(running: Running, path: str, headers: Mapping[str, str] = {}) -> tuple[int, Any, Mapping[str, str]]:
    async with running.client.get(running.url + path, headers=headers) as response:
        body = await response.read()
        return response.status, json.loads(body) if body.startswith(b"{") else body, response.headers


async def until_refused(running: Running, headers: Mapping[str, str] = {}) -> None:
    """What opened before must not open two seconds later."""
    async with asyncio.timeout(2):
        while (await get(running, "/v1/models", headers))[0] == 200:  # noqa: ASYNC110  # a file is looked at
            await asyncio.sleep(0.02)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {TEAM}"},
        {"Authorization": f"bearer   {TEAM} "},
        {"X-API-Key": TEAM},
        {"api-key": TEAM},
        {"Authorization": "Basic eDp5", "X-API-Key": TEAM},
    ],
)
async def test_a_key_opens_in_each_header_that_clients_send_it_in(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path, headers: dict[str, str]
) -> None:
    behind = await pod()
    registry.add("qwen", behind.address)
    running = await start(registry, door=door_of(tmp_path))
    status, answer, _ = await running.post("/generate/qwen", {"prompt": "hi"}, headers=headers)
    assert (status, answer["response"]) == (200, "hello")
    (received,) = behind.received
    assert (received.headers["x-ams-key-id"], received.headers["x-ams-weight"]) == ("k-team", "30")
    assert TEAM not in str(received.headers)


async def test_what_a_client_says_of_whose_request_it_is_ends_at_the_gateway(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    behind = await pod()
    registry.add("qwen", behind.address)
    claims = {"X-AMS-Key-Id": "k-boss", "x-ams-weight": "1000"}
    running = await start(registry, door=door_of(tmp_path))
    await running.post("/generate/qwen", {"prompt": "hi"}, headers=bearer(TEAM) | claims)
    is_open = await start(registry)
    await is_open.post("/generate/qwen", {"prompt": "hi"}, headers=claims)
    first, second = behind.received
    assert (first.headers["x-ams-key-id"], first.headers["x-ams-weight"]) == ("k-team", "30")
    assert (second.headers["x-ams-key-id"], second.headers["x-ams-weight"]) == ("anonymous", "10")


REFUSED = [
    ("GET", "/v1/models", {}, 401, "missing_key"),
    ("POST", "/generate/qwen", {}, 401, "missing_key"),
    ("POST", "/v1/chat/completions", {}, 401, "missing_key"),
    ("POST", "/v1/audio/transcriptions", {}, 401, "missing_key"),
    ("GET", "/admin/memory_status", {}, 401, "missing_key"),
    ("GET", "/metrics", {}, 401, "missing_key"),
    ("GET", "/v1/models", {"Authorization": "Basic eDp5"}, 401, "missing_key"),
    ("GET", "/v1/models", {"Authorization": "Bearer"}, 401, "missing_key"),
    ("GET", "/v1/models", bearer(NEVER), 401, "invalid_key"),
    ("GET", "/v1/models", bearer("x" * 7_000), 401, "invalid_key"),
    ("GET", "/v1/models", bearer(OLD), 401, "invalid_key"),
    ("POST", "/generate/qwen", bearer(ADMIN), 403, "scope_required"),
    ("GET", "/admin/memory_status", bearer(TEAM), 403, "admin_required"),
    ("POST", "/admin/emergency_cleanup", bearer(TEAM), 403, "admin_required"),
    ("GET", "/metrics", bearer(TEAM), 403, "scope_required"),
    ("POST", "/generate/other", bearer(TEAM), 403, "model_not_allowed"),
    ("POST", "/generate/nowhere", bearer(TEAM), 403, "model_not_allowed"),
    ("GET", "/v1/models/other", bearer(TEAM), 403, "model_not_allowed"),
    ("POST", "/generate/qwen-none", bearer(TEAM), 404, "model_not_found"),
]


@pytest.mark.parametrize(("method", "path", "headers", "code", "error"), REFUSED)
async def test_who_is_refused(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path, method: str, path: str,
    headers: dict[str, str], code: int, error: str,
) -> None:  # fmt: skip
    behind = await pod()
    registry.add("qwen", behind.address)
    registry.add("other", behind.address)
    running = await start(registry, door=door_of(tmp_path))
    async with running.client.request(method, running.url + path, headers=headers) as response:
        body = await response.json()
        assert response.status == code
        assert ("WWW-Authenticate" in response.headers) == (code == 401)
    details = body["error"] if path.startswith("/v1") else body["details"]
    assert details["code"] == error
    assert "other" not in str({**body, "asked": ""}).replace("/v1/models/other", "").replace("may not use other", "")
    assert behind.received == []


async def test_public_routes_need_no_key_and_tell_no_model(
    start: Start, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("hidden-model")
    running = await start(registry, door=door_of(tmp_path))
    for path in ("/health", "/ready", "/openapi.json", "/"):
        status, body, _ = await get(running, path)
        assert status == 200
        assert "hidden-model" not in str(body)


async def test_admin_and_metrics_open_by_their_scope(start: Start, registry: FakeRegistry, tmp_path: Path) -> None:
    running = await start(registry, door=door_of(tmp_path))
    assert (await get(running, "/admin/memory_status", bearer(ADMIN)))[0] == 200
    assert (await get(running, "/metrics", bearer(SCRAPER)))[0] == 200


async def test_a_port_of_the_metrics_own_needs_no_key(start: Start, registry: FakeRegistry, tmp_path: Path) -> None:
    running = await start(registry, door=door_of(tmp_path), metrics_port=(port := _free_port()))
    async with running.client.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert response.status == 200


async def test_models_are_listed_as_far_as_a_key_may_use_them(
    start: Start, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("qwen", aliases=("gpt",))
    registry.add("plain", aliases=("open-plain",))
    registry.add("other")
    running = await start(registry, door=door_of(tmp_path))
    _, body, _ = await get(running, "/v1/models", bearer(TEAM))
    assert [card["id"] for card in body["data"]] == ["plain", "open-plain", "qwen", "gpt"]
    status, body, _ = await get(running, "/v1/models/gpt", bearer(TEAM))
    assert (status, body["root"]) == (200, "qwen")
    _, body, _ = await get(running, "/v1/models/other", bearer(TEAM))
    assert "It may use: plain, qwen." in body["error"]["message"]


async def test_a_revoked_key_is_refused_within_two_seconds_and_a_new_one_opens(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("qwen", (await pod()).address)
    running = await start(registry, door=door_of(tmp_path))
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 200
    new = tmp_path / "new"
    new.write_bytes(write_keys(KeyFile(keys=(stored("next", NEVER),))))
    os.replace(new, tmp_path / "keys.json")
    await until_refused(running, bearer(TEAM))
    assert (await get(running, "/v1/models", bearer(NEVER)))[0] == 200


@pytest.mark.parametrize("document", [b"", b"{", b'{"keys": [{"name": "x"}]}', b"\xff\xfe", None])
async def test_a_broken_file_keeps_the_last_good_keys_and_says_so(
    start: Start, registry: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture, document: bytes | None
) -> None:
    running = await start(registry, door=door_of(tmp_path))
    path = tmp_path / "keys.json"
    path.unlink() if document is None else path.write_bytes(document)
    async with asyncio.timeout(5):
        while "hold on" not in caplog.text:  # noqa: ASYNC110  # a log has no event
            await asyncio.sleep(0.02)
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 200
    await asyncio.sleep(1.5)
    assert caplog.text.count("hold on") == 1
    path.write_bytes(write_keys(KeyFile()))
    await until_refused(running, bearer(TEAM))
    caplog.clear()


async def test_a_file_that_was_never_good_lets_nobody_in(
    start: Start, registry: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "keys.json").write_bytes(b"{")
    door = open_door(GatewaySettings(host="127.0.0.1", keys_file=str(tmp_path / "keys.json")))
    running = await start(registry, door=door)
    assert "nobody gets in until that is mended" in caplog.text
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 401
    caplog.clear()


async def test_keys_that_are_made_while_a_server_runs_close_it(
    start: Start, registry: FakeRegistry, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    door = open_door(GatewaySettings(host="127.0.0.1"), default_keys_file=path)
    running = await start(registry, door=door)
    assert (await get(running, "/v1/models"))[0] == 200
    path.write_bytes(write_keys(KEYS))
    await until_refused(running)
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 200


async def test_visitors_may_generate_where_they_are_allowed_and_nothing_else(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    behind = await pod()
    registry.add("qwen", behind.address)
    running = await start(registry, door=door_of(tmp_path, allow_anonymous=True))
    assert (await running.post("/generate/qwen", {"prompt": "hi"}))[0] == 200
    assert behind.received[0].headers["x-ams-key-id"] == "anonymous"
    status, body, _ = await get(running, "/admin/memory_status")
    assert (status, body["details"]["code"]) == (401, "missing_key")
    assert (await get(running, "/v1/models", bearer(NEVER)))[0] == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_an_address_that_others_reach_is_not_opened_by_accident(host: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--allow-anonymous"):
        open_door(GatewaySettings(host=host))
    assert open_door(GatewaySettings(host=host, allow_anonymous=True)).authentication.is_open
    assert not door_of(tmp_path, host=host).authentication.is_open
    with pytest.raises(OptionError, match="no such file"):
        open_door(GatewaySettings(host=host, keys_file=str(tmp_path / "none")))


async def test_the_audit_log_has_what_admins_do_and_keys_that_are_refused(
    start: Start, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("other")
    running = await start(registry, door=door_of(tmp_path))
    await get(running, "/admin/memory_status", bearer(ADMIN))  # reads change nothing
    await get(running, "/v1/models", bearer(NEVER) | {"X-Forwarded-For": "203.0.113.9\t"})
    await get(running, "/admin/memory_status", bearer(TEAM))
    await running.post("/generate/other", {"prompt": "x"}, headers=bearer(TEAM))
    await running.post("/admin/emergency_cleanup", {}, headers=bearer(ADMIN))
    lines = audit_of(tmp_path)
    told = [(line["audit"], line["route"], line["code"], line.get("key"), line.get("error")) for line in lines]
    assert told == [
        ("refused", "/v1/models", 401, None, "invalid_key"),
        ("refused", "/admin/memory_status", 403, "team", "admin_required"),
        ("refused", "/generate/{model}", 403, "team", "model_not_allowed"),
        ("admin", "/admin/emergency_cleanup", 200, "admin", None),
    ]
    assert lines[0]["client"] == "127.0.0.1"
    assert lines[0]["forwarded_for"] == "203.0.113.9"
    assert lines[3]["key_id"] == "k-admin"
    (tmp_path / "audit.log").rename(tmp_path / "audit.log.1")
    await running.post("/admin/emergency_cleanup", {}, headers=bearer(ADMIN))
    assert len(audit_of(tmp_path)) == 1


async def test_no_key_is_in_a_log_an_error_or_a_metric(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    behind = await pod()
    registry.add("qwen", behind.address)
    running = await start(registry, door=door_of(tmp_path))
    told = []
    for key in (TEAM, NEVER, OLD, ADMIN):
        for name, value in (("Authorization", f"Bearer {key}"), ("X-API-Key", key), ("api-key", key)):
            status, body, headers = await running.post("/generate/qwen", {"prompt": "hi"}, headers={name: value})
            told.append(f"{status} {body} {dict(headers)}")
    told += [await running.metrics(), caplog.text, str(running.log), (tmp_path / "audit.log").read_text()]
    told.append(str([received.headers for received in behind.received]))
    await running.gateway.close()
    everything = "\n".join([*told, str(running.log)])
    assert "team" in everything
    for key in (TEAM, NEVER, OLD, ADMIN):
        assert key not in everything
        assert hash_of(key) not in everything


def test_a_keyring_tells_unknown_from_expired() -> None:
    ring = Keyring(KEYS)
    assert ring.find(NEVER, 0.0) is Known.UNKNOWN
    assert ring.find(OLD, 1_600_000_000.0) is Known.EXPIRED
    found = ring.find(OLD, 1_599_999_999.0)
    assert not isinstance(found, Known)
    assert (found.id, found.name) == ("k-old", "old")
    assert type(found.policy).__name__ == "Policy"


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ({}, None),
        ({"Authorization": ""}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "Bearer a b"}, "a b"),
        ({"Authorization": "Token a"}, None),
        ({"X-API-Key": " "}, None),
        ({"api-key": "k"}, "k"),
        ({"Authorization": "Bearer one", "X-API-Key": "two"}, "one"),
    ],
)
def test_where_a_credential_is_looked_for(headers: dict[str, str], credential: str | None) -> None:
    assert credential_of(headers) == credential


def test_keys_of_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    keys = Keys(configured=True)
    watch = KeySecret(keys, "ams", "ams-keys")
    assert keys.ring is not None
    assert not keys.loaded
    watch.note_listed()
    assert "ams/ams-keys doesn't exist yet: nobody gets in" in caplog.text

    def take(name: str = "ams-keys", **data: str) -> None:
        watch.take(KubernetesSecret(metadata=Metadata(name=name, namespace="ams"), data=data))

    document = _base64(write_keys(KEYS))
    take(other="x")
    take("another", **{"keys.json": document})
    assert not keys.loaded
    take(**{"keys.json": document})
    assert (keys.loaded, len(keys.ring)) == (True, 4)
    for wrong in ("***", _base64(b"{"), ""):
        take(**{"keys.json": wrong})
        assert len(keys.ring) == 4
    watch.forget("ams/ams-keys")
    assert len(keys.ring) == 4
    take(**{"keys.json": _base64(write_keys(KeyFile()))})
    assert len(keys.ring) == 0
    caplog.clear()


async def test_a_gateway_that_waits_for_its_keys_is_not_ready(start: Start, registry: FakeRegistry) -> None:
    keys = Keys(configured=True)
    running = await start(registry, door=Door(keys))
    status, body, _ = await get(running, "/ready")
    assert (status, body["status"]) == (503, "loading-keys")
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 401
    keys.take(write_keys(KEYS), "here")
    assert (await get(running, "/ready"))[0] == 200
    assert (await get(running, "/v1/models", bearer(TEAM)))[0] == 200


async def test_a_refused_upload_is_answered_and_not_kept(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("qwen", (await pod()).address)
    running = await start(registry, door=door_of(tmp_path))
    body = io.BytesIO(b'{"prompt": "' + b"x" * (5 << 20) + b'"}')
    headers = {"Content-Type": "application/json"}
    try:
        async with running.client.post(running.url + "/generate/qwen", data=body, headers=headers) as response:
            assert response.status == 401
    except aiohttp.ClientOSError:
        pass  # the connection may close while the client still sends
    assert running.gateway.body_room.in_memory == 0


def _free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()
