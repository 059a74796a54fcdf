"""Log lines: for people, or one JSON object a line."""

import logging
import sys
from typing import Literal

from ams_common.json_lines import JsonLines


class _Throttle(logging.Filter):
    """One line of each text in a while: a watch that is retried logs the same each time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._logged: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)[:200]
        if record.created - self._logged.get(text, 0.0) < self._seconds:
            return False
        if len(self._logged) > 1000:
            self._logged.clear()
        self._logged[text] = record.created
        return True


def configure(style: Literal["console", "json"], debug: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if style == "json" else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    for name in ("kopf.objects", "kopf._cogs.clients", "kopf._core", "kopf.activities"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.addFilter(_Throttle(30.0))
    for name in ("aiohttp.access", "asyncio", "kubernetes"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It runs in a thread of its own, and says at each start that it ignores signals there.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
