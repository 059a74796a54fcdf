"""What keys used, for Prometheus: counted in plain numbers, by the names of keys, of which there are only so many."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ams_gateway.usage.port import Entry

_MOST_NAMES = 200
OTHERS = "_other"  # keys beyond; no key's name begins with an underscore


class _Numbers:
    __slots__ = ("cached", "completion", "compute", "prompt", "requests")

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}
        self.prompt = 0
        self.cached = 0
        self.completion = 0
        self.compute = 0.0


class UsageMetrics(Collector):
    """Counts since the gateway started."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Numbers] = {}
        self.waiting = 0  # rows that neither file nor Redis has

    def count(self, entry: Entry) -> None:
        numbers = self._by_name.get(entry.key_name) or self._numbers(entry.key_name)
        if not entry.late:
            numbers.requests[entry.outcome] = numbers.requests.get(entry.outcome, 0) + 1
        usage = entry.usage
        numbers.prompt += usage.prompt_tokens
        numbers.cached += usage.cached_tokens
        numbers.completion += usage.completion_tokens
        numbers.compute += usage.compute_seconds

    def _numbers(self, name: str) -> _Numbers:
        if len(self._by_name) >= _MOST_NAMES:
            name = OTHERS
        return self._by_name.setdefault(name, _Numbers())

    def collect(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily(
            "ams_gateway_key_tokens",
            "Tokens that a key used; those of `cached` are among those of `input`.",
            labels=("key", "token_type"),
        )
        requests = CounterMetricFamily(
            "ams_gateway_key_requests", "Requests of a key that ended, by how they did.", labels=("key", "outcome")
        )
        compute = CounterMetricFamily(
            "ams_gateway_key_compute_seconds", "Time that models computed for a key.", labels=("key",)
        )
        for name, numbers in self._by_name.items():
            for kind, count in (
                ("input", numbers.prompt), ("cached", numbers.cached), ("output", numbers.completion),
            ):  # fmt: skip
                tokens.add_metric((name, kind), count)
            for outcome, count in numbers.requests.items():
                requests.add_metric((name, str(outcome)), count)
            compute.add_metric((name,), numbers.compute)
        yield from (tokens, requests, compute)
        yield GaugeMetricFamily(
            "ams_gateway_usage_rows_waiting",
            "Rows of the ledger that couldn't be written or sent yet.",
            value=self.waiting,
        )
