"""Messages between `ams up` and the fork server: one JSON object a line, both ways, over a socket pair."""

import msgspec


class ForkRequest(msgspec.Struct, frozen=True):
    """To the fork server: start a child. `argv` and `env` are as for the command `ams-pod`.

    `stdout` is the path of the file that the child's output is appended to.
    """

    id: int
    argv: tuple[str, ...]
    env: dict[str, str]
    stdout: str


class ServerReady(msgspec.Struct, frozen=True, tag="ready", tag_field="event"):
    """The libraries are imported: children start at once from now on."""


class ChildStarted(msgspec.Struct, frozen=True, tag="started", tag_field="event"):
    id: int
    pid: int


class ChildFailed(msgspec.Struct, frozen=True, tag="failed", tag_field="event"):
    """The child of this request could not be forked; `error` is the operating system's sentence."""

    id: int
    error: str


class ChildExited(msgspec.Struct, frozen=True, tag="exited", tag_field="event"):
    """A child ended, by its exit `code` or by the number of a `signal`; the other one is None."""

    id: int
    pid: int
    code: int | None
    signal: int | None


ForkEvent = ServerReady | ChildStarted | ChildFailed | ChildExited
