"""Who may use what: API keys with their policies, as a file or a Secret holds them, and who a request came from.

A key itself is never kept: only its sha256. `id` is made once for each key, says nothing of its name, and stays when
the key is rotated, so that ledgers, limits and pods know the same user by it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.names import resource_name
from ams_common.outside import InvalidJson, read_json

PREFIX = "ams-key-"
MOST_KEYS = 10_000
MOST_BYTES = 8 << 20
_LONGEST_KEY = 4096
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._@/-]{0,98}[A-Za-z0-9])?").fullmatch
_SHA256 = re.compile(r"[0-9a-f]{64}").fullmatch

DEFAULT_PRIORITY = 10
ANONYMOUS_ID = "anonymous"


class Scope(StrEnum):
    """What a key is for."""

    GENERATE = "generate"
    ADMIN = "admin"
    METRICS = "metrics"


class InvalidKeys(ValueError):
    """Keys that can't be used; the message is a clause without a subject, on one line, and holds no secret."""


Limit = Annotated[int, Meta(ge=1, le=10**15)]
Glob = Annotated[str, Meta(min_length=1, max_length=200)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one user may do. A limit that is None doesn't bind.

    `models` are globs over names and aliases (`_` and `-` alike, case ignored). Requests and tokens are per minute,
    `concurrent_requests` at one time, `monthly_tokens` per calendar month in UTC; tokens are those of prompts and
    answers together. `priority` is the weight by which users share a model that is busy.
    """

    id: str
    name: str
    models: Annotated[tuple[Glob, ...], Meta(max_length=64)] = ("*",)
    scopes: Annotated[tuple[Scope, ...], Meta(max_length=3)] = (Scope.GENERATE,)
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    monthly_tokens: Limit | None = None
    priority: Annotated[int, Meta(ge=1, le=1000)] = DEFAULT_PRIORITY

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def may_use(self, names: Sequence[str]) -> bool:
        """Whether one of a model's names is allowed."""
        spelled = [resource_name(name) for name in names]
        return any(glob == "*" or _matches(name, resource_name(glob)) for glob in self.models for name in spelled)

    @property
    def limited(self) -> bool:
        """Whether requests of this user have to be counted before they are let in."""
        return not (
            self.requests_per_minute is None
            and self.tokens_per_minute is None
            and self.concurrent_requests is None
            and self.monthly_tokens is None
        )


class Secret(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The sha256 of a key, in hex, and until when it opens: Unix time in seconds, None for ever."""

    sha256: str
    expires: int | None = None


class StoredKey(Policy, frozen=True, kw_only=True, omit_defaults=True):
    """A policy and the keys that stand for it: one, or while it is rotated the old one too."""

    secrets: Annotated[tuple[Secret, ...], Meta(min_length=1, max_length=8)]
    created: int = 0  # Unix time, seconds


class KeyFile(msgspec.Struct, frozen=True, kw_only=True):
    """The document with all keys."""

    version: Annotated[int, Meta(ge=1, le=1)] = 1
    keys: Annotated[tuple[StoredKey, ...], Meta(max_length=MOST_KEYS)] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from. `expires` is Unix time in seconds, None for ever."""

    policy: Policy
    expires: float | None = None

    @property
    def id(self) -> str:
        return self.policy.id

    @property
    def name(self) -> str:
        return self.policy.name


OPEN = Principal(Policy(id=ANONYMOUS_ID, name=ANONYMOUS_ID, scopes=tuple(Scope)))
"""Everybody, where no keys are configured."""

VISITOR = Principal(Policy(id=ANONYMOUS_ID, name=ANONYMOUS_ID, scopes=(Scope.GENERATE,)))
"""Who comes without a key, where there are keys and requests without one are allowed."""


def digest_of(key: str) -> bytes:
    """The sha256 of a key; of its first bytes only, where it is longer than any key."""
    return hashlib.sha256(key[:_LONGEST_KEY].encode("utf-8", "surrogateescape")).digest()


def hash_of(key: str) -> str:
    """The same in hex."""
    return digest_of(key).hex()


def is_name(text: str) -> bool:
    """Whether a key can be called so."""
    return _NAME(text) is not None


def read_keys(data: bytes) -> KeyFile:
    """The keys of a file or Secret. InvalidKeys if it isn't one, or names an id, a name or a secret twice."""
    try:
        file = read_json(data, KeyFile, max_bytes=MOST_BYTES)
    except InvalidJson as error:
        raise InvalidKeys(str(error)) from None
    check(file)
    return file


def check(file: KeyFile) -> None:
    """InvalidKeys for what the types don't tell."""
    ids, names, secrets = set[str](), set[str](), set[str]()
    for key in file.keys:
        if not is_name(key.name):
            raise InvalidKeys(f"has a key with the name {key.name[:100]!r}: use letters, digits and . _ @ / -")
        if not _ID(key.id) or key.id == ANONYMOUS_ID:
            raise InvalidKeys(f"has an id of {key.name} that can't be used")
        if key.id in ids:
            raise InvalidKeys(f"has the id of {key.name} twice")
        if key.name in names:
            raise InvalidKeys(f"has the name {key.name} twice")
        ids.add(key.id)
        names.add(key.name)
        for secret in key.secrets:
            if not _SHA256(secret.sha256):
                raise InvalidKeys(f"has something else than a sha256 in hex for {key.name}")
            if secret.sha256 in secrets:
                raise InvalidKeys(f"has the key of {key.name} twice")
            secrets.add(secret.sha256)


def write_keys(file: KeyFile) -> bytes:
    """The document for a file or Secret, with a line for each field, as people and diffs want it."""
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob)
