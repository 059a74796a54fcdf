"""The gateway's Prometheus metrics, counted in plain numbers and put into families only when they are read.

The hot path adds to integers of a record that each model keeps. Labels are bounded: unknown models count under
`_unknown`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from ams_common.errors import ERRORS
from ams_common.histogram import Histogram
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ams_gateway.front.log import Record
from ams_gateway.registry.port import Registry

UNKNOWN = "_unknown"  # no model's name holds an underscore

_BOUNDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip


def is_failure(code: int, error: str) -> bool:
    """Whether a request failed by no fault of who sent it, in its status or in a stream that had begun with 200.

    A model that its owner suspended is no failure.
    """
    if code >= 500:
        return error != "suspended"
    if code >= 400 or not error:
        return False
    return error.startswith("pod_answered_5") or (error in ERRORS and ERRORS[error].status >= 500)


class ModelMetrics:
    """What is counted for one model."""

    __slots__ = (
        "answers", "duration", "ejections", "errors", "failures", "first_byte", "held", "hold", "in_flight", "media",
        "requests", "retries", "tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.errors: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()  # looked up in the answer cache, by what was found
        self.tokens = [0, 0]  # of prompts, of completions
        self.media = 0  # items that pods took in
        self.failures = 0  # requests that failed by no fault of who sent them
        self.ejections = 0
        self.in_flight = 0  # requests at a pod now
        self.held = 0  # requests that wait for the model to get ready
        self.duration: dict[str, Histogram] = {}
        self.first_byte: dict[str, Histogram] = {}
        self.hold = Histogram(_BOUNDS)


class GatewayMetrics(Collector):
    """All metrics of one gateway."""

    def __init__(self, registry: Registry, *, hold_limit: int = 0) -> None:
        self._model_registry = registry
        self._hold_limit = hold_limit
        self._models: dict[str, ModelMetrics] = {}
        self.certificate_expires: float | None = None  # Unix time; None without TLS
        self.issuers: Callable[[], Mapping[str, float | None]] = dict  # seconds since each one's keys were fetched
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def include(self, collector: Collector) -> None:
        """Expose what another part counts."""
        self._registry.register(collector)

    def of(self, model: str) -> ModelMetrics:
        """The numbers of a model that is known to exist, or of UNKNOWN."""
        if (numbers := self._models.get(model)) is None:
            numbers = self._models[model] = ModelMetrics()
        return numbers

    def count(self, record: Record) -> None:
        """Add a request that ended."""
        model = self.of(record.model or UNKNOWN)
        route = record.route
        model.requests[route, record.code] += 1
        if (duration := model.duration.get(route)) is None:
            duration = model.duration[route] = Histogram(_BOUNDS)
        duration.observe(record.seconds)
        if record.first_byte_seconds is not None:
            if (first_byte := model.first_byte.get(route)) is None:
                first_byte = model.first_byte[route] = Histogram(_BOUNDS)
            first_byte.observe(record.first_byte_seconds)
        if record.held_seconds is not None:
            model.hold.observe(record.held_seconds)
        if record.completion_tokens is not None:
            model.tokens[0] += record.prompt_tokens or 0
            model.tokens[1] += record.completion_tokens
        model.media += record.media
        if record.answer_cache:
            model.answers[record.answer_cache] += 1
        if record.error:
            model.errors[record.error] += 1
        if is_failure(record.code, record.error):
            model.failures += 1

    def expose(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) of a scrape, in the format that `accept` asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        self._forget_models_that_are_gone()
        requests = CounterMetricFamily(
            "ams_gateway_requests", "Requests that ended, by status; 499: the client left.",
            labels=("model", "route", "code"),
        )  # fmt: skip
        errors = CounterMetricFamily(
            "ams_gateway_errors",
            "Errors that the gateway sent to clients, also inside streams.",
            labels=("model", "error"),
        )
        failures = CounterMetricFamily(
            "ams_gateway_failures",
            "Requests that failed by no fault of who sent them: status 5xx, or an error in a stream; suspended aside.",
            labels=("model",),
        )
        retries = CounterMetricFamily(
            "ams_gateway_retries", "Requests sent to a pod again.", labels=("model", "reason")
        )
        ejections = CounterMetricFamily(
            "ams_gateway_ejections", "Times that a failing pod was left out.", labels=("model",)
        )
        tokens = CounterMetricFamily(
            "ams_gateway_tokens", "Tokens of answered requests.", labels=("model", "token_type")
        )
        answers = CounterMetricFamily(
            "ams_gateway_answer_cache", "Requests whose answers may be kept: hit or miss.", labels=("model", "result")
        )
        in_flight = GaugeMetricFamily("ams_gateway_requests_in_flight", "Requests at a pod now.", labels=("model",))
        held = GaugeMetricFamily(
            "ams_gateway_requests_held", "Requests that wait for the model to get ready.", labels=("model",)
        )
        media = CounterMetricFamily(
            "ams_gateway_media_items", "Images, clips and videos of answered requests.", labels=("model",)
        )
        backends = GaugeMetricFamily(
            "ams_gateway_ready_pods", "Pods of a model that this gateway sends requests to.", labels=("model",)
        )
        duration = HistogramMetricFamily(
            "ams_gateway_request_duration_seconds", "From the request's head to the answer's end.",
            labels=("model", "route"),
        )  # fmt: skip
        first_byte = HistogramMetricFamily(
            "ams_gateway_time_to_first_byte_seconds", "From the request's head to the first byte of a pod's answer.",
            labels=("model", "route"),
        )  # fmt: skip
        hold = HistogramMetricFamily(
            "ams_gateway_hold_seconds", "Time that requests waited for a model to get ready.", labels=("model",)
        )
        ready = {each.name: len(self._model_registry.backends(each)) for each in self._model_registry.models()}
        for name, model in self._models.items():
            for (route, code), count in model.requests.items():
                requests.add_metric((name, route, str(code)), count)
            for error, count in model.errors.items():
                errors.add_metric((name, error), count)
            for result, count in model.answers.items():
                answers.add_metric((name, result), count)
            for reason, count in model.retries.items():
                retries.add_metric((name, reason), count)
            failures.add_metric((name,), model.failures)
            for route, histogram in model.duration.items():
                duration.add_metric((name, route), histogram.buckets(), histogram.sum)
            for route, histogram in model.first_byte.items():
                first_byte.add_metric((name, route), histogram.buckets(), histogram.sum)
            if name == UNKNOWN:
                continue
            ejections.add_metric((name,), model.ejections)
            tokens.add_metric((name, "input"), model.tokens[0])
            tokens.add_metric((name, "output"), model.tokens[1])
            media.add_metric((name,), model.media)
            backends.add_metric((name,), ready.get(name, 0))
            in_flight.add_metric((name,), model.in_flight)
            held.add_metric((name,), model.held)
            hold.add_metric((name,), model.hold.buckets(), model.hold.sum)
        yield from (requests, errors, failures, retries, ejections, tokens, answers, media, backends, in_flight, held)
        yield from (duration, first_byte, hold)
        yield GaugeMetricFamily(
            "ams_gateway_hold_limit", "Requests of one model that may wait for it to get ready.", self._hold_limit
        )

        if self.certificate_expires is not None:
            yield GaugeMetricFamily(
                "ams_gateway_certificate_expiry_timestamp_seconds",
                "When the certificate that clients see ends, in Unix time; only with --tls-cert.",
                self.certificate_expires,
            )

        if issuers := self.issuers():
            ages = GaugeMetricFamily(
                "ams_gateway_token_keys_age_seconds",
                "Since the keys of an issuer of tokens were fetched; without a value they never could be.",
                labels=("issuer",),
            )
            for issuer, age in issuers.items():
                if age is not None:
                    ages.add_metric((issuer,), age)
            yield ages

    def _forget_models_that_are_gone(self) -> None:
        known = {UNKNOWN, *(model.name for model in self._model_registry.models())}
        for name, model in list(self._models.items()):
            if name not in known and not model.in_flight and not model.held:
                del self._models[name]
        for name in known:
            self.of(name)
