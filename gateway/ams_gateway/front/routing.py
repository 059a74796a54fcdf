"""Which handler a path and method go to: exact paths first, then the few that end in a name."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import unquote

from aiohttp import web
from ams_common.errors import ApiError

from ams_gateway.front.call import Call

Handler: TypeAlias = Callable[[Call], Awaitable[web.StreamResponse]]

NO_ROUTE = "-"


class Routes:
    """All routes: templates like `/generate/{model}` to handlers by method."""

    def __init__(self, table: Mapping[str, Mapping[str, Handler]]) -> None:
        self.table = table
        self._exact: dict[str, tuple[str, dict[str, Handler]]] = {}
        self._named: list[tuple[str, str, dict[str, Handler]]] = []
        for template, given in table.items():
            methods = dict(given)
            if "GET" in methods:
                methods["HEAD"] = methods["GET"]
            if template.endswith("}"):
                self._named.append((template[: template.index("{")], template, methods))
            else:
                self._exact[template] = (template, methods)

    def find(self, call: Call) -> Handler:
        """The handler for this call; sets its name and its record's route.

        Raises ApiError `not_found` or `method_not_allowed`.
        """
        if (found := self._match(call.path)) is None:
            call.record.route = NO_ROUTE
            path = call.path[:200]
            raise ApiError("not_found", f"There is nothing at {path}.", routes=sorted(self.table), given=path)
        call.record.route, methods, call.name = found
        if (handler := methods.get(call.request.method)) is None:
            allowed = ", ".join(methods)
            raise ApiError(
                "method_not_allowed",
                f"{call.record.route} takes {allowed}, not {call.request.method[:20]}.",
                headers={"Allow": allowed},
                allowed=sorted(methods),
            )
        return handler

    def _match(self, path: str) -> tuple[str, dict[str, Handler], str] | None:
        if (exact := self._exact.get(path)) is not None:
            return *exact, ""
        for prefix, template, methods in self._named:
            if path.startswith(prefix) and (name := unquote(path[len(prefix) :])) and "/" not in name:
                return template, methods, name
        return None
