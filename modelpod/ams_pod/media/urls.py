"""Which URLs media may be fetched from: none, unless their host is on the list; and never from inside the network."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ams_common.errors import ApiError

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Of a list like `example.com, *.example.org, media.example.net:8443`; a `*.` stands for any subdomain.

    Without a port of its own an entry allows the scheme's.
    """

    entries: tuple[tuple[str, int | None], ...]

    @staticmethod
    def parse(text: str) -> "AllowedHosts":
        """ValueError with a sentence if an entry is no host."""
        entries = []
        for item in filter(None, (part.strip().lower() for part in text.split(","))):
            host, colon, port = item.partition(":") if item.count(":") == 1 else (item, "", "")
            name = host.removeprefix("*.")
            if not name or any(character in name for character in "*/@?# ") or (colon and not port.isdecimal()):
                raise ValueError(f"{item!r} is not a host: expected example.com, *.example.com or example.com:8443")
            entries.append((host, int(port) if port else None))
        return AllowedHosts(tuple(entries))

    def allows(self, host: str, port: int, usual_port: int) -> bool:
        return any(
            (host == entry or (entry.startswith("*.") and host.endswith(entry[1:])))
            and port == (usual_port if allowed_port is None else allowed_port)
            for entry, allowed_port in self.entries
        )


def is_url(text: str) -> bool:
    """Whether a field of media holds an address instead of the data."""
    scheme, colon, rest = text.lstrip()[:40].partition(":")
    return bool(colon) and rest.startswith("//") and scheme.replace("+", "").isalnum()


def check_url(url: str, field: str, hosts: AllowedHosts) -> tuple[SplitResult, str, int]:
    """(the URL's parts, its host, its port); ApiError `invalid_parameter` unless the list allows it."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise refused(field, "the URL is not valid") from None
    if parts.scheme.lower() not in _PORTS:
        raise refused(field, f"{parts.scheme[:20]}:// is not fetched; send base64 or a data URI")
    if not hosts.entries:
        raise refused(field, "URLs are not fetched by this server; send base64 or a data URI")
    usual = _PORTS[parts.scheme.lower()]
    if parts.username is not None or parts.password is not None:
        raise refused(field, "a URL with a user name or password is not fetched")
    if any(ord(character) <= 32 or character == "\\" for character in url) or not host:
        raise refused(field, "the URL is not valid")
    if not hosts.allows(host, port or usual, usual):
        raise refused(field, f"media are not fetched from {host[:100]}; send base64 or a data URI")
    return parts, host, port or usual


def is_public(address: Address) -> bool:
    """Whether an address is out in the Internet: not private, loopback, link-local (metadata services), or a tunnel."""
    if isinstance(address, ipaddress.IPv6Address):
        if (inside := address.ipv4_mapped or address.sixtofour) is not None:
            return address.ipv4_mapped is not None and is_public(inside)
        if address.teredo is not None or any(address in network for network in _NAT64):
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def checked(addresses: Sequence[str]) -> list[Address]:
    """As addresses; a scope like %eth0 is left out."""
    return [ipaddress.ip_address(address.partition("%")[0]) for address in addresses]


def refused(field: str, reason: str) -> ApiError:
    return ApiError("invalid_parameter", f"{field}: {reason}.", param=field)
