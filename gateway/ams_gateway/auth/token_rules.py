"""What the file of --jwt-file says, and what a token's claims come to by it. Nothing here reads a clock or a key."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from ams_common.keys import DEFAULT_PRIORITY, Glob, Limit, Policy, Scope
from ams_common.outside import InvalidJson, read_json
from msgspec import Meta

from ams_gateway.front.access import is_loopback

MOST_ISSUERS = 16
_MOST_BYTES = 1 << 20
_LATEST = float(1 << 53)  # the last second that JSON's numbers tell exactly
_UNFIT = re.compile(r"[^A-Za-z0-9._@/-]")
_LONGEST_NAME = 100
_MOST_VALUES = 1000

# Only what the issuer alone can sign: with a shared secret whoever checks could sign too.
Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]  # fmt: skip
ALGORITHMS: tuple[Algorithm, ...] = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
Text = Annotated[str, Meta(min_length=1, max_length=2000)]


class InvalidIssuers(ValueError):
    """A file of issuers that can't be used; the message is a clause without a subject, on one line."""


class Refused(Exception):
    """A token's claims that aren't good enough; the message is a sentence for whoever sent it."""


class TokenPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token may do: as a key's policy."""

    models: Annotated[tuple[Glob, ...], Meta(max_length=64)] = ("*",)
    scopes: Annotated[tuple[Scope, ...], Meta(max_length=3)] = (Scope.GENERATE,)
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None
    concurrent_requests: Limit | None = None
    monthly_tokens: Limit | None = None
    priority: Annotated[int, Meta(ge=1, le=1000)] = DEFAULT_PRIORITY


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`policy` is for tokens whose every claim named here has a value that one of its globs matches.

    A claim is named by its name, or by a path with dots, as in `realm_access.roles`.
    """

    claims: Annotated[dict[Text, Glob | Annotated[tuple[Glob, ...], Meta(max_length=64)]], Meta(max_length=16)]
    policy: TokenPolicy = TokenPolicy()


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An identity provider. Its keys are at `jwks_url`, else where its discovery document says."""

    issuer: Text
    audience: Text | Annotated[tuple[Text, ...], Meta(min_length=1, max_length=16)]
    jwks_url: str = ""
    algorithms: Annotated[tuple[Algorithm, ...], Meta(min_length=1)] = ALGORITHMS
    name_claim: Text = "sub"
    leeway_seconds: Annotated[float, Meta(ge=0, le=600)] = 60.0
    rules: Annotated[tuple[Rule, ...], Meta(max_length=100)] = ()
    default: TokenPolicy | None = None
    allow_http: bool = False
    ca_file: str = ""

    @property
    def audiences(self) -> tuple[str, ...]:
        return (self.audience,) if isinstance(self.audience, str) else self.audience


class _Issuers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issuers: Annotated[tuple[Issuer, ...], Meta(min_length=1, max_length=MOST_ISSUERS)]


def read_issuers(data: bytes) -> dict[str, Issuer]:
    """Issuers by their name. InvalidIssuers."""
    try:
        issuers = read_json(data, _Issuers, max_bytes=_MOST_BYTES).issuers
    except InvalidJson as error:
        raise InvalidIssuers(str(error)) from None
    found: dict[str, Issuer] = {}
    for each in issuers:
        if each.issuer in found:
            raise InvalidIssuers(f"has the issuer {each.issuer[:200]} twice; give one several audiences")
        if not (each.rules or each.default):
            raise InvalidIssuers(f"gives nobody of {each.issuer[:200]} a right: it needs rules or a default")
        check_url(each.jwks_url or each.issuer, each)
        found[each.issuer] = each
    return found


def check_url(url: str, issuer: Issuer) -> None:
    """InvalidIssuers for an address that keys must not be fetched from: whoever is in between could give his own."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("https", "http") or not host or parts.username is not None:
        raise InvalidIssuers(f"has the address {url[:200]!r} of keys: expected https://…")
    if parts.scheme == "http" and not is_loopback(host) and not issuer.allow_http:
        raise InvalidIssuers(f"has the address {url[:200]!r} of keys, which isn't https; allow_http takes it anyway")


def user_of(claims: Mapping[str, Any], issuer: Issuer, now: float) -> tuple[Policy, float]:
    """The policy of whom these claims are about, and until when they hold, in Unix time. Refused.

    A token that no rule is for opens nothing, and is no mistake.
    """
    expires = _time(claims, "exp")
    if expires is None:
        raise Refused("The token has no time at which it expires.")
    if now >= expires + issuer.leeway_seconds:
        raise Refused("The token has expired.")
    for name, words in (("nbf", "isn't valid yet"), ("iat", "was made in the future")):
        begins = _time(claims, name)
        if begins is not None and begins > now + issuer.leeway_seconds:
            raise Refused(f"The token {words}.")
    audience = claims.get("aud")
    given = audience if isinstance(audience, list) else [audience]
    if not any(each in issuer.audiences for each in given if isinstance(each, str)):
        raise Refused("The token is for another audience.")
    user = claims.get(issuer.name_claim)
    if not isinstance(user, str) or not user:
        raise Refused(f"The token has no claim {issuer.name_claim} that says who it is about.")
    chosen = next((rule.policy for rule in issuer.rules if _applies(rule, claims)), issuer.default)
    if chosen is None:
        chosen = TokenPolicy(models=(), scopes=())
    fields = {field: getattr(chosen, field) for field in TokenPolicy.__struct_fields__}
    return Policy(id=identity(issuer.issuer, user), name=shown(user), **fields), expires


def identity(issuer: str, name: str) -> str:
    """The same for the same user of an issuer, and says nothing of them."""
    both = "\0".join((issuer, name)).encode("utf-8", "surrogatepass")
    return f"j-{hashlib.sha256(both).hexdigest()[:20]}"


def shown(name: str) -> str:
    """A name in the letters that those of keys have."""
    return _UNFIT.sub("_", name[:_LONGEST_NAME]).strip("._@/-") or "_"


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """A claim in seconds of Unix time; None if there is none. Refused if it is no such number."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise Refused(f"The token's claim {name} is no time.")
    return float(value)


def _applies(rule: Rule, claims: Mapping[str, Any]) -> bool:
    return all(_matches(claims, path, globs) for path, globs in rule.claims.items())


def _matches(claims: Mapping[str, Any], path: str, globs: str | tuple[str, ...]) -> bool:
    taken = (globs,) if isinstance(globs, str) else globs
    return any(fnmatchcase(value, glob) for value in _values(claims, path) for glob in taken)


def _values(claims: Mapping[str, Any], path: str) -> Iterator[str]:
    """The texts of a claim; a scope's words each for itself."""
    found: Any = claims.get(path)
    if found is None:
        found = claims
        for step in path.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
    if isinstance(found, str) and path.rpartition(".")[2] in ("scope", "scp"):
        found = found.split()
    for value in (found if isinstance(found, list) else [found])[:_MOST_VALUES]:
        match value:
            case bool():
                yield "true" if value else "false"
            case str():
                yield value
            case int():
                yield str(value)
