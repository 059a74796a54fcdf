"""The way of a request to a pod: wait until there is one, choose it, send, and send again where that is safe."""

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Sequence

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.outside import InvalidJson, read_json
from ams_common.timeline import Facts

from ams_gateway.front.body import Body, was_decompressed
from ams_gateway.front.call import Call
from ams_gateway.metrics import GatewayMetrics
from ams_gateway.proxy.affinity import Affinity
from ams_gateway.proxy.deadline import Deadline
from ams_gateway.proxy.decisions import (
    Busy,
    Draining,
    NotLoaded,
    ResponseCut,
    StaleConnection,
    Unreachable,
    UpstreamError,
    busy_pause_seconds,
    choose_backend,
    ejection_seconds,
    may_send_again,
    pause_seconds,
)
from ams_gateway.proxy.headers import named_by_connection, request_head
from ams_gateway.proxy.hold import Holds
from ams_gateway.proxy.relay import Relay
from ams_gateway.proxy.upstream import PodResponse, Pools
from ams_gateway.registry.port import Backend, Model, Registry

logger = logging.getLogger("ams_gateway")

_POD_ANSWERS_TIMEOUTS_SECONDS = 5.0  # the pod's own 504 has more details than ours: it gets this much longer
_DRAINING_EJECTION_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 2.0
_LACKS_SECONDS = 5.0  # for which a pod that hasn't an adapter is asked for it last
_PODS_IN_A_FACT = 8
_LONGEST_REFUSAL_BYTES = 64 << 10
_REFUSALS = (429, 503)  # of a pod that did nothing with the request


class Forwarder:
    def __init__(self, registry: Registry, pools: Pools, holds: Holds, relay: Relay, metrics: GatewayMetrics) -> None:
        self._registry = registry
        self._pools = pools
        self._holds = holds
        self._relay = relay
        self._metrics = metrics

    async def forward(
        self,
        call: Call,
        model: Model,
        target: str,
        body: Body,
        wants_stream: Callable[[], bool],
        affinity: Affinity = lambda: None,
    ) -> web.StreamResponse:
        """Send `body` to `target` of a pod of `model` and pass its answer on. Raises ApiError.

        `wants_stream` is asked only when the model isn't ready, `affinity` only when there are several pods.
        """
        tried: list[str] = []  # since the model was last waited for
        ends, ended = 0, set[str]()  # a pod on its way down may break several connections, and ends once
        busy = 0
        fresh = not body.replayable  # a kept connection may turn out closed, and this body can be sent only once
        while True:
            now = asyncio.get_running_loop().time()
            backends = self._registry.backends(model)
            without = [each.id for each in backends if each.lacks(call.adapter, now)]
            backend = choose_backend(backends, [*tried, *without], now, random.random(), affinity)
            if len(backends) > 1 or call.trace is not None:
                call.note("choose", "choose", _choice(backends, backend, tried, now))
            if backend is None:
                await self._holds.until_ready(call, model, wants_stream)
                tried, ended = [], set()
                continue
            sends = len(tried) + 1
            refusals = set[str]()
            if may_send_again(Draining, sends, ends, replayable=body.replayable):
                refusals.add("draining")
            if body.replayable and self._holds.may_wait_for_a_place(call, model):
                refusals.add("queue_full")
            others = {each.id for each in backends} - {backend.id, *tried}
            if others and may_send_again(NotLoaded, sends, ends, replayable=body.replayable):
                refusals.add("model_loading")
            try:
                return await self._send(call, model, backend, target, body, fresh, refusals)
            except Busy:
                busy += 1
                self._metrics.of(model.name).retries[Busy.reason] += 1
                await self._holds.wait_for_a_place(call, busy_pause_seconds(busy))
                call.note("place", "choose")
                continue
            except UpstreamError as error:
                self._note_failure(model, backend, error)
                call.note("attempt", "choose", _failed_attempt(backend, error, now))
                if error.ended and backend.id not in ended:
                    ends += 1
                    ended.add(backend.id)
                if not may_send_again(type(error), sends, ends, replayable=body.replayable):
                    raise _client_error(model, error) from error
                failure = error
            self._metrics.of(model.name).retries[failure.reason] += 1
            call.record.retries += 1
            if isinstance(failure, StaleConnection):
                fresh = True
            elif backend.id in tried or len(self._registry.backends(model)) <= 1:
                await asyncio.sleep(pause_seconds(sends))
                call.note("pause", "choose")
            tried.append(backend.id)

    async def _send(
        self,
        call: Call,
        model: Model,
        backend: Backend,
        target: str,
        body: Body,
        fresh: bool,
        refusals: Collection[str],
    ) -> web.StreamResponse:
        """Send once. A pod's refusal with one of the codes `refusals` is raised, any other answer passed on."""
        loop = asyncio.get_running_loop()
        pool = self._pools.of(backend)
        head = _head(call, pool.host, target, body)
        numbers = self._metrics.of(model.name)
        call.record.pod, call.doing = backend.id, "send"
        answer: PodResponse | None = None
        backend.in_flight += 1
        numbers.in_flight += 1
        backend.last_used = loop.time()
        try:
            with Deadline(model.request_timeout_seconds + _POD_ANSWERS_TIMEOUTS_SECONDS):
                answer = await pool.send(head, body, fresh=fresh)
                if answer.message.code in _REFUSALS:
                    refusal = await _refusal_of(answer)
                    if refusal == "model_loading" and call.adapter:
                        _note_lack(backend, call.adapter, loop.time())
                    if refusal in refusals:
                        raise _refused(refusal)
                response = await self._relay.relay(call, model, backend, answer)
            backend.failures = 0
            return response
        except TimeoutError:
            seconds = model.request_timeout_seconds
            raise ApiError(
                "timeout", f"{model.name} did not finish its answer within {seconds:g} seconds.", limit=seconds
            ) from None
        finally:
            if answer is not None:
                answer.close()
            backend.in_flight -= 1
            numbers.in_flight -= 1
            backend.last_used = loop.time()

    def _note_failure(self, model: Model, backend: Backend, error: UpstreamError) -> None:
        if isinstance(error, NotLoaded):  # it is as it should be
            return
        logger.warning("%s: pod %s: %s (%s)", model.name, backend.id, error, error.reason)
        now = asyncio.get_running_loop().time()
        if isinstance(error, Unreachable):
            self._registry.unreachable(model, backend)
        if isinstance(error, Draining):
            backend.ejected_until = max(backend.ejected_until, now + _DRAINING_EJECTION_SECONDS)
        elif not isinstance(error, StaleConnection) and backend.ejected_until <= now:
            # What fails while the pod is left out was sent before: one crash must not count for each of its requests.
            backend.failures += 1
            if seconds := ejection_seconds(backend.failures):
                backend.ejected_until = now + seconds
                self._metrics.of(model.name).ejections += 1


def _note_lack(backend: Backend, adapter: str, now: float) -> None:
    kept = {name: until for name, until in backend.lacks_until.items() if until > now}
    backend.lacks_until = {**kept, adapter: now + _LACKS_SECONDS}


def _choice(backends: Sequence[Backend], chosen: Backend | None, tried: Sequence[str], now: float) -> Facts:
    """Which pods there were, and why some were left out."""
    left_out = [
        f"{each.id} ({each.failures} failures, {each.ejected_until - now:.1f} s)"
        for each in backends
        if each.ejected_until > now
    ]
    facts: Facts = {"pods": len(backends)}
    if chosen is not None:
        facts |= {"pod": chosen.id, "in_flight": chosen.in_flight}
    if left_out:
        facts["left_out"] = ", ".join(left_out[:_PODS_IN_A_FACT])
    if tried:
        facts["tried"] = ", ".join(tried[-_PODS_IN_A_FACT:])
    return facts


def _failed_attempt(backend: Backend, error: UpstreamError, now: float) -> Facts:
    facts: Facts = {"pod": backend.id, "reason": error.reason, "message": str(error)}
    if backend.ejected_until > now:
        facts["left_out_seconds"] = backend.ejected_until - now
    return facts


def _refused(code: str | None) -> UpstreamError:
    """Of a pod that did nothing with the request, by the code of its refusal."""
    match code:
        case "draining":
            return Draining("the pod is stopping")
        case "model_loading":
            return NotLoaded("the pod hasn't loaded what is asked for")
    return Busy("the pod's queue is full")


def _head(call: Call, host: str, target: str, body: Body) -> bytes:
    request = call.request
    dropped = named_by_connection(request.headers.get("Connection"))
    if was_decompressed(request):
        dropped.add(b"content-encoding")
    return request_head(
        "POST",
        target,
        host,
        request.raw_headers,
        request_id=call.record.id,
        content_length=body.length,
        dropped=dropped,
        principal=call.principal,
        trace=call.trace,
        adapter=call.adapter,
    )


def _client_error(model: Model, failure: UpstreamError) -> ApiError:
    """What the client learns of a pod's failure; addresses and the like stay in the log."""
    if failure.unsent:
        return ApiError(
            "no_backend", f"No pod of {model.name} can be reached.", retry_after=_RETRY_AFTER_SECONDS, model=model.name
        )
    when = "in the middle of its answer" if isinstance(failure, ResponseCut) else "before it answered"
    return ApiError("backend_failed", f"The process of {model.name} ended {when}.", model=model.name)


async def _refusal_of(answer: PodResponse) -> str | None:
    """The code of an error that a pod answers."""
    try:
        refusal = await answer.peek(_LONGEST_REFUSAL_BYTES)
        if refusal is None:
            return None
        body = read_json(refusal, _RefusalBody)
    except (InvalidJson, ResponseCut):
        return None
    if isinstance(body.error, _RefusalCode):
        return body.error.code
    return body.details.code if body.details is not None else None


class _RefusalCode(msgspec.Struct):
    code: str | None = None


class _RefusalBody(msgspec.Struct):
    """Both shapes of an error's body, as far as its code."""

    error: str | _RefusalCode | None = None
    details: _RefusalCode | None = None
