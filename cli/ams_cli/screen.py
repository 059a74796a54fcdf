"""The output of `ams up`: plain lines, and in a terminal a table of the models that stays below them."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ams_common.lifecycle import Phase
from ams_common.wire import ModelOverview

from ams_cli.model_table import HEADER, cells

if TYPE_CHECKING:
    from rich.table import Table


class Screen(Protocol):
    has_table: bool

    def say(self, text: str) -> None:
        """Show one or more lines."""

    def refresh(self) -> None:
        """Show how the models are now, if there is a table."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class PlainScreen:
    """Lines on the standard output; when nobody reads them any more, that stops nothing."""

    has_table = False

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text.rstrip("\n"), flush=True)

    def refresh(self) -> None:
        pass

    def close(self) -> None:
        pass


class TableScreen:
    """A terminal with a live table. rich is imported here, so that nothing else waits for it."""

    has_table = True

    def __init__(self, models: Callable[[], Sequence[ModelOverview]]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._models = models
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._live.start()

    def say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._console.out(text.rstrip("\n"), highlight=False)

    def refresh(self) -> None:
        with contextlib.suppress(OSError):
            self._live.update(models_table(self._models()), refresh=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()


def open_screen(models: Callable[[], Sequence[ModelOverview]]) -> Screen:
    """A table where the standard output is a terminal and rich is installed, else lines."""
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return TableScreen(models)
    return PlainScreen()


def models_table(models: Sequence[ModelOverview]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEADER:
        result.add_column(name, no_wrap=name != "NOTE", overflow="ellipsis")
    for model in models:
        name, state, *others = cells(model)
        result.add_row(Text(name), Text(state, style=_style(model.state)), *map(Text, others))
    return result


def _style(phase: Phase) -> str:
    """Colours are left out where the output isn't a terminal, and with NO_COLOR."""
    if phase is Phase.FAILED:
        return "red"
    if phase is Phase.READY:
        return "green"
    return "dim" if phase.is_cold else "yellow"
