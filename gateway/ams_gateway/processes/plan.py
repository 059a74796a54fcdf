"""What each of several processes gets of one gateway's settings, and which settings several can't have."""

import msgspec
from ams_common.options import OptionError

from ams_gateway.settings import GatewaySettings

VARIABLE = "AMS_GATEWAY_PROCESS"
"""Tells a process of several which one it is, and the socket where it is asked for its part: `NUMBER:PATH`."""

_LEAST_BYTES = 1 << 20


class Part(msgspec.Struct, frozen=True):
    """One process of several, counted from 0, and the socket where the first process asks it."""

    number: int
    socket: str

    @property
    def variable(self) -> str:
        return f"{self.number}:{self.socket}"


def part_of(variable: str) -> Part | None:
    """The part that VARIABLE names; None where it is empty. OptionError for one that nobody made."""
    if not variable:
        return None
    number, colon, socket = variable.partition(":")
    if not (colon and socket and number.isascii() and number.isdigit()):
        raise OptionError(f"{VARIABLE} is the gateway's own variable, for --processes: leave it out")
    return Part(int(number), socket)


def check_processes(settings: GatewaySettings) -> None:
    """OptionError where several processes would each count, keep or tell a part of what is one."""
    if settings.processes == 1:
        return
    flag = f"--processes={settings.processes}"
    if not settings.redis_url:
        raise OptionError(f"{flag} needs --redis-url: limits, usage and stored responses are shared by it")
    if not settings.metrics_port:
        raise OptionError(f"{flag} needs --metrics-port, where the metrics of all are served")
    if not settings.port:
        raise OptionError(f"{flag} needs a --port of its own: 0 would give each process another")


def settings_of(settings: GatewaySettings, part: Part) -> GatewaySettings:
    """One process' settings: its share of the room for bodies, and a file of its own for what Redis doesn't have yet.

    The first process keeps the file's name, so that nothing is left behind by a gateway that was one process.
    """
    file = settings.usage_file
    return msgspec.structs.replace(
        settings,
        body_memory_bytes=max(settings.body_memory_bytes // settings.processes, _LEAST_BYTES),
        spool_bytes=max(settings.spool_bytes // settings.processes, _LEAST_BYTES),
        usage_file=f"{file}.{part.number}" if file and part.number else file,
    )


def may_restart(ends: list[float], now: float) -> bool:
    """Whether a process that ended is started again: not the fifth time within a minute. `ends` are when they ended."""
    return sum(now - at < 60.0 for at in ends) < 5
