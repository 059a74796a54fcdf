"""Tokens of an identity provider, whose keys and documents are made here."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.keys import Principal, Scope
from ams_common.options import OptionError
from ams_gateway.auth import jwks
from ams_gateway.auth.jwks import read_key
from ams_gateway.auth.token_rules import InvalidIssuers, read_issuers
from ams_gateway.auth.tokens import Tokens
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

NOW = 1_800_000_000.0
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()


def public(key: Any, kid: str | None, **fields: Any) -> dict[str, Any]:
    kinds = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next(name for kind, name in kinds.items() if isinstance(key, kind))
    document = jwt.get_algorithm_by_name(name).to_jwk(key.public_key(), as_dict=True)
    return {**document, **({"kid": kid} if kid else {}), "use": "sig", **fields}


class Provider:
    """An issuer that can be made slow, silent or wrong."""

    def __init__(self) -> None:
        self.keys = [public(RSA, "rsa"), public(EC, "ec"), public(EDWARDS, "ed")]
        self.issuer = ""
        self.fetched = 0
        self.delay = 0.0
        self.status = 200
        self.body: bytes | None = None
        self.document: dict[str, Any] = {}

    async def discovery(self, request: web.Request) -> web.Response:
        return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **self.document})

    async def jwks(self, request: web.Request) -> web.Response:
        self.fetched += 1
        await asyncio.sleep(self.delay)
        headers = {"Location": "/elsewhere"} if self.status == 302 else {}
        if self.body is not None:
            return web.Response(body=self.body, status=self.status, headers=headers)
        return web.json_response({"keys": self.keys}, status=self.status, headers=headers)

    def token(self, key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
        given = {"iss": self.issuer, "aud": "ai", "sub": "ann", "groups": ["ml-vision"], "exp": NOW + 3600, **claims}
        given = {name: value for name, value in given.items() if value is not None}
        return jwt.encode(given, key, algorithm, headers={"kid": kid} if kid else {})


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/keys", made.jwks)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


RULES = [
    {"claims": {"groups": "ml-*"}, "policy": {"models": ["qwen*"], "requests_per_minute": 60, "priority": 20}},
    {"claims": {"realm.roles": ["boss", "root"], "scope": "admin"}, "policy": {"scopes": ["generate", "admin"]}},
]


def write(path: Path, provider: Provider, **fields: Any) -> None:
    issuer = {"issuer": provider.issuer, "audience": "ai", "rules": RULES, **fields}
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"issuers": [issuer]}))
    new.rename(path)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Tokens]:
    tokens = Tokens.load(path)
    tokens.start()
    try:
        yield tokens
    finally:
        await tokens.close()


@pytest.fixture
async def tokens(provider: Provider, tmp_path: Path) -> AsyncIterator[Tokens]:
    write(tmp_path / "jwt.json", provider)
    async with opened(tmp_path / "jwt.json") as made:
        yield made


async def refusal(tokens: Tokens, token: str, now: float = NOW) -> str:
    with pytest.raises(ApiError) as error:
        await tokens.principal(token, now)
    assert error.value.code == "invalid_key"
    assert error.value.headers["WWW-Authenticate"].startswith("Bearer")
    return error.value.message


async def test_claims_become_a_policy(provider: Provider, tokens: Tokens) -> None:
    user = await tokens.principal(provider.token(), NOW)
    assert isinstance(user, Principal)
    assert (user.name, user.policy.models, user.policy.priority) == ("ann", ("qwen*",), 20)
    assert (user.policy.requests_per_minute, user.policy.scopes) == (60, (Scope.GENERATE,))
    assert user.expires == NOW + 3600
    again = await tokens.principal(provider.token(exp=NOW + 60), NOW)
    other = await tokens.principal(provider.token(sub="ben"), NOW)
    assert user.id == again.id != other.id
    assert user.id.startswith("j-")
    assert provider.fetched == 1
    age = tokens.key_ages()[provider.issuer]
    assert age is not None
    assert 0 <= age < 10


async def test_rules_look_into_claims(provider: Provider, tokens: Tokens) -> None:
    deep = {"groups": None, "realm": {"roles": ["x", "root"]}, "scope": "openid admin"}
    assert (await tokens.principal(provider.token(**deep), NOW)).policy.scopes == (Scope.GENERATE, Scope.ADMIN)
    nobody = await tokens.principal(provider.token(groups=None, scope="administrator"), NOW)
    assert (nobody.policy.scopes, nobody.policy.models) == ((), ())


@pytest.mark.parametrize(
    ("key", "kid", "algorithm"),
    [
        (RSA, "rsa", "RS256"),
        (RSA, "rsa", "PS512"),
        (EC, "ec", "ES256"),
        (EDWARDS, "ed", "EdDSA"),
        (RSA, None, "RS256"),
    ],
)
async def test_signatures(provider: Provider, tokens: Tokens, key: Any, kid: str | None, algorithm: str) -> None:
    assert (await tokens.principal(provider.token(key, kid, algorithm), NOW)).name == "ann"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": NOW - 61}, "expired"),
        ({"exp": None}, "no time at which it expires"),
        ({"exp": "tomorrow"}, "is no time"),
        ({"exp": 10**400}, "malformed|is no time"),
        ({"exp": True}, "is no time"),
        ({"nbf": NOW + 61}, "isn't valid yet"),
        ({"iat": NOW + 61}, "made in the future"),
        ({"aud": "other"}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"aud": ["x", "y"]}, "another audience"),
        ({"iss": "https://evil.example"}, "doesn't know"),
        ({"iss": 5}, "doesn't know"),
        ({"sub": None}, "no claim sub"),
        ({"sub": ""}, "no claim sub"),
    ],
)
async def test_claims_that_do_not_do(provider: Provider, tokens: Tokens, claims: dict[str, Any], words: str) -> None:
    given = provider.token()
    body = json.loads(_bytes(given.split(".")[1])) | claims
    token = jwt.api_jws.PyJWS().encode(
        json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
        RSA,
        "RS256",
        {"kid": "rsa"},
    )
    said = await refusal(tokens, token)
    assert any(word in said for word in words.split("|")), said


async def test_clocks_that_differ(provider: Provider, tokens: Tokens) -> None:
    token = provider.token(exp=NOW - 59, nbf=NOW - 100, iat=NOW + 59, aud=["x", "ai"])
    assert (await tokens.principal(token, NOW)).name == "ann"
    assert "expired" in await refusal(tokens, token, NOW + 1.5), "also one that was remembered"


def _bytes(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


async def test_hostile_tokens(provider: Provider, tokens: Tokens) -> None:
    good = provider.token()
    head, body, signature = good.split(".")
    public_pem = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    confused = f"{_part({'alg': 'HS256', 'kid': 'rsa'})}.{body}"
    confused += f".{_part(hmac.new(public_pem, confused.encode(), hashlib.sha256).digest())}"
    deep = b"[" * 5000 + b"]" * 5000
    for token in (
        f"{_part({'alg': 'none'})}.{body}.",
        f"{_part({'alg': 'none'})}.{body}.{signature}",
        confused,
        f"{_part({'alg': 'RS256', 'kid': 'rsa', 'crit': ['x'], 'x': 1})}.{body}.{signature}",
        f"{_part({'alg': 'RS256', 'kid': 'rsa', 'b64': False})}.{body}.{signature}",
        f"{_part({'alg': 'RS256', 'kid': {'$ne': 1}})}.{body}.{signature}",
        f"{_part({'alg': 'RS256', 'kid': '../../keys'})}.{body}.{signature}",
        f"{head}.{_part(deep)}.{signature}",
        f"{head}.{_part([1])}.{signature}",
        f"{head}.{body}.{signature[:-4]}",
        f"{head}.{body}.AAAA",
        f"{head}.{body}.!!!!",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.x",
        "ey" + "A" * 1_000_000 + ".b.c",
        "ey\udc80.b.c",
        provider.token(OTHER_RSA),
        provider.token(OTHER_RSA, None),
        provider.token(EC, "rsa", "ES256"),
        provider.token(RSA, "ec"),
    ):
        began = time.perf_counter()
        await refusal(tokens, token)
        assert time.perf_counter() - began < 0.5
    key = public(OTHER_RSA, "mine")
    inline = jwt.encode(
        jwt.decode(good, options={"verify_signature": False}), OTHER_RSA, "RS256",
        headers={"kid": "mine", "jwk": key, "jku": f"{provider.issuer}/mine", "x5u": "http://127.0.0.1:1/"},
    )  # fmt: skip
    await refusal(tokens, inline)
    assert provider.fetched <= 2, "unknown keys don't make the issuer busy"


async def test_a_token_that_was_checked_costs_a_hash(provider: Provider, tokens: Tokens) -> None:
    token = provider.token()
    await tokens.principal(token, NOW)
    began = time.perf_counter()
    for _ in range(1000):
        await tokens.principal(token, NOW)
    assert time.perf_counter() - began < 0.1


async def test_keys_are_rotated(provider: Provider, tokens: Tokens) -> None:
    old = provider.token()
    await tokens.principal(old, NOW)
    provider.keys = [public(OTHER_RSA, "new")]
    new = provider.token(OTHER_RSA, "new")
    assert "of no key" in await refusal(tokens, new), "it was asked just now"
    tokens._keys[provider.issuer]._next_try = 0.0
    assert (await tokens.principal(new, NOW)).name == "ann"
    assert "of no key" in await refusal(tokens, old), "a key that is gone opens nothing, also what was remembered"


async def test_many_unknown_keys_ask_once(provider: Provider, tokens: Tokens) -> None:
    await asyncio.gather(*(refusal(tokens, provider.token(OTHER_RSA, f"k{number}")) for number in range(50)))
    assert provider.fetched == 1


async def test_keys_are_renewed_before_they_are_old(
    provider: Provider, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.principal(provider.token(), NOW)
    keys = tokens._keys[provider.issuer]
    monkeypatch.setattr(jwks, "_FRESH_SECONDS", -1.0)
    keys._next_try = 0.0
    provider.delay = 0.2
    began = time.monotonic()
    await tokens.principal(provider.token(sub="ben"), NOW)
    assert time.monotonic() - began < 0.15, "nobody waits for it"
    await asyncio.sleep(0.4)
    assert provider.fetched == 2


async def test_an_issuer_that_is_away(
    provider: Provider, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await tokens.principal(provider.token(), NOW)
    provider.status = 500
    keys = tokens._keys[provider.issuer]
    monkeypatch.setattr(jwks, "_FRESH_SECONDS", -1.0)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            keys._next_try = 0.0
            assert (await tokens.principal(provider.token(sub=f"user{number}"), NOW)).name == f"user{number}"
            await asyncio.sleep(0.1)
    told = [record.message for record in caplog.records]
    assert len(told) == 1, told
    assert "answered 500" in told[0]
    assert "hold for up to 24 h" in told[0]
    monkeypatch.setattr(jwks, "_KEPT_SECONDS", -1.0)
    assert "can't be fetched now" in await refusal(tokens, provider.token(sub="late"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 302}, "answered 302"),
        ({"body": b"x" * 300_000}, "more than"),
        ({"body": b"{"}, "not valid JSON"),
        ({"body": b'{"keys": []}'}, "no key that can be used"),
        ({"body": b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "rsa"}]}'}, "no key that can be used"),
        ({"document": {"issuer": "https://other.example"}}, "another issuer"),
        ({"document": {"jwks_uri": "http://keys.example/keys"}}, "isn't https"),
        ({"document": {"jwks_uri": "file:///etc/passwd"}}, "expected https"),
    ],
)
async def test_an_issuer_that_is_wrong(
    provider: Provider, tokens: Tokens, caplog: pytest.LogCaptureFixture, fault: dict[str, Any], words: str
) -> None:
    for name, value in fault.items():
        setattr(provider, name, value)
    with caplog.at_level(logging.WARNING):
        assert "can't be fetched now" in await refusal(tokens, provider.token())
    assert words in caplog.text


async def test_an_issuer_that_is_slow(provider: Provider, tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "_FETCH_SECONDS", 0.2)
    provider.delay = 5.0
    began = time.monotonic()
    said = await asyncio.gather(*(refusal(tokens, provider.token(sub=f"u{number}")) for number in range(20)))
    assert time.monotonic() - began < 3.0
    assert all("can't be fetched now" in each for each in said)
    assert provider.fetched == 1


async def test_a_waiter_that_leaves_stops_nobody(provider: Provider, tokens: Tokens) -> None:
    provider.delay = 0.3
    first = asyncio.create_task(tokens.principal(provider.token(), NOW))
    second = asyncio.create_task(tokens.principal(provider.token(sub="ben"), NOW))
    await asyncio.sleep(0.1)
    first.cancel()
    assert (await second).name == "ben"


async def test_the_file_is_read_again(provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "jwt.json"
    write(path, provider)
    async with opened(path) as tokens:
        token = provider.token()
        assert (await tokens.principal(token, NOW)).policy.models == ("qwen*",)
        path.write_text("{")
        await asyncio.sleep(2.2)
        assert (await tokens.principal(token, NOW)).policy.models == ("qwen*",)
        assert len([line for line in caplog.messages if "read before hold on" in line]) == 1
        write(path, provider, rules=[], default={"models": ["x"]})
        await asyncio.sleep(2.0)
        assert (await tokens.principal(token, NOW)).policy.models == ("x",)
        write(path, provider, audience=["b", "c"])
        await asyncio.sleep(2.0)
        assert "another audience" in await refusal(tokens, token)
        os.unlink(path)
        await asyncio.sleep(1.2)
        assert "another audience" in await refusal(tokens, token)
    caplog.clear()


def test_what_a_file_may_not_say() -> None:
    good = {"issuer": "https://a.example", "audience": "x", "default": {}}
    assert set(read_issuers(json.dumps({"issuers": [good]}).encode())) == {"https://a.example"}
    for change, words in (
        ({"issuer": "http://a.example"}, "isn't https"),
        ({"issuer": "http://127.evil.example"}, "isn't https"),
        ({"jwks_url": "ftp://a.example"}, "expected https"),
        ({"jwks_url": "https://user:pw@a.example"}, "expected https"),
        ({"algorithms": ["HS256"]}, "HS256"),
        ({"algorithms": ["none"]}, "none"),
        ({"algorithms": []}, "length"),
        ({"audience": []}, "length"),
        ({"default": None}, "needs rules or a default"),
        ({"default": {"scopes": ["root"]}}, "root"),
        ({"leeway_seconds": 1e9}, "<= 600"),
        ({"aud": "x"}, "aud"),
    ):
        with pytest.raises(InvalidIssuers) as error:
            read_issuers(json.dumps({"issuers": [good | change]}).encode())
        assert words in str(error.value)
    with pytest.raises(InvalidIssuers, match="twice"):
        read_issuers(json.dumps({"issuers": [good, good]}).encode())
    assert read_issuers(json.dumps({"issuers": [good | {"issuer": "http://x", "allow_http": True}]}).encode())


def test_a_file_that_can_not_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none", "No such file"), (tmp_path, "directory|not a file")):
        with pytest.raises(OptionError) as error:
            Tokens.load(path)
        assert any(word in str(error.value) for word in words.split("|"))
    (tmp_path / "x").write_text("[]")
    with pytest.raises(OptionError, match="--jwt-file"):
        Tokens.load(tmp_path / "x")


@pytest.mark.parametrize(
    "document",
    [
        {"kty": "oct", "k": "AAAA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
        {"kty": 5},
        {},
        {**public(RSA, "a"), "use": "enc"},
        {**public(RSA, "a"), "key_ops": ["encrypt"]},
        {**public(RSA, "a"), "alg": "HS256"},
        {**public(RSA, "a"), "alg": ["RS256"]},
        {**public(rsa.generate_private_key(65537, 1024), "a")},
    ],
)
def test_keys_that_check_nothing(document: dict[str, Any]) -> None:
    assert read_key(document) is None


def test_a_key_says_for_what_it_is() -> None:
    key = read_key(public(RSA, "a", alg="RS256"))
    assert key is not None
    assert key.algorithms == {"RS256"}


def test_what_looks_like_a_token(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(json.dumps({"issuers": [{"issuer": "https://a.example", "audience": "x", "default": {}}]}))
    tokens = Tokens.load(path)
    assert tokens.looks_like_token("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJhIn0.c2ln")
    assert not tokens.looks_like_token("ams-key-eyJ.a.b")
    assert not tokens.looks_like_token("eyJ")
