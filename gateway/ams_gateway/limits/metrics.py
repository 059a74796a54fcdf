"""What is told of limits: who was refused why, how much of their months is used up, and what was decided alone."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_MOST_NAMES = 200  # of keys in labels
_LIMITS = ("requests", "tokens", "concurrent", "month")


class LimitMetrics(Collector):
    """Counts for one gateway. `months` gives the part of the month's tokens that is used up, by the key's name."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter(dict.fromkeys(_LIMITS, 0))
        self.alone = 0  # decided without Redis, though there should be one
        self.gateways = 1  # that share the limits, this one included
        self.months: Callable[[], Mapping[str, float]] = dict

    def collect(self) -> Iterator[Metric]:
        refusals = CounterMetricFamily(
            "ams_gateway_limit_refusals", "Requests that didn't fit into a key's limits.", labels=("limit",)
        )
        for limit, count in self.refusals.items():
            refusals.add_metric((limit,), count)
        yield refusals
        yield CounterMetricFamily(
            "ams_gateway_limit_alone",
            "Requests let in or refused by this gateway's own part of limits, as Redis was away.",
            value=self.alone,
        )
        yield GaugeMetricFamily(
            "ams_gateway_limit_gateways", "Gateways that share the limits, as Redis last told.", value=self.gateways
        )
        used = GaugeMetricFamily(
            "ams_gateway_key_budget_used_ratio", "Part of the month's tokens that a key has used.", labels=("key",)
        )
        months = self.months()
        for name in sorted(months, key=lambda name: -months[name])[:_MOST_NAMES]:
            used.add_metric((name,), months[name])
        yield used
