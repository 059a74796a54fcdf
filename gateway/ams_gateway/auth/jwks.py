"""The public keys of an identity provider: fetched with bounds, kept while it is away, renewed before they are old."""

import asyncio
import logging
import ssl
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_gateway.auth.token_rules import InvalidIssuers, Issuer, check_url

logger = logging.getLogger("ams_gateway")

_FRESH_SECONDS = 300.0  # older ones are renewed while they are used
_KEPT_SECONDS = 24 * 3600.0  # for so long they hold while the issuer is away
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 5.0, 60.0
_FETCH_SECONDS = 5.0
_MOST_BYTES = 256 << 10
_MOST_KEYS = 100
_LONGEST_NUMBER = 2000
_RSA_BITS = range(2048, 8193)
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_DISCOVERY = "/.well-known/openid-configuration"


class NoKeys(Exception):
    """Keys can't be had; the message is a clause for the log."""


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`key` is one of the package cryptography; `algorithms` are those that it may check."""

    kid: str | None
    algorithms: frozenset[str]
    key: Any


class IssuerKeys:
    """The keys of one issuer. `session` follows no address but the issuer's own; `changed` is called with new keys."""

    def __init__(self, issuer: Issuer, session: aiohttp.ClientSession, changed: Any = None) -> None:
        self._issuer = issuer
        self._session = session
        self._changed = changed or (lambda: None)
        self._tls = ssl.create_default_context(cafile=issuer.ca_file) if issuer.ca_file else True
        self._keys: tuple[PublicKey, ...] = ()
        self._fetched_at: float | None = None  # monotonic
        self._next_try = 0.0
        self._failures = 0
        self._running: asyncio.Task[None] | None = None
        self._problem = ""

    @property
    def age_seconds(self) -> float | None:
        """Since the keys were fetched; None if they never were."""
        return None if self._fetched_at is None else time.monotonic() - self._fetched_at

    async def find(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        """Keys that may have made a signature, none if there is no such key. NoKeys if nobody can know.

        A name that is unknown may be that of a new key: the issuer is asked, though not more often than every few
        seconds, however many such tokens come.
        """
        age = self.age_seconds
        if age is None or age > _KEPT_SECONDS:
            await self._renew()
            if (age := self.age_seconds) is None or age > _KEPT_SECONDS:
                raise NoKeys(self._problem or "the keys are fetched again in a moment")
        elif age > _FRESH_SECONDS:
            self._begin()  # nobody waits for it
        if not (found := self._known(kid, algorithm)):
            await self._renew()
            found = self._known(kid, algorithm)
        return found

    def cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        if (running := self._running) is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def _known(self, kid: str | None, algorithm: str) -> list[PublicKey]:
        return [key for key in self._keys if algorithm in key.algorithms and (kid is None or key.kid in (kid, None))]

    async def _renew(self) -> None:
        """Fetch them, or wait for whoever does; returns at once where that was tried just now."""
        if (task := self._begin()) is not None:
            await asyncio.wait((task,))  # whose end, whatever it is, is no waiter's

    def _begin(self) -> asyncio.Task[None] | None:
        if self._running is None and time.monotonic() >= self._next_try:
            self._running = asyncio.create_task(self._fetch())
            self._running.add_done_callback(self._done)
        return self._running

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("fetching the keys of %s failed", self._issuer.issuer, exc_info=error)

    async def _fetch(self) -> None:
        self._next_try = time.monotonic() + _PAUSE_SECONDS
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                keys = await self._fetched()
        except (NoKeys, TimeoutError) as error:
            self._failures += 1
            pause = min(_PAUSE_SECONDS * 2.0 ** (self._failures - 1), _LONGEST_PAUSE_SECONDS)
            self._next_try = time.monotonic() + pause
            self._tell(str(error) or f"no answer within {_FETCH_SECONDS:g} s")
            return
        self._failures = 0
        self._fetched_at = time.monotonic()
        if self._problem or not self._keys:
            logger.info("%d keys of %s are known", len(keys), self._issuer.issuer)
        self._problem = ""
        if _names(keys) != _names(self._keys):
            self._keys = keys
            self._changed()

    async def _fetched(self) -> tuple[PublicKey, ...]:
        url = self._issuer.jwks_url
        if not url:
            base = self._issuer.issuer.rstrip("/") + _DISCOVERY
            try:
                document = read_json(await self._get(base), _Discovery)
            except InvalidJson as error:
                raise NoKeys(f"{base} {error}") from None
            if document.issuer != self._issuer.issuer:
                raise NoKeys(f"{base} is the document of another issuer, {document.issuer[:200]!r}")
            url = document.jwks_uri
            try:
                check_url(url, self._issuer)
            except InvalidIssuers as error:
                raise NoKeys(f"{base} {error}") from None
        try:
            documents = read_json(await self._get(url), _KeySet).keys
        except InvalidJson as error:
            raise NoKeys(f"{url} {error}") from None
        keys = tuple(key for each in documents[:_MOST_KEYS] if (key := read_key(each)) is not None)
        if not keys:
            raise NoKeys(f"{url} has no key that can be used")
        return keys

    async def _get(self, url: str) -> bytes:
        try:
            async with self._session.get(url, allow_redirects=False, ssl=self._tls) as answer:
                if answer.status != 200:
                    raise NoKeys(f"{url} answered {answer.status}")
                body = bytearray()
                async for part in answer.content.iter_any():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise NoKeys(f"{url} answered with more than {_MOST_BYTES:,} bytes")
                return bytes(body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoKeys(f"{url} doesn't answer ({str(error) or type(error).__name__})") from None

    def _tell(self, problem: str) -> None:
        """Once for each problem, not for each token."""
        if problem != self._problem:
            self._problem = problem
            hold = f"; those of before hold for up to {_KEPT_SECONDS / 3600:g} h" if self._keys else ""
            logger.warning("the keys of %s can't be fetched: %s%s", self._issuer.issuer, problem, hold)


def read_key(document: dict[str, Any]) -> PublicKey | None:
    """A JSON Web Key that checks signatures of an issuer; None for all others, as shared secrets and broken ones."""
    kid, use, operations = document.get("kid"), document.get("use"), document.get("key_ops")
    if use not in (None, "sig") or (isinstance(operations, list) and "verify" not in operations):
        return None
    if document.get("kty") not in ("RSA", "EC", "OKP") or "d" in document:
        return None
    if any(isinstance(value, str) and len(value) > _LONGEST_NUMBER for value in (document.get("n"), document.get("e"))):
        return None  # numbers of a megabyte would be computed with before they are found too large
    import jwt  # late, as cryptography below: most gateways take no tokens

    try:
        key = jwt.PyJWK(document).key
    except Exception:  # what PyJWT and cryptography raise for numbers that are no key is of many types
        return None
    algorithms = _algorithms(key)
    if (named := document.get("alg")) is not None:
        algorithms &= {named} if isinstance(named, str) else set()
    if not algorithms:
        return None
    return PublicKey(kid if isinstance(kid, str) else None, algorithms, key)


def _algorithms(key: Any) -> frozenset[str]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return frozenset({_CURVES[key.curve.name]})
    if isinstance(key, ed25519.Ed25519PublicKey):
        return frozenset({"EdDSA"})
    return frozenset()


def _names(keys: tuple[PublicKey, ...]) -> list[tuple[Any, ...]]:
    return [(key.kid, sorted(key.algorithms), key.key.public_numbers() if hasattr(key.key, "public_numbers") else
             key.key.public_bytes_raw()) for key in keys]  # fmt: skip
