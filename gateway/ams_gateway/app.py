"""The gateway put together: what answers each route, and what every request gets whatever its route."""

import asyncio
import logging
import time

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_REQUEST_ID

from ams_gateway import openapi
from ams_gateway.demand import Demand
from ams_gateway.front.call import Call
from ams_gateway.front.errors import error_event
from ams_gateway.front.identity import request_id
from ams_gateway.front.log import Record, RequestLog
from ams_gateway.front.responses import SERVER, error_response, json_response
from ams_gateway.front.routing import NO_ROUTE, Handler, Routes
from ams_gateway.metrics import Metrics
from ams_gateway.proxy.forward import Forwarder
from ams_gateway.proxy.hold import Holds
from ams_gateway.proxy.pools import Pools
from ams_gateway.proxy.relay import Relay
from ams_gateway.registry.port import Registry
from ams_gateway.routes.admin import Admin
from ams_gateway.routes.demand import DemandRoute
from ams_gateway.routes.generate import Generate
from ams_gateway.routes.health import Health
from ams_gateway.routes.index import Index
from ams_gateway.routes.metrics import MetricsRoute
from ams_gateway.routes.models import Models
from ams_gateway.routes.openai import OpenAI, Transcriptions
from ams_gateway.settings import GatewaySettings

logger = logging.getLogger("ams_gateway")

_BODY_IS_LOST = ("bad_request", "request_timeout")  # where the next request starts can't be told any more
_PROBES = ("/health", "/ready", "/metrics")  # asked all the time: only their failures are worth a line
_CLIENT_CLOSED = 499  # nginx's code for a client that left before its answer; only in logs and metrics


class Gateway:
    """All parts of one gateway; `server.serve` listens for it."""

    def __init__(self, registry: Registry, settings: GatewaySettings, request_log: RequestLog) -> None:
        self.registry = registry
        self.settings = settings
        self.draining = False
        self._openapi_document: bytes | None = None
        self._log = request_log
        self._pools = Pools(registry)
        self._tidying: asyncio.Task[None] | None = None
        holds = Holds(registry, settings.hold_seconds, settings.hold_limit, lambda model: self.demand.hold_began(model))
        self.metrics = Metrics(lambda: holds.held, lambda: (model.name for model in registry.models()))
        self.demand = Demand(registry.models, lambda: holds.held, lambda model: self.metrics.of(model).in_flight)
        forwarder = Forwarder(registry, self._pools, holds, Relay(expose_pod=settings.expose_pod), self.metrics)
        completions = OpenAI(registry, forwarder, settings)
        models = Models(registry)
        health = Health(registry, lambda: sorted(self.routes.table), lambda: self.draining)
        admin = Admin(registry, self._pools)
        table: dict[str, dict[str, Handler]] = {
            "/generate/{model}": {"POST": Generate(registry, forwarder, settings).post},
            "/v1/chat/completions": {"POST": completions.post},
            "/v1/completions": {"POST": completions.post},
            "/v1/audio/transcriptions": {"POST": Transcriptions(registry, forwarder, settings).post},
            "/v1/models": {"GET": models.list},
            "/v1/models/{id}": {"GET": models.get},
            "/health": {"GET": health.health},
            "/ready": {"GET": health.ready},
            "/admin/memory_status": {"GET": admin.memory_status},
            "/admin/model_status": {"GET": admin.model_status},
            "/admin/temp_status": {"GET": admin.temp_status},
            "/admin/emergency_cleanup": {"POST": admin.emergency_cleanup},
            "/admin/cleanup_temp": {"POST": admin.cleanup_temp},
            "/openapi.json": {"GET": self._openapi},
            "/": {"GET": Index(registry).get},
        }
        metrics: dict[str, dict[str, Handler]] = {"/metrics": {"GET": MetricsRoute(self.metrics).get}}
        self.routes = Routes(table if settings.metrics_port else table | metrics)
        demand: dict[str, dict[str, Handler]] = {"/internal/demand": {"GET": DemandRoute(self.demand).get}}
        self.metrics_routes = Routes(metrics | demand)  # of their own port, which no ingress leads to

    async def start(self) -> None:
        """Start what runs beside the requests; `close` ends it."""
        logger.warning("No API keys are configured: every client may use every model.")
        self._tidying = asyncio.create_task(self._pools.keep_tidy())

    async def close(self) -> None:
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        self._pools.close()
        self._log.flush()

    async def handle_metrics(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request to the metrics' own port, which is neither counted nor logged."""
        path = request.raw_path.partition("?")[0]
        call = Call(request, path, Record(id=request_id(None)), 0.0)
        try:
            return await self.metrics_routes.find(call)(call)
        except ApiError as error:
            return error_response(error, path, call.record.id)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens, and account for it."""
        path = request.raw_path.partition("?")[0]
        record = Record(id=request_id(request.headers.get(HEADER_REQUEST_ID)), method=request.method, path=path[:200])
        call = Call(request, path, record, time.perf_counter())
        try:
            try:
                response = await self.routes.find(call)(call)
            except ApiError as error:
                response = await self._refuse(call, error)
            except (asyncio.CancelledError, ConnectionError):
                raise
            except Exception:
                logger.exception("request %s failed", record.id)
                response = await self._refuse(
                    call, ApiError("internal_error", "The gateway failed to answer; its log tells why.")
                )
            record.code = response.status
        except (asyncio.CancelledError, ConnectionError):
            record.code = _CLIENT_CLOSED
            raise
        finally:
            record.seconds = time.perf_counter() - call.started
            self._account(record)
        if not response.prepared:
            response.headers[HEADER_REQUEST_ID] = record.id
            response.headers["Server"] = SERVER
        return response

    def refuse_bad_http(self, error: ApiError) -> web.Response:
        """The answer to what is no HTTP request at all."""
        record = Record(id=request_id(None), route=NO_ROUTE, code=error.status, error=error.code)
        self._account(record)
        response = error_response(error, "", record.id)
        response.headers[HEADER_REQUEST_ID] = record.id
        response.headers["Server"] = SERVER
        return response

    async def _refuse(self, call: Call, error: ApiError) -> web.StreamResponse:
        call.record.error = error.code
        if call.stream is None:
            response = error_response(error, call.path, call.record.id)
            if error.code in _BODY_IS_LOST:
                response.force_close()
            return response
        await call.stream.write(error_event(error, call.path, call.record.id))
        return call.stream

    async def _openapi(self, call: Call) -> web.Response:
        if self._openapi_document is None:
            self._openapi_document = msgspec.json.encode(openapi.document())
        return json_response(call.request, self._openapi_document)

    def _account(self, record: Record) -> None:
        self.metrics.count(record)
        if record.model:
            self.demand.touch(record.model)
        if record.route not in _PROBES or record.code != 200 or self.settings.debug:
            self._log.add(record)


def make_app(registry: Registry, settings: GatewaySettings, *, request_log: RequestLog | None = None) -> Gateway:
    """A gateway over the models of `registry`. `request_log` says where its lines go; stdout by default."""
    return Gateway(registry, settings, request_log or RequestLog(style=settings.log_format))
