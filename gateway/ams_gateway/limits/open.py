"""Limits as the settings want them: shared where there is a Redis, this gateway's own elsewhere."""

from ams_gateway.limits.memory import MemoryLimiter
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.places import MonthTokens
from ams_gateway.limits.shared import SharedLimiter
from ams_gateway.redis_link import RedisLink


def open_limiter(
    link: RedisLink | None, month_tokens: MonthTokens, metrics: LimitMetrics
) -> MemoryLimiter | SharedLimiter:
    """`start` it after the link and the ledger, `close` it before them."""
    return MemoryLimiter(month_tokens, metrics) if link is None else SharedLimiter(link, month_tokens, metrics)
