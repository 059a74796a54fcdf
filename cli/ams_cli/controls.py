"""Starting and stopping a model by hand under `ams up`, and what its processes wrote since it last began to start."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from ams_common.progress import Progress
from ams_gateway.registry.port import Model

from ams_cli.supervisor import Supervisor

_MOST_BYTES = 256 << 10


class FleetControls:
    """Implements `ams_gateway.registry.port.Controls`."""

    def __init__(self, supervisor_of: Callable[[str], Supervisor]) -> None:
        self._supervisor_of = supervisor_of

    def start(self, model: Model) -> Progress:
        return self._supervisor_of(model.name).start()

    def stop(self, model: Model) -> Progress:
        return self._supervisor_of(model.name).stop()

    async def log(self, model: Model) -> str:
        supervisor = self._supervisor_of(model.name)
        path, since = supervisor.startup_log
        own = await asyncio.to_thread(log_tail, path, since)
        engines = await asyncio.to_thread(log_tail, supervisor.engine_log, 0, _MOST_BYTES // 2)
        return f"{own}\n--- {supervisor.engine_log.name}\n{engines}" if engines else own


def log_tail(path: Path, since: int, most: int = _MOST_BYTES) -> str:
    """The last `most` bytes of a log after its byte `since`, from the beginning of a line on; empty without a log."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            begin = max(since if since <= size else 0, size - most)
            file.seek(begin)
            text = file.read(most)
    except OSError:
        return ""
    if begin > since:
        text = text[text.find(b"\n") + 1 :]
    return text.decode(errors="replace")
