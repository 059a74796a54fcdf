"""Which handler a path and method go to: exact paths first, then the few that end in a name."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import unquote

from aiohttp import web
from ams_common.errors import ApiError

from ams_gateway.log import Record

Handler: TypeAlias = Callable[[web.BaseRequest, Record, str], Awaitable[web.StreamResponse]]
"""Answers a request; the last argument is the name at the end of the path, empty for exact paths."""

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

    def find(self, method: str, path: str, record: Record) -> tuple[Handler, str]:
        """The handler for `path` (as sent, without its query) and the name in it. Sets the record's route.

        Raises ApiError `not_found` or `method_not_allowed`.
        """
        if (found := self._match(path)) is None:
            record.route = NO_ROUTE
            raise ApiError(
                "not_found", f"There is nothing at {path[:200]}.", routes=sorted(self.table), given=path[:200]
            )
        record.route, methods, name = found
        if (handler := methods.get(method)) is None:
            allowed = ", ".join(methods)
            raise ApiError(
                "method_not_allowed",
                f"{record.route} takes {allowed}, not {method[:20]}.",
                headers={"Allow": allowed},
                allowed=sorted(methods),
            )
        return handler, name

    def _match(self, path: str) -> tuple[str, dict[str, Handler], str] | None:
        if (exact := self._exact.get(path)) is not None:
            return *exact, ""
        for prefix, template, methods in self._named:
            if path.startswith(prefix) and (name := unquote(path[len(prefix) :])) and "/" not in name:
                return template, methods, name
        return None
