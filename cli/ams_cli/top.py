"""`ams top`: the models of a gateway, live; one table where nobody looks."""

import asyncio
import contextlib
import sys
import termios
import time
import tty
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ams_common.wire import ModelOverview, Overview

from ams_cli.gateway_client import GatewayClient, GatewayError
from ams_cli.model_table import HEADER, Order, cells, error_line, newest_errors, ordered, summary
from ams_cli.overviews import follow
from ams_cli.tables import columns

if TYPE_CHECKING:
    from rich.console import RenderableType

_SECONDS_FOR_RATES = 2.5  # of one look: rates need two readings of the pods
_RETRY_SECONDS = 1.0
_REFRESH_SECONDS = 1.0
_MOST_ERRORS = 5


async def once(gateway: GatewayClient, order: Order) -> str:
    """One table, after a moment for the rates. GatewayError."""
    newest: Overview | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SECONDS_FOR_RATES), contextlib.aclosing(follow(gateway)) as overviews:
            async for overview in overviews:
                newest = overview
    if newest is None:
        raise GatewayError(f"{gateway.where} doesn't say how its models are")
    lines = [summary(newest.models, gateway.where), "", columns([HEADER, *map(cells, ordered(newest.models, order))])]
    errors = _errors(newest.models, newest.time)
    return "\n".join([*lines, "", *errors] if errors else lines)


async def live(gateway: GatewayClient, order: Order) -> None:
    """A table that fills the terminal until q or Ctrl-C. GatewayError if there is no gateway to begin with."""
    from rich.console import Console
    from rich.live import Live

    overviews = follow(gateway)
    newest = await anext(overviews)
    trouble = ""
    with _keys() as quit_asked, Live(console=Console(), screen=True, auto_refresh=False) as screen:

        async def keep_up() -> None:
            nonlocal newest, trouble
            async for overview in _followed(gateway, overviews, tell):
                newest, trouble = overview, ""
                screen.update(_picture(newest, gateway.where, order, trouble), refresh=True)

        def tell(text: str) -> None:
            nonlocal trouble
            trouble = text

        following = asyncio.create_task(keep_up())
        try:
            while not quit_asked.is_set() and not following.done():
                screen.update(_picture(newest, gateway.where, order, trouble), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REFRESH_SECONDS):
                        await quit_asked.wait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
    if following.done() and not following.cancelled() and (fault := following.exception()) is not None:
        raise fault


async def _followed(
    gateway: GatewayClient, overviews: AsyncIterator[Overview], tell: Callable[[str], None]
) -> AsyncIterator[Overview]:
    """Goes on where the gateway was away, and says so meanwhile."""
    while True:
        try:
            async for overview in overviews:
                yield overview
            text = f"{gateway.where} is stopping"
        except GatewayError as error:
            text = str(error)
        tell(f"{text}; trying again")
        await asyncio.sleep(_RETRY_SECONDS)
        overviews = follow(gateway)


def _picture(overview: Overview, where: str, order: Order, trouble: str) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from ams_cli.screen import models_table

    parts: list[RenderableType] = [Text(summary(overview.models, where), style="bold")]
    if trouble:
        parts.append(Text(trouble, style="bold red"))
    parts += [Text(""), models_table(ordered(overview.models, order))]
    if errors := _errors(overview.models, time.time()):
        parts += [Text(""), Text("Errors of the last hour", style="bold"), *(Text(line) for line in errors)]
    parts += [Text(""), Text("q quits", style="dim")]
    return Group(*parts)


def _errors(models: Sequence[ModelOverview], now: float) -> list[str]:
    return [error_line(name, error, now) for name, error in newest_errors(models, _MOST_ERRORS)]


@contextlib.contextmanager
def _keys() -> Iterator[asyncio.Event]:
    """An event that is set when somebody types q; the terminal is left as it was."""
    asked = asyncio.Event()
    if not sys.stdin.isatty():
        yield asked
        return
    loop = asyncio.get_running_loop()
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def read() -> None:
        if sys.stdin.read(1) in ("q", "Q", ""):
            asked.set()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield asked
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
