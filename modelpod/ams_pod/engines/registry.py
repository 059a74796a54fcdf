"""Which engines there are, and the one place that opens one: each is a module with `open_engine` and `PRELOAD`."""

import importlib
from pathlib import Path
from typing import Literal

from ams_common.pod_settings import ServeSettings

from ams_pod.engines.port import Engine, Publish, ReportPhase

EngineName = Literal["builtin"]

ENGINES: dict[EngineName, str] = {"builtin": "ams_pod.engines.builtin.opener"}
"""Name to the module of its opener. Importing that module costs little: what takes seconds, it imports when called."""


def open_engine(folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase) -> Engine:
    """An `Opener` for the engine that serves this model. LoadFailed if it can't."""
    engine: Engine = importlib.import_module(ENGINES["builtin"]).open_engine(folder, settings, publish, report)
    return engine


def preload_modules() -> tuple[str, ...]:
    """What the engines import when they open a model, for a process that does it ahead of time."""
    return tuple(name for module in ENGINES.values() for name in importlib.import_module(module).preload_modules())
