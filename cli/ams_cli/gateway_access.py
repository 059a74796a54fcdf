"""What commands show a gateway: an API key, a client certificate, and whose certificates they believe."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ams_common.options import OptionError

from ams_cli.settings import ClientSettings

API_KEY = "AMS_API_KEY"
_LONGEST_KEY = 16 << 10  # a token may be long


@dataclass(frozen=True, slots=True)
class GatewayAccess:
    """`key` is sent with each request; `tls` None means the system's own authorities and no client certificate."""

    key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None


def gateway_access(settings: ClientSettings, environment: Mapping[str, str]) -> GatewayAccess:
    """From --api-key-file, else $AMS_API_KEY, which `ps` doesn't show. OptionError, which never holds the key."""
    if settings.api_key_file:
        path = Path(settings.api_key_file).expanduser()
        try:
            with path.open("rb") as file:
                key = _key(file.read(_LONGEST_KEY + 1).decode(errors="replace"), f"--api-key-file={str(path)!r}")
        except OSError as error:
            raise OptionError(f"--api-key-file={str(path)!r}: {error.strerror or error}") from None
        if not key:
            raise OptionError(f"--api-key-file={str(path)!r}: the file is empty")
    else:
        key = _key(environment.get(API_KEY, ""), API_KEY)
    return GatewayAccess(key, _tls(settings))


def _key(text: str, source: str) -> str:
    key = text.strip()
    if len(key) > _LONGEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise OptionError(f"{source}: expected an API key, which is one word of letters, digits and signs")
    return key


def _tls(settings: ClientSettings) -> ssl.SSLContext | None:
    if settings.client_key and not settings.client_cert:
        raise OptionError("--client-key is the key of --client-cert, which is missing")
    if not (settings.ca_file or settings.client_cert):
        return None
    if not settings.url.lower().startswith("https://"):
        raise OptionError(f"--url={settings.url!r}: --ca-file and --client-cert are for an https:// URL")
    ca, cert, key = (
        str(Path(path).expanduser()) if path else None
        for path in (settings.ca_file, settings.client_cert, settings.client_key)
    )
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise OptionError(f"--ca-file={ca!r}: {_why(error)}") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (OSError, ValueError) as error:
            raise OptionError(f"--client-cert={cert!r}: {_why(error)}") from None
    return context


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return f"no such certificates in PEM ({error})"
    return error.strerror or str(error)


def _no_password() -> str:
    raise ValueError("its key is encrypted")
