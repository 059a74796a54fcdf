"""Who a request comes from, and whether a route is for them."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from ams_common.errors import ApiError
from ams_common.keys import OPEN, VISITOR, Principal, Scope

from ams_gateway.auth.keyring import Known
from ams_gateway.auth.keys import Keys

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ai-model-server"'}
_WRONG = {"WWW-Authenticate": 'Bearer realm="ai-model-server", error="invalid_token"'}
_HOW = "Send your API key as `Authorization: Bearer <key>`."
_LONGEST_CREDENTIAL = 16 << 10


class TokenChecker(Protocol):
    """Tells who a signed token of an identity provider stands for."""

    def looks_like_token(self, text: str) -> bool: ...

    async def principal(self, token: str, now: float) -> Principal:
        """ApiError `invalid_key`."""


class Authentication:
    """`tokens` are those of identity providers, if any is configured; `now` gives Unix time in seconds."""

    def __init__(
        self,
        keys: Keys,
        tokens: TokenChecker | None = None,
        *,
        anonymous: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._anonymous = anonymous
        self._now = now

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return self._keys.ring is None and self._tokens is None

    @property
    def takes_visitors(self) -> bool:
        """Whether requests without a key may generate."""
        return self._anonymous

    @property
    def is_loaded(self) -> bool:
        """Whether the keys were read once: until then nobody can be told from anybody."""
        return self._keys.loaded

    async def identify(self, headers: Mapping[str, str]) -> Principal:
        """Whose request has these headers. ApiError `missing_key` or `invalid_key`."""
        ring, tokens = self._keys.ring, self._tokens
        if ring is None and tokens is None:
            return OPEN
        credential = credential_of(headers)
        if credential is None:
            if self._anonymous:
                return VISITOR
            raise ApiError("missing_key", f"This server needs an API key. {_HOW}", headers=_CHALLENGE)
        if len(credential) > _LONGEST_CREDENTIAL:
            raise ApiError("invalid_key", "The API key is far longer than any key.", headers=_WRONG)
        now = self._now()
        if tokens is not None and tokens.looks_like_token(credential):
            return await tokens.principal(credential, now)
        found = ring.find(credential, now) if ring is not None else Known.UNKNOWN
        if isinstance(found, Principal):
            return found
        if found is Known.EXPIRED:
            raise ApiError("invalid_key", "The API key has expired.", headers=_WRONG)
        raise ApiError("invalid_key", "The API key is unknown or was revoked.", headers=_WRONG)


def credential_of(headers: Mapping[str, str]) -> str | None:
    """The key or token of a request, from the first of the headers that clients send it in; None if it has none."""
    if (authorization := headers.get("Authorization")) is not None:
        scheme, _, credential = authorization.strip().partition(" ")
        if scheme.lower() == "bearer" and (credential := credential.strip()):
            return credential
    for name in ("X-API-Key", "api-key"):
        if credential := headers.get(name, "").strip():
            return credential
    return None


def require(principal: Principal, scope: Scope) -> None:
    """ApiError `admin_required` or `scope_required` for a route that isn't for this user."""
    if principal.policy.may(scope):
        return
    if principal.policy is VISITOR.policy:
        raise ApiError("missing_key", f"This route needs an API key with the scope {scope}. {_HOW}", headers=_CHALLENGE)
    code = "admin_required" if scope is Scope.ADMIN else "scope_required"
    have = ", ".join(principal.policy.scopes) or "none"
    raise ApiError(
        code, f"The key {principal.name} lacks the scope {scope}; it has: {have}.", scope=scope.value,
        scopes=[each.value for each in principal.policy.scopes],
    )  # fmt: skip
