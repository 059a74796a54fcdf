"""Which browsers' requests are taken: by the name they use for this server, and by the page that they come from.

A page on the web may let a browser send requests to any address that the browser can reach, and a name of the page's
own can be pointed at this machine. So a server on loopback takes only the names that it has, and refuses requests from
pages of other origins; one that listens for a network does so where hosts or origins are listed.
"""

import functools
import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from ams_common.errors import ApiError
from ams_common.printable import printable

_ANY = "*"
_EXPOSED = ", ".join(
    (
        "X-Request-Id", "X-AMS-Model", "X-AMS-Usage", "X-AMS-Queue-Seconds", "X-AMS-Ignored-Fields", "X-AMS-Cache",
        "Retry-After", "X-RateLimit-Limit-Requests", "X-RateLimit-Limit-Tokens", "X-RateLimit-Remaining-Requests",
        "X-RateLimit-Remaining-Tokens", "X-RateLimit-Reset-Requests", "X-RateLimit-Reset-Tokens",
    )
)  # fmt: skip
_PREFLIGHT_SECONDS = 600
NO_HEADERS: Mapping[str, str] = {}


class Access:
    """`hosts` may have `*.example.com` or `*`; `origins` are like `https://app.example.com`, or `*`."""

    def __init__(self, listening_on: str, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._own = _bare(listening_on)
        self._hosts = tuple(_bare(host) for host in hosts)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        loopback = is_loopback(self._own)
        self._checks_hosts = (loopback or bool(self._hosts)) and _ANY not in self._hosts
        self._checks_origins = (loopback or bool(self._origins)) and _ANY not in self._origins
        self._takes = functools.lru_cache(1024)(self._takes_host)

    def admit(self, method: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The CORS headers of the answer. ApiError `host_not_allowed` or `origin_not_allowed`."""
        host = headers.get("Host")
        if self._checks_hosts and host is not None and not self._takes(host):
            raise ApiError(
                "host_not_allowed",
                f"This server isn't known as {printable(host, 100)}; --allowed-hosts lists the names that it takes.",
            )
        origin = headers.get("Origin")
        if origin is None and "Sec-Fetch-Site" not in headers:
            return NO_HEADERS  # no browser
        if origin is not None and (origin.lower() in self._origins or _ANY in self._origins):
            return {
                "Access-Control-Allow-Origin": printable(origin, 300),
                "Access-Control-Expose-Headers": _EXPOSED,
                "Vary": "Origin",
            }
        if self._checks_origins and not _is_own_page(method, host, origin, headers):
            raise ApiError(
                "origin_not_allowed",
                f"Pages of {printable(origin or 'another site', 200)} may not use this server; "
                "--allowed-origins lists those that may.",
            )
        return NO_HEADERS

    def _takes_host(self, host: str) -> bool:
        name = _bare(host)
        if _is_address(name) or name == self._own or name == "localhost" or name.endswith(".localhost"):
            return True
        return any(name == host or (host.startswith("*.") and name.endswith(host[1:])) for host in self._hosts)


def preflight(method: str, headers: Mapping[str, str], cors: Mapping[str, str]) -> dict[str, str] | None:
    """The headers that answer an admitted CORS preflight; None if the request is none."""
    if method != "OPTIONS" or not cors or "Access-Control-Request-Method" not in headers:
        return None
    answer = {
        **cors,
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE",
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
        "Vary": "Origin, Access-Control-Request-Headers",
    }
    if wanted := headers.get("Access-Control-Request-Headers"):
        answer["Access-Control-Allow-Headers"] = printable(wanted)
    if headers.get("Access-Control-Request-Private-Network") == "true":
        answer["Access-Control-Allow-Private-Network"] = "true"
    return answer


def _is_own_page(method: str, host: str | None, origin: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a browser sends this for a page of this server, or because its user opens an address."""
    site = headers.get("Sec-Fetch-Site")
    if site in ("same-origin", "none"):
        return True
    if origin is None:
        return method in ("GET", "HEAD") and headers.get("Sec-Fetch-Mode") == "navigate"
    if site is not None:
        return False
    return host is not None and origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


def _bare(host: str) -> str:
    """A host in lower case, without port, brackets and the final dot."""
    host = host.strip().lower()
    if _is_address(host):
        return host
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether only programs of this machine reach what listens on this address."""
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)
