"""One request on its way through the gateway."""

from dataclasses import dataclass

from aiohttp import web

from ams_gateway.front.log import Record


@dataclass(slots=True)
class Call:
    """A client's request and what is known of it. `started` is `time.perf_counter()`: uvloop's clock
    only counts whole milliseconds.

    `path` has no query, `name` is what the path ends with in routes like `/generate/{model}`. `stream` is the answer
    once its head was sent with status 200: from then on errors travel inside it.
    """

    request: web.BaseRequest
    path: str
    record: Record
    started: float
    name: str = ""
    stream: web.StreamResponse | None = None
