"""The gateway put together: what answers each route, and what every request gets whatever its route."""

import asyncio
import logging

from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_REQUEST_ID

from ams_gateway.identity import request_id
from ams_gateway.log import Record, RequestLog
from ams_gateway.registry import Registry
from ams_gateway.responses import error_response
from ams_gateway.routes.health import Health
from ams_gateway.routes.models import Models
from ams_gateway.routing import Routes
from ams_gateway.settings import GatewaySettings

logger = logging.getLogger("ams_gateway")

_CLIENT_CLOSED = 499  # nginx's code for a client that left before its answer; only in logs and metrics


class Gateway:
    """All parts of one gateway. `server.serve` listens for it; tests may call `handle` themselves."""

    def __init__(self, registry: Registry, settings: GatewaySettings, request_log: RequestLog) -> None:
        self.registry = registry
        self.settings = settings
        self.draining = False
        self._log = request_log
        health = Health(registry, lambda: sorted(self.routes.table), lambda: self.draining)
        models = Models(registry)
        self.routes = Routes(
            {
                "/v1/models": {"GET": models.list},
                "/v1/models/{id}": {"GET": models.get},
                "/health": {"GET": health.health},
                "/ready": {"GET": health.ready},
            }
        )

    async def start(self) -> None:
        """Start what runs beside the requests; `close` ends it."""
        logger.warning("No API keys are configured: every client may use every model.")

    async def close(self) -> None:
        self._log.flush()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever happens, and account for it."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        path = request.raw_path.partition("?")[0]
        record = Record(id=request_id(request.headers.get(HEADER_REQUEST_ID)), method=request.method, path=path[:200])
        try:
            handler, name = self.routes.find(request.method, path, record)
            response = await handler(request, record, name)
            record.code = response.status
        except ApiError as error:
            record.error, record.code = error.code, error.status
            response = error_response(error, path, record.id)
        except (asyncio.CancelledError, ConnectionError):
            record.code = _CLIENT_CLOSED
            raise
        except Exception:
            logger.exception("request %s failed", record.id)
            failure = ApiError("internal_error", "The gateway failed to answer; its log tells why.")
            record.error, record.code = failure.code, failure.status
            response = error_response(failure, path, record.id)
        finally:
            record.seconds = loop.time() - started
            self._log.add(record)
        if not response.prepared:
            response.headers[HEADER_REQUEST_ID] = record.id
        return response


def make_app(registry: Registry, settings: GatewaySettings, *, request_log: RequestLog | None = None) -> Gateway:
    """A gateway over the models of `registry`. `request_log` says where its lines go; stdout by default."""
    return Gateway(registry, settings, request_log or RequestLog(style=settings.log_format))
