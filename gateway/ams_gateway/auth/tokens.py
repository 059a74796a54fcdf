"""Signed tokens of identity providers (JWT): whom one stands for, and what they may do.

The file of issuers is read again when it changes. A token that was checked is remembered by its sha256, so that the
next request with it costs a hash.
"""

import asyncio
import binascii
import functools
import hashlib
import logging
import os
import re
import ssl
import stat
from base64 import urlsafe_b64decode
from collections import OrderedDict
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from ams_common.errors import ApiError
from ams_common.keys import Principal
from ams_common.options import OptionError
from ams_common.outside import InvalidJson, read_json

from ams_gateway.auth.jwks import IssuerKeys, NoKeys
from ams_gateway.auth.token_rules import InvalidIssuers, Issuer, Refused, read_issuers, user_of

logger = logging.getLogger("ams_gateway")

_LOOK_SECONDS = 1.0
_LONGEST_TOKEN = 16 << 10
_MOST_FILE_BYTES = 1 << 20
_REMEMBERED = 4096
_MOST_TRIED = 8  # keys for one signature, where a token doesn't name its key
_FORM = re.compile(r"ey[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
_WRONG = {"WWW-Authenticate": 'Bearer realm="ai-model-server", error="invalid_token"'}

_Seen = tuple[int, int, int, int]


class _Header(msgspec.Struct, frozen=True):
    """What of a token's header counts. Addresses of keys in it (jku, x5u) and keys (jwk, x5c) are never looked at."""

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    b64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Tokens:
    """`start` before `principal`, `close` afterwards."""

    def __init__(self, path: Path, issuers: dict[str, Issuer], seen: _Seen) -> None:
        self._path = path
        self._seen: _Seen | None = seen
        self._issuers = issuers
        self._keys: dict[str, IssuerKeys] = {}
        self._users: OrderedDict[bytes, tuple[Principal, float]] = OrderedDict()  # until when, Unix time
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._problem = ""

    @classmethod
    def load(cls, path: Path) -> "Tokens":
        """OptionError for a file that can't be used."""
        _algorithms()  # their libraries are there before the first token comes
        try:
            data, seen = _read(path)
            return cls(path, _checked(data), seen)
        except OSError as error:
            raise OptionError(f"--jwt-file={str(path)!r}: {error.strerror or error}") from None
        except InvalidIssuers as error:
            raise OptionError(f"--jwt-file={str(path)!r} {error}") from None

    def start(self) -> None:
        self._session = aiohttp.ClientSession(trust_env=True, connector=aiohttp.TCPConnector(limit=16))
        self._take(self._issuers)
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for keys in self._keys.values():
            await keys.close()
        if self._session is not None:
            await self._session.close()

    def looks_like_token(self, text: str) -> bool:
        """Whether it is meant to be one, and no API key."""
        return text.startswith("ey") and text.count(".") == 2

    def key_ages(self) -> dict[str, float | None]:
        """Seconds since the keys of each issuer were fetched; None where they never could be."""
        return {name: keys.age_seconds for name, keys in self._keys.items()}

    async def principal(self, token: str, now: float) -> Principal:
        """Whom the token stands for. ApiError `invalid_key`, which says no more than its sender may know."""
        if len(token) > _LONGEST_TOKEN:
            raise _wrong("The token is far longer than any token.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._users.get(digest)
        if known is not None:
            if now < known[1]:
                self._users.move_to_end(digest)
                return known[0]
            del self._users[digest]
        try:
            user, until = await self._check(token, now)
        except Refused as error:
            raise _wrong(str(error)) from None
        self._users[digest] = (user, until)
        if len(self._users) > _REMEMBERED:
            self._users.popitem(last=False)
        return user

    async def _check(self, token: str, now: float) -> tuple[Principal, float]:
        header, claims, signed, signature = parse(token)
        issuer = self._issuers.get(claims["iss"]) if isinstance(claims.get("iss"), str) else None
        if issuer is None:
            raise Refused("The token is from an issuer that this server doesn't know.")
        if header.alg not in issuer.algorithms:
            raise Refused("The token is signed in a way that this server doesn't take.")
        policy, expires = user_of(claims, issuer, now)  # cheap, and most tokens that are refused are old
        try:
            keys = await self._keys[issuer.issuer].find(header.kid, header.alg)
        except NoKeys:
            raise Refused("The token can't be checked: the keys of its issuer can't be fetched now.") from None
        except KeyError:
            raise Refused("The token is from an issuer that this server doesn't know.") from None
        algorithm = _algorithms()[header.alg]
        if not any(_verifies(algorithm, signed, key.key, signature) for key in keys[:_MOST_TRIED]):
            raise Refused("The token's signature is of no key of its issuer.")
        return Principal(policy, expires), expires + issuer.leeway_seconds

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                found = await asyncio.to_thread(_read_new, self._path, self._seen)
                if found is not None:
                    data, self._seen = found
                    issuers = await asyncio.to_thread(_checked, data)
                    self._problem = ""
                    logger.info("%s was read again: %d issuers", self._path, len(issuers))
                    self._take(issuers)
            except (OSError, InvalidIssuers) as error:
                problem = str(error) if isinstance(error, InvalidIssuers) else error.strerror or str(error)
                if problem != self._problem:
                    self._problem = problem
                    logger.error("%s %s: the issuers read before hold on", self._path, problem)

    def _take(self, issuers: dict[str, Issuer]) -> None:
        """Keys of issuers that are as they were stay."""
        assert self._session is not None
        before, self._keys = self._keys, {}
        gone = []
        for name, keys in before.items():
            if self._issuers.get(name) == issuers.get(name):
                self._keys[name] = keys
            else:
                gone.append(keys)
        for name, issuer in issuers.items():
            if name not in self._keys:
                self._keys[name] = IssuerKeys(issuer, self._session, self._users.clear)
        self._issuers = issuers
        self._users.clear()
        for keys in gone:
            keys.cancel()


def parse(token: str) -> tuple[_Header, dict[str, Any], bytes, bytes]:
    """Header, claims, what is signed, and the signature. Refused for what is no token."""
    if _FORM(token) is None:
        raise Refused("The token is malformed.")
    head, body, signature = token.split(".")
    try:
        header = read_json(_decoded(head), _Header)
        claims = read_json(_decoded(body), dict[str, Any])
        given = _decoded(signature)
    except (InvalidJson, ValueError):
        raise Refused("The token is malformed.") from None
    if header.crit is not msgspec.UNSET or header.b64 is not msgspec.UNSET:
        raise Refused("The token asks for what this server doesn't know (crit).")
    return header, claims, f"{head}.{body}".encode("ascii"), given


def _decoded(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None


@functools.cache
def _algorithms() -> dict[str, Any]:
    from jwt.algorithms import get_default_algorithms  # late: most gateways take no tokens

    return get_default_algorithms()


def _verifies(algorithm: Any, signed: bytes, key: Any, signature: bytes) -> bool:
    try:
        return bool(algorithm.verify(signed, key, signature))
    except Exception:  # a signature of no sense for this key
        return False


def _checked(data: bytes) -> dict[str, Issuer]:
    issuers = read_issuers(data)
    for issuer in issuers.values():
        if issuer.ca_file:
            try:
                ssl.create_default_context(cafile=issuer.ca_file)
            except OSError as error:
                raise InvalidIssuers(f"has the ca_file {issuer.ca_file!r}: {error.strerror or error}") from None
    return issuers


def _read_new(path: Path, seen: _Seen | None) -> tuple[bytes, _Seen] | None:
    info = os.stat(path)
    if (info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size) == seen:
        return None
    return _read(path)


def _read(path: Path) -> tuple[bytes, _Seen]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise InvalidIssuers("is not a file")
        return file.read(_MOST_FILE_BYTES + 1), (info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size)


def _wrong(sentence: str) -> ApiError:
    return ApiError("invalid_key", sentence, headers=_WRONG)
