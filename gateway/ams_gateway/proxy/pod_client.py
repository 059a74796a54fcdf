"""What the gateway itself asks pods: small JSON documents, bounded in size and time."""

import asyncio
import os
from typing import Literal, TypeVar

from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress

from ams_gateway.front.body import WholeBody
from ams_gateway.proxy.decisions import StaleConnection, UpstreamError
from ams_gateway.proxy.headers import request_head
from ams_gateway.proxy.upstream import PodResponse, Pool

_TIMEOUT_SECONDS = 2.0
_MOST_BYTES = 4 << 20
_READY = Progress(Phase.READY)
_UNKNOWN = Progress(Phase.PENDING)

T = TypeVar("T")
Method = Literal["GET", "POST"]


class PodUnavailable(Exception):
    """A pod gave no usable response; the message says why."""


class PodClient:
    """Asks one pod over the pool that its requests use too. All methods raise PodUnavailable."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def fetch_json(self, method: Method, path: str, type_: type[T]) -> T:
        """The JSON document that a request without a body is answered with."""
        status, body = await self._exchange(method, path)
        if status != 200:
            raise PodUnavailable(f"{path} answered {status}")
        try:
            return read_json(body, type_)
        except InvalidJson as error:
            raise PodUnavailable(f"the answer of {path} {error}") from None

    async def progress(self) -> Progress:
        """How far the pod is; phase `ready` when it takes requests."""
        status, body = await self._exchange("GET", "/ready")
        if status == 200:
            return _READY
        try:
            progress = read_json(body, Progress)
        except InvalidJson as error:
            raise PodUnavailable(f"/ready answered {status}, and its progress {error}") from None
        return progress if progress.phase != Phase.READY else _UNKNOWN

    async def _exchange(self, method: Method, path: str) -> tuple[int, bytes]:
        """(status, body). A kept connection that turns out closed is replaced by a new one."""
        request_id = os.urandom(12).hex()
        head = request_head(method, path, self._pool.host, (), request_id=request_id, content_length=0)
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                try:
                    return await self._send(head)
                except StaleConnection:
                    return await self._send(head, fresh=True)
        except TimeoutError:
            raise PodUnavailable(f"{path} had no answer within {_TIMEOUT_SECONDS:g} seconds") from None
        except ApiError as error:
            raise PodUnavailable(f"{path} could not be sent: {error}") from error
        except UpstreamError as error:
            raise PodUnavailable(f"{path} failed ({error.reason}): {error}") from error

    async def _send(self, head: bytes, *, fresh: bool = False) -> tuple[int, bytes]:
        answer: PodResponse = await self._pool.send(head, WholeBody(b""), fresh=fresh)
        try:
            body = bytearray()
            while chunk := await answer.read_chunk():
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise PodUnavailable(f"the response is larger than {_MOST_BYTES:,} bytes")
            return answer.message.code, bytes(body)
        finally:
            answer.close()
