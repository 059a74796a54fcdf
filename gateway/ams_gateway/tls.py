"""HTTPS: the certificate that the gateway shows, followed while it is renewed, and client certificates.

Each renewal makes a context of its own; a connection gets the newest one when it begins and keeps it. So a pair that
can't be used never takes the place of one that can, and an authority that is taken off the list counts no more.
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ams_common.options import OptionError

from ams_gateway.settings import HttpSettings

logger = logging.getLogger("ams_gateway")

_LOOK_SECONDS = 2.0
_OTHERS_READ = 0o004
_MOST_BYTES = 4 << 20
_WARN_SECONDS = 7 * 86400.0


class _Unusable(Exception):
    """A pair that can't be used; `flag` is the setting to blame, the message a clause."""

    def __init__(self, flag: str, message: str) -> None:
        super().__init__(message)
        self.flag = flag


@dataclass(frozen=True, slots=True)
class _Files:
    cert: Path
    key: Path
    client_ca: Path | None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.cert, self.key, self.client_ca) if path is not None]

    def state(self) -> list[tuple[int, int, int] | None]:
        """Changes when a file does, also where a link to its folder leads elsewhere."""
        return [_state(path) for path in self.all]


class Certificate:
    """`context` is what to listen with. `start` follows the files until `close`."""

    def __init__(self, files: _Files) -> None:
        """OptionError for files that can't be used."""
        self._files = files
        self._seen = files.state()
        try:
            self._current, self.expires = _load(files)
        except _Unusable as error:
            path = {"--tls-cert": files.cert, "--tls-key": files.key, "--tls-client-ca": files.client_ca}[error.flag]
            raise OptionError(f"{error.flag}={str(path)!r}: {error}") from None
        self.context = self._current
        self.context.sni_callback = self._begin
        self._task: asyncio.Task[None] | None = None
        self._problem = ""
        self._told: Callable[[float], None] = lambda expires: None

    def start(self, told: Callable[[float], None]) -> None:
        """`told` gets the Unix time at which the certificate ends, now and after each renewal."""
        self._told = told
        told(self.expires)
        _hint(self._files, self.expires)
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _begin(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        if context is not self._current:
            connection.context = self._current

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            state = await asyncio.to_thread(self._files.state)
            if state == self._seen:
                continue
            try:
                self._current, self.expires = await asyncio.to_thread(_load, self._files)
            except _Unusable as error:
                # It may be half written: it is looked at again until it can be used.
                if str(error) != self._problem:
                    self._problem = str(error)
                    logger.error("%s: %s; the certificate from before is shown on", error.flag, error)
                continue
            self._seen, self._problem = state, ""
            self._told(self.expires)
            logger.info("the certificate was renewed; it ends on %s", _day(self.expires))
            _hint(self._files, self.expires)


def load_certificate(settings: HttpSettings) -> Certificate | None:
    """None where the settings name none. OptionError for files that can't be used."""
    if not settings.tls_cert:
        for flag, value in (("--tls-key", settings.tls_key), ("--tls-client-ca", settings.tls_client_ca)):
            if value:
                raise OptionError(f"{flag}={value!r}: it needs --tls-cert")
        return None
    cert = Path(settings.tls_cert).expanduser()
    key = Path(settings.tls_key).expanduser() if settings.tls_key else cert
    return Certificate(_Files(cert, key, Path(settings.tls_client_ca).expanduser() if settings.tls_client_ca else None))


def _load(files: _Files) -> tuple[ssl.SSLContext, float]:
    """A context with these files, and the Unix time at which the certificate ends."""
    from cryptography import x509  # late: 9 MiB that a gateway without TLS and tokens does without

    chain = _read("--tls-cert", files.cert)
    _read("--tls-key", files.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        expires = x509.load_pem_x509_certificates(chain)[0].not_valid_after_utc.timestamp()
    except (ValueError, IndexError):
        raise _Unusable("--tls-cert", "it holds no certificate in PEM") from None
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as error:
        reason = (error.reason or "").replace("_", " ").lower()
        if "mismatch" in reason:
            raise _Unusable("--tls-key", "it is not the key of the certificate") from None
        raise _Unusable("--tls-key", f"it holds no key in PEM that fits the certificate ({reason or error})") from None
    except (OSError, ValueError) as error:
        raise _Unusable("--tls-key", getattr(error, "strerror", None) or str(error)) from None
    if files.client_ca is not None:
        _read("--tls-client-ca", files.client_ca)
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError):
            raise _Unusable("--tls-client-ca", "it holds no certificates in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
        # A session that is resumed shows no certificate: it could be one that isn't taken any more.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context, expires


def _read(flag: str, path: Path) -> bytes:
    try:
        if not path.is_file():
            raise _Unusable(flag, "there is no such file")
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise _Unusable(flag, error.strerror or str(error)) from None


def _no_password() -> str:
    raise ValueError("it is encrypted; give the key without a password")


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def _hint(files: _Files, expires: float) -> None:
    now = time.time()
    if expires <= now:
        logger.warning("the certificate ended on %s: clients refuse it", _day(expires))
    elif expires - now < _WARN_SECONDS:
        logger.warning("the certificate ends on %s", _day(expires))
    try:
        if files.key.stat().st_mode & _OTHERS_READ:
            logger.warning("%s may be read by every user of this machine; chmod 600 it", files.key)
    except OSError:
        pass


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))
