"""What a route is, and which route a path and method go to: exact paths first, then the few with a name in them."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias
from urllib.parse import unquote

from aiohttp import web
from ams_common import keys
from ams_common.dialects import Dialect, dialect_of
from ams_common.errors import ApiError

from ams_gateway.answers.cache import AnswerCache
from ams_gateway.auth.authentication import Authentication
from ams_gateway.demand import Demand
from ams_gateway.front.body import BodyLimits
from ams_gateway.front.call import Call
from ams_gateway.front.recent import RecentRequests
from ams_gateway.limits.port import Limiter
from ams_gateway.metrics import GatewayMetrics
from ams_gateway.overview.snapshot import Overviews
from ams_gateway.proxy.forward import Forwarder
from ams_gateway.proxy.upstream import Pools
from ams_gateway.registry.port import Registry
from ams_gateway.responses.memory import ResponseMemory
from ams_gateway.routes.model_facts import PodFacts
from ams_gateway.settings import GatewaySettings
from ams_gateway.usage.collecting import ReadableLedger

NO_ROUTE = "-"
_SLASHES = re.compile(r"/{2,}")


@dataclass(slots=True)
class Services:
    """What handlers work with, once for a gateway. `routes` are those of the port that clients use."""

    registry: Registry
    settings: GatewaySettings
    limits: BodyLimits
    forwarder: Forwarder
    pools: Pools
    metrics: GatewayMetrics
    demand: Demand
    routes: Sequence["Route"]
    openapi_document: Callable[[], bytes]
    pod_facts: PodFacts
    overviews: Overviews
    authentication: Authentication
    limiter: Limiter
    ledger: ReadableLedger
    answers: AnswerCache
    responses: ResponseMemory
    recent: RecentRequests
    draining: bool = False


Handler: TypeAlias = Callable[[Services, Call], Awaitable[web.StreamResponse]]


class Scope(StrEnum):
    """Whom a route is for."""

    PUBLIC = "public"  # whoever reaches the port, with a key or without
    GENERATE = "generate"
    ADMIN = "admin"
    MONITORING = "monitoring"  # on the port of the metrics, if there is one, where it needs no key
    INTERNAL = "internal"  # only on the port of the metrics, which no ingress leads to

    @property
    def of_keys(self) -> keys.Scope | None:
        """The scope that a key needs on the port that clients use; None where none is needed."""
        return _SCOPES_OF_KEYS.get(self)


_SCOPES_OF_KEYS = {
    Scope.GENERATE: keys.Scope.GENERATE,
    Scope.ADMIN: keys.Scope.ADMIN,
    Scope.MONITORING: keys.Scope.METRICS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A multipart form: texts that are `fields`, and a description for each of its files."""

    fields: type
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation. Routing, the OpenAPI document and the check of docs/http.md come from it.

    `response` is the type of a JSON response, `media_types` are the others, `events` the types of a stream's events.
    `errors` are the codes of errors besides those that any request may get. `other_statuses` are responses of the same
    type that are not errors.
    """

    method: str
    path: str
    handler: Handler
    operation_id: str
    summary: str
    scope: Scope
    description: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    request: type | Form | None = None
    response: Any = None
    media_types: tuple[str, ...] = ()
    events: tuple[type, ...] = ()
    errors: tuple[str, ...] = ()
    other_statuses: Mapping[int, str] = field(default_factory=dict)

    @property
    def is_admin_action(self) -> bool:
        """Whether it changes something that is an admin's."""
        return self.scope is Scope.ADMIN and self.method not in ("GET", "HEAD")


class Router:
    """Finds the route of a call among those of one port."""

    def __init__(self, routes: Iterable[Route]) -> None:
        methods_of: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = methods_of.setdefault(route.path, {})
            methods[route.method] = route
            if route.method == "GET":
                methods["HEAD"] = route
        self._paths = sorted(methods_of)
        self._exact = {path: (path, methods) for path, methods in methods_of.items() if "{" not in path}
        self._named = [
            (path[: path.index("{")], path[path.index("}") + 1 :], path, methods)
            for path, methods in methods_of.items()
            if "{" in path
        ]

    def find(self, call: Call) -> Route:
        """The route of this call; sets its name and its record's route.

        Raises ApiError `not_found` or `method_not_allowed`.
        """
        if (match := self._match(call.path)) is None:
            call.record.route = NO_ROUTE
            path = call.path[:200]
            raise ApiError("not_found", f"No such route: {path}.{self._hint(path)}", routes=self._paths, given=path)
        call.record.route, methods, call.name = match
        if (route := methods.get(call.request.method)) is None:
            allowed = ", ".join(methods)
            raise ApiError(
                "method_not_allowed",
                f"{call.record.route} takes {allowed}, not {call.request.method[:20]}.",
                headers={"Allow": allowed},
                allowed=sorted(methods),
            )
        return route

    def _hint(self, path: str) -> str:
        """What whoever called a path of OpenAI's API elsewhere should have called; empty for all others."""
        if (dialect := dialect_of(path)) is Dialect.NATIVE:
            return ""
        tidy = _SLASHES.sub("/", path).rstrip("/")
        paths = [known for known in self._paths if known.startswith("/v1/") and not known.endswith("}")]
        meant = next((known for known in paths if tidy.endswith(known.removeprefix("/v1"))), None)
        if meant is None:
            return f" Routes of OpenAI's API: {', '.join(paths)}."
        if dialect is Dialect.ANTHROPIC:
            return f" Call {meant}: Anthropic's clients take a base URL without /v1, as in http://HOST."
        return f" Call {meant}: the client's base URL must end with /v1, as in http://HOST/v1."

    def _match(self, path: str) -> tuple[str, dict[str, Route], str] | None:
        if (exact := self._exact.get(path)) is not None:
            return *exact, ""
        for prefix, suffix, template, methods in self._named:
            named = path.startswith(prefix) and path.endswith(suffix)
            if named and (name := unquote(path[len(prefix) : len(path) - len(suffix)])):  # aliases may have slashes
                return template, methods, name
        return None
