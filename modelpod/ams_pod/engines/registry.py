"""Which engines there are, and the one place that opens one: each is a module with `open_engine` and `preload_modules`.

All that aren't ours are opened by one module, which asks them by a dialect each.
"""

import asyncio
import importlib
from pathlib import Path

from ams_common.engines.names import EngineName
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.port import Engine, Publish, ReportPhase

_OTHERS = "ams_pod.engines.openai.opener"
ENGINES: dict[EngineName, str] = {
    "builtin": "ams_pod.engines.builtin.opener",
    "vllm": _OTHERS,
    "sglang": _OTHERS,
    "llamacpp": _OTHERS,
    "custom": _OTHERS,
}
"""Name to the module of its opener. Importing that module costs little: what takes seconds, it imports when called."""


def open_engine(
    folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase, loop: asyncio.AbstractEventLoop
) -> Engine:
    """An `Opener` for the engine that serves this model. LoadFailed if it can't."""
    module = importlib.import_module(ENGINES[settings.engine])
    engine: Engine = module.open_engine(folder, settings, publish, report, loop)
    return engine


def preload_modules() -> tuple[str, ...]:
    """What the engines import when they open a model, for a process that does it ahead of time."""
    modules = map(importlib.import_module, dict.fromkeys(ENGINES.values()))
    return tuple(dict.fromkeys(name for module in modules for name in module.preload_modules()))
