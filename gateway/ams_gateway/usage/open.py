"""The ledger as the settings want it."""

from pathlib import Path

from ams_gateway.redis_link import RedisLink
from ams_gateway.settings import HttpSettings
from ams_gateway.usage.collecting import ReadableLedger
from ams_gateway.usage.kept import KeptLedger
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.shared import SharedLedger


def open_ledger(settings: HttpSettings, link: RedisLink | None, metrics: UsageMetrics) -> ReadableLedger:
    """`start` it after the link, `close` it before; a file that can't be used is told, and memory used instead."""
    path = Path(settings.usage_file).expanduser().absolute() if settings.usage_file else None
    if link is None:
        return KeptLedger(path, metrics, days=settings.usage_days)
    return SharedLedger(link, path, metrics, days=settings.usage_days)
