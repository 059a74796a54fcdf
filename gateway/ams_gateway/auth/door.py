"""All that decides who gets in, made from the settings, with what has to run beside it."""

from collections.abc import Mapping
from pathlib import Path

from ams_common.keys import ANONYMOUS_ID
from ams_common.options import OptionError

from ams_gateway.auth.audit import AuditLog
from ams_gateway.auth.authentication import Authentication
from ams_gateway.auth.key_file import KeyFile
from ams_gateway.auth.keys import Keys
from ams_gateway.auth.tokens import Tokens
from ams_gateway.front.access import is_loopback
from ams_gateway.settings import HttpSettings

_NOBODY_ELSE = {ANONYMOUS_ID: ANONYMOUS_ID}


class Door:
    """`keys` are followed by `file`, or by whoever made them."""

    def __init__(
        self,
        keys: Keys | None = None,
        file: KeyFile | None = None,
        *,
        anonymous: bool = False,
        audit: AuditLog | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self.keys = keys or Keys()
        self.audit = audit or AuditLog()
        self.authentication = Authentication(self.keys, tokens, anonymous=anonymous)
        self._file = file
        self.tokens = tokens

    def names(self) -> Mapping[str, str]:
        """The names of the users of the keys, by id."""
        return _NOBODY_ELSE if self.keys.ring is None else self.keys.ring.names

    def start(self) -> None:
        if self.tokens is not None:
            self.tokens.start()
        if self._file is not None:
            self._file.start()

    async def close(self) -> None:
        if self._file is not None:
            await self._file.close()
        if self.tokens is not None:
            await self.tokens.close()
        self.audit.close()


def open_door(settings: HttpSettings, *, keys: Keys | None = None, default_keys_file: Path | None = None) -> Door:
    """The door that the settings ask for, with its keys read once.

    `keys` are those that something else follows. `default_keys_file` is where they lie where the settings name no file:
    there need be none. OptionError for what can't be meant: a file that isn't there, a log that can't be written, an
    address that others reach with nothing to keep them out.
    """
    audit = AuditLog(settings.audit_log)
    try:
        audit.check()
    except OSError as error:
        raise OptionError(f"--audit-log={settings.audit_log!r}: {error.strerror}") from None
    file = None
    if keys is None:
        keys = Keys()
        path = Path(settings.keys_file).expanduser() if settings.keys_file else default_keys_file
        if settings.keys_file and path is not None and not path.exists():
            raise OptionError(
                f"--keys-file={settings.keys_file!r}: there is no such file; "
                f"ams keys create --name first --keys-file {settings.keys_file} makes it"
            )
        if path is not None:
            file = KeyFile(keys, path, optional=not settings.keys_file)
            file.read()
    tokens = Tokens.load(Path(settings.jwt_file).expanduser()) if settings.jwt_file else None
    door = Door(keys, file, anonymous=settings.allow_anonymous, audit=audit, tokens=tokens)
    if door.authentication.is_open and not settings.allow_anonymous and not is_loopback(settings.host):
        how = "" if default_keys_file is not None else " --keys-file FILE` and name the file with `--keys-file FILE"
        raise OptionError(
            f"--host={settings.host!r}: whoever reaches this address could use every model. Make a key with "
            f"`ams keys create --name first{how}`, or allow everybody with --allow-anonymous"
        )
    return door


def openness(door: Door) -> str:
    """A sentence for the log about who gets in."""
    if door.authentication.is_open:
        return "There is no authentication: anyone who can reach the port can use every model."
    ring = door.keys.ring
    parts = []
    if ring is not None:
        parts.append("one of 1 API key" if len(ring) == 1 else f"one of {len(ring)} API keys")
    if door.tokens is not None:
        parts.append("a token of an identity provider")
    if door.authentication.takes_visitors:
        parts.append("nothing, to generate as anonymous")
    return f"Requests need {', or '.join(parts)}."
