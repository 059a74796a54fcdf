"""The gateway put together, and what every request gets whatever its route."""

import asyncio
import functools
import logging
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web
from ams_common import keys
from ams_common.errors import ApiError
from ams_common.keys import OPEN
from ams_common.names import HEADER_REQUEST_ID
from ams_common.printable import printable
from ams_common.room import PaceLimits, Room
from ams_common.traceparent import HEADER_TRACE_PARENT, HEADER_TRACE_STATE
from ams_common.undelivered import USAGE_PATH, UndeliveredUsages
from ams_common.wire import ModelOverview
from ams_tracing.tracer import open_tracer

from ams_gateway import openapi
from ams_gateway.answers.cache import AnswerCache
from ams_gateway.answers.store import open_store
from ams_gateway.auth.audit import AuditLine, timestamp
from ams_gateway.auth.authentication import require
from ams_gateway.auth.door import Door, openness
from ams_gateway.demand import Demand
from ams_gateway.front.access import Access, preflight
from ams_gateway.front.body import BodyLimits, was_decompressed
from ams_gateway.front.call import WORTH_A_NOTE_SECONDS, Call, request_id
from ams_gateway.front.lateness import LoopLateness
from ams_gateway.front.log import Record, RequestLog
from ams_gateway.front.recent import RecentRequests
from ams_gateway.front.responses import SERVER, error_event, error_response
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.open import open_limiter
from ams_gateway.metrics import GatewayMetrics
from ams_gateway.overview.errors import RecentErrors
from ams_gateway.overview.loads import LoadWatch
from ams_gateway.overview.snapshot import Overviews
from ams_gateway.proxy.forward import Forwarder
from ams_gateway.proxy.hold import Holds
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.relay import Relay
from ams_gateway.proxy.upstream import Pools
from ams_gateway.redis_link import open_link
from ams_gateway.registry.port import Backend, Model, Registry
from ams_gateway.responses.memory import ResponseMemory
from ams_gateway.responses.store import open_store as open_response_store
from ams_gateway.routes.model_facts import PodFacts
from ams_gateway.routes.routing import NO_ROUTE, Router, Services
from ams_gateway.routes.table import client_routes, monitoring_routes
from ams_gateway.saturation import Saturation
from ams_gateway.settings import GatewaySettings, listed
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.open import open_ledger
from ams_gateway.usage.port import Entry, Outcome
from ams_gateway.usage.undelivered import UndeliveredCollector

logger = logging.getLogger("ams_gateway")

_BODY_IS_LOST = ("bad_request", "request_timeout")  # nobody knows where the next request starts
_PROBES = ("/health", "/ready", "/metrics", "/page/{file}")  # asked all the time: only failures are worth a line
_UNREMEMBERED = (*_PROBES, "/admin/why", "/openapi.json", "/overview")  # nobody asks what delayed these
_KEY_REFUSED = ("invalid_key", "admin_required", "scope_required", "model_not_allowed")  # worth a line of the audit log
_CUT = ("backend_failed", "timeout")  # errors of answers that ended before their usage was told
_FORGET_SECONDS = 60.0
_VERSIONS = (HttpVersion10, HttpVersion11)
_CLIENT_CLOSED = 499  # nginx's code for a client that left before its answer; only in logs and metrics


def outcome_of(record: Record) -> Outcome:
    """What the ledger counts an ended request as."""
    if record.answer_cache == "hit":
        return Outcome.CACHED
    if record.code == _CLIENT_CLOSED or record.error in _CUT:
        return Outcome.CUT
    return Outcome.ANSWERED if record.code < 400 and not record.error else Outcome.FAILED


class Gateway:
    """All parts of one gateway over the models of `registry`; `server.listen` listens for it.

    The lines of `request_log` go to stdout by default. `door` decides who gets in: without one, everybody.
    """

    def __init__(
        self,
        registry: Registry,
        settings: GatewaySettings,
        *,
        request_log: RequestLog | None = None,
        door: Door | None = None,
    ) -> None:
        """OptionError where traces can't be sent as `settings` say."""
        self.settings = settings
        self._tracer = open_tracer(settings.otlp_endpoint, settings.trace_sample_ratio, "ams-gateway")
        self._log = request_log or RequestLog(style=settings.log_format)
        self.body_room = Room(settings.body_memory_bytes, settings.spool_bytes)
        self._access = Access(settings.host, listed(settings.allowed_hosts), listed(settings.allowed_origins))
        self._door = door or Door()
        self._tidying: asyncio.Future[Any] | None = None
        routes = client_routes(with_metrics=not settings.metrics_port)
        self._router = Router(routes)
        self._monitoring_router = Router(monitoring_routes())
        self._pools = Pools(registry)
        self._metrics = GatewayMetrics(registry, hold_limit=settings.hold_limit)
        self._demand = Demand(registry, self._metrics)
        self._link = open_link(settings.redis_url, settings.redis_password)
        limit_metrics, usage_metrics = LimitMetrics(), UsageMetrics()
        self._lateness = LoopLateness()
        self.saturation = Saturation(self.body_room, self._lateness)
        self._ledger = open_ledger(settings, self._link, usage_metrics)
        self._undelivered = UndeliveredCollector(self._pods, self._ask_undelivered, self._ledger, self._door.names)
        self._limiter = open_limiter(self._link, self._ledger.month_tokens, limit_metrics)
        for collector in filter(None, (self._link, limit_metrics, usage_metrics, self.saturation)):
            self._metrics.include(collector)
        if self._door.tokens is not None:
            self._metrics.issuers = self._door.tokens.key_ages
        self._recent = RecentRequests()
        holds = Holds(registry, self._metrics, self._demand, seconds=settings.hold_seconds, limit=settings.hold_limit)
        relay = Relay(expose_pod=settings.expose_pod)
        pod_facts = PodFacts(registry, self._pools)
        self._recent_errors = RecentErrors()
        self._loads = LoadWatch(registry, self._pools, pod_facts.of)
        self._services = Services(
            registry=registry,
            settings=settings,
            limits=BodyLimits(
                settings.max_body_bytes,
                PaceLimits(
                    settings.body_timeout_seconds, settings.body_total_seconds, settings.body_min_bytes_per_second
                ),
                self.body_room,
                settings.spool_dir,
            ),
            forwarder=Forwarder(registry, self._pools, holds, relay, self._metrics),
            pools=self._pools,
            metrics=self._metrics,
            demand=self._demand,
            routes=routes,
            pod_facts=pod_facts,
            overviews=Overviews(registry, self._metrics, self._loads, self._recent_errors),
            authentication=self._door.authentication,
            limiter=self._limiter,
            ledger=self._ledger,
            answers=AnswerCache(open_store(self._link)),
            responses=ResponseMemory(
                open_response_store(
                    self._link, seconds=settings.stored_responses_seconds, most_bytes=settings.stored_responses_bytes
                ),
                seconds=settings.stored_responses_seconds,
                most_bytes=settings.stored_responses_bytes,
            ),
            recent=self._recent,
            openapi_document=functools.cache(lambda: msgspec.json.encode(openapi.document(routes))),
        )

    async def start(self) -> None:
        """Start what runs beside the requests; `close` ends it."""
        logger.log(logging.WARNING if self._door.authentication.is_open else logging.INFO, openness(self._door))
        self._door.start()
        if self._link is not None:
            await self._link.start()
        await self._ledger.start()
        await self._limiter.start()
        await self._undelivered.start()
        self._tidying = asyncio.gather(self._pools.keep_tidy(), self._forget_answers(), self._lateness.watch())

    def look(self) -> list[ModelOverview]:
        """All models as they are now, for who owns the registry: what an admin gets from `GET /overview`."""
        self._loads.touch()
        return [overview for _, overview in self._services.overviews.models()]

    def note_certificate(self, expires: float) -> None:
        """When the certificate that clients see ends, in Unix time."""
        self._metrics.certificate_expires = expires

    def drain(self) -> None:
        """Report on /ready that requests should go elsewhere; requests that still come are answered."""
        self._services.draining = True

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        await self._undelivered.close()
        await self._loads.close()
        self._pools.close()
        await self._limiter.close()
        await self._ledger.close()
        if self._link is not None:
            await self._link.close()
        await self._door.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
        self._log.flush()

    def _pods(self) -> Iterator[tuple[Model, Backend]]:
        registry = self._services.registry
        for model in registry.models():
            for backend in registry.backends(model):
                yield model, backend

    async def _ask_undelivered(self, backend: Backend) -> UndeliveredUsages | None:
        try:
            return await PodClient(self._pools.of(backend)).fetch_json("POST", USAGE_PATH, UndeliveredUsages)
        except PodUnavailable:
            return None

    async def _forget_answers(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_SECONDS)
            models = self._services.registry.models()
            self._services.answers.keep_only(models)
            self._services.responses.tidy()
            self._recent_errors.keep_only(model.name for model in models)

    async def handle_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to the metrics' own port; it is neither counted nor logged."""
        path = request.raw_path.partition("?")[0]
        call = Call(request, path, Record(id=request_id(None)), 0.0)
        try:
            self._access.admit(request.method, request.headers)
            return await self._monitoring_router.find(call).handler(self._services, call)
        except ApiError as error:
            return error_response(error, path, call.record.id)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens, and account for it."""
        path = request.raw_path.partition("?")[0]
        record = Record(id=request_id(request.headers.get(HEADER_REQUEST_ID)), method=request.method, path=path[:200])
        call = Call(request, path, record, time.perf_counter())
        self._recent.running[id(call)] = call
        if self._tracer is not None:
            headers = request.headers
            call.trace = self._tracer.begin(headers.get(HEADER_TRACE_PARENT), headers.get(HEADER_TRACE_STATE))
        try:
            try:
                response = await self._answer(call)
            except ApiError as error:
                response = await self._refuse(call, error)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception:
                logger.exception("request %s failed", record.id)
                response = await self._refuse(
                    call, ApiError("internal_error", "The gateway failed to answer; its log has the cause.")
                )
            record.code = response.status
        except (asyncio.CancelledError, ConnectionError):
            record.code = _CLIENT_CLOSED
            raise
        finally:
            record.seconds = time.perf_counter() - call.started
            self._account(call)
        if not response.prepared and not call.has_headers:
            response.headers[HEADER_REQUEST_ID] = record.id
            response.headers["Server"] = SERVER
            response.headers.update(call.headers)
        return response

    async def _answer(self, call: Call) -> web.StreamResponse:
        request = call.request
        if request.version not in _VERSIONS:
            raise ApiError("bad_request", "This is not a valid HTTP request: use HTTP/1.1.")
        call.headers = self._access.admit(request.method, request.headers)
        if (headers := preflight(request.method, request.headers, call.headers)) is not None:
            call.record.route = NO_ROUTE
            return web.Response(status=204, headers=headers)
        route = self._router.find(call)
        if (scope := route.scope.of_keys) is not None:
            call.doing = "auth"
            call.principal = principal = await self._door.authentication.identify(request.headers)
            if principal is not OPEN:
                call.record.key = principal.name
                require(principal, scope)
            if call.trace is not None or time.perf_counter() - call.started > WORTH_A_NOTE_SECONDS:
                call.note("auth", "body")
            call.doing = "body"
            if scope is keys.Scope.ADMIN:
                call.is_admin_action = route.is_admin_action
        return await route.handler(self._services, call)

    def refuse_bad_http(self, error: ApiError) -> web.Response:
        """The response to bytes that are not an HTTP request."""
        record = Record(id=request_id(None), route=NO_ROUTE, code=error.status, error=error.code)
        self._count(record)
        response = error_response(error, "", record.id)
        response.headers[HEADER_REQUEST_ID] = record.id
        response.headers["Server"] = SERVER
        return response

    async def _refuse(self, call: Call, error: ApiError) -> web.StreamResponse:
        self._note_error(call, error.code, error.message, str(error.details.get("reason", "")))
        call.record.error, call.failure = error.code, error
        # The frames of these have `call`, which has the error: a cycle, and kilobytes, for each request that fails.
        error.__traceback__ = error.__context__ = error.__cause__ = None
        if call.stream is None:
            response = error_response(error, call.path, call.record.id)
            if error.code in _BODY_IS_LOST:
                response.force_close()
            elif was_decompressed(call.request) and not call.request.content.is_eof():
                # Reading the rest, so that the client reads the answer, would mean to unpack all of a bomb.
                call.request.content.feed_eof()
                response.force_close()
            return response
        await call.stream.write(error_event(error, call.path, call.record.id))
        return call.stream

    def _note_error(self, call: Call, code: str, message: str = "", reason: str = "") -> None:
        """For who looks at the model. What its own name wasn't found for yet is nobody's."""
        if model := call.record.model:
            self._recent_errors.add(model, code, message, reason, time.time())

    def _account(self, call: Call) -> None:
        record = call.record
        self._count(record)
        if call.pod_error:
            self._note_error(call, call.pod_error)
        self._recent.running.pop(id(call), None)
        if record.route not in _UNREMEMBERED:
            late = self._lateness
            ended = self._recent.end(call, late.since(call.started) if late.found_at > call.started else 0.0)
            if self._tracer is not None and call.trace is not None and call.trace.sampled:
                self._tracer.end(ended.timeline(), call.trace)
        if call.admitted:
            self._note_usage(call)
        if call.is_admin_action or record.error in _KEY_REFUSED:
            self._audit(call)

    def _note_usage(self, call: Call) -> None:
        record, principal = call.record, call.principal
        outcome = outcome_of(record)
        if outcome is Outcome.CUT and record.pod:
            self._undelivered.was_cut(record.pod)
        usage = record.usage()
        self._ledger.add(
            Entry(key_id=principal.id, key_name=principal.name, model=record.model, outcome=outcome, usage=usage)
        )

    def _audit(self, call: Call) -> None:
        record, request = call.record, call.request
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        self._door.audit.add(
            AuditLine(
                audit="admin" if call.is_admin_action else "refused",
                time=timestamp(time.time()),
                request_id=record.id,
                method=record.method[:20],
                route=record.route,
                code=record.code,
                key=record.key,
                key_id=call.principal.id if record.key else "",
                model=record.model,
                error=record.error,
                client=printable(str(peer[0]), 100) if isinstance(peer, tuple) else "",
                forwarded_for=printable(request.headers.get("X-Forwarded-For", ""), 200),
            )
        )

    def _count(self, record: Record) -> None:
        self._metrics.count(record)
        if record.model:
            self._demand.touch(record.model)
        if record.route not in _PROBES or record.code != 200 or self.settings.debug:
            self._log.add(record)
