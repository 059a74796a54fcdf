"""Request ids: the client's own when it is sane, else a new one."""

import os
import re

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


def request_id(given: str | None) -> str:
    """An id that is safe in headers, logs and bodies."""
    if given is not None and _SANE(given):
        return given
    return os.urandom(12).hex()
