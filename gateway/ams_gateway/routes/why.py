"""`GET /admin/why`: what delayed a request or made it fail, or why a model isn't ready or is slow."""

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote

import msgspec
from aiohttp import web
from ams_common.adapters import split_id
from ams_common.errors import ApiError
from ams_common.printable import printable
from ams_common.reasons import Reason
from ams_common.timeline import TIMELINES_PATH, Facts, Timeline, interval
from ams_common.why.causes import ROWS, CauseCode
from ams_common.why.model import explain_model
from ams_common.why.request import RequestRecord, explain_request
from ams_common.why.story import Cause, ModelAccount, PodAccount, PodTimelines, Why
from ams_common.why.wording import duration

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.registry.port import Backend, Model, require_model
from ams_gateway.routes.routing import Services

_LONGEST = 300
_MOST_PODS = 64
_MOST_MODELS = 200
_NO_TROUBLE = (CauseCode.NOTHING, Reason.SCALED_TO_ZERO, Reason.STOPPED, Reason.SUSPENDED)
_MOST_RECENT = 20
_FORGOTTEN = "its pod's record is gone: the pod was replaced, or keeps newer ones only"


async def get_why(services: Services, call: Call) -> web.Response:
    """`?request=ID` or `?model=NAME`; of all models without either."""
    query = dict(parse_qsl(call.request.raw_path.partition("?")[2]))
    request, model = query.get("request", ""), query.get("model", "")
    if request and model:
        raise ApiError("invalid_parameter", "Say either request=ID or model=NAME.", param="request")
    if max(len(request), len(model)) > _LONGEST:
        raise ApiError("invalid_parameter", f"A name has at most {_LONGEST} characters.", param="request")
    if request:
        return json_response(call.request, await why_request(services, request))
    if model:
        owner, adapter = split_id(model)  # what is wrong with an adapter is wrong with its model
        name = owner if adapter and services.registry.find(model) is None else model
        return json_response(call.request, await why_model(services, require_model(services.registry, name)))
    return json_response(call.request, await why_all(services))


async def why_request(services: Services, request_id: str) -> Why:
    """ApiError `request_unknown` with how far back records go."""
    found = services.recent.find(request_id)
    models = services.registry.models() if found is None else _model_of(services, found)
    pods = [(model, backend) for model in models for backend in services.registry.backends(model)][:_MOST_PODS]
    if found is not None and models and all(backend.id != found.pod for _, backend in pods):
        away = services.pools.known(found.pod)
        pods += [(models[0], away)] if away is not None else []
    replies = await asyncio.gather(*(_ask(services, pod, f"?request={quote(request_id)}") for _, pod in pods))
    timelines = [
        _of(timeline, model, backend)
        for (model, backend), reply in zip(pods, replies, strict=True)
        if isinstance(reply, PodTimelines)
        for timeline in reply.timelines
        if timeline.id == request_id
    ]
    if found is None and not timelines:
        raise _unknown(services, request_id)
    notes = []
    if found is None:
        notes.append("This gateway has no record of it, a pod has: another gateway may have passed it on.")
        found = _as_gateways(timelines[-1])
    accounts = [_account(backend, reply) for (_, backend), reply in zip(pods, replies, strict=True)]
    at_pod = _newest([each for each in timelines if each.pod == found.pod] or timelines, found)
    model = next(iter(_model_of(services, found)), None)
    record = RequestRecord(
        gateway=found,
        pod=at_pod,
        accounts=accounts,
        model=None if model is None else _model_account(services, model, accounts),
        silent=_silence(found, accounts) if found.pod and at_pod is None else "",
    )
    causes = explain_request(record)
    return Why(
        about="request",
        name=request_id,
        sentence=causes[0].sentence,
        causes=causes,
        timelines=[found, *timelines[-4:]],
        model=record.model,
        notes=notes,
    )


async def why_model(services: Services, model: Model) -> Why:
    backends = services.registry.backends(model)[:_MOST_PODS]
    replies = await asyncio.gather(*(_ask(services, backend, "") for backend in backends))
    accounts = [_account(backend, reply) for backend, reply in zip(backends, replies, strict=True)]
    at_pods = {
        timeline.id: _of(timeline, model, backend)
        for backend, reply in zip(backends, replies, strict=True)
        if isinstance(reply, PodTimelines)
        for timeline in reply.timelines
    }
    account = _model_account(services, model, accounts)
    recent = services.recent.of_model(model.name, _MOST_RECENT)
    records = [
        RequestRecord(each, at_pods.get(each.id), accounts, account, "" if each.id in at_pods else _FORGOTTEN)
        for each in recent
    ]
    causes = explain_model(account, records)
    return Why(
        about="model",
        name=model.name,
        sentence=causes[0].sentence,
        causes=causes,
        timelines=recent,
        model=account,
        notes=[f"pod {each.pod} didn't say more: {each.silent}" for each in accounts if each.silent],
    )


async def why_all(services: Services) -> Why:
    """What is the matter with any model, each model's first cause."""
    models = services.registry.models()[:_MOST_MODELS]
    answers = await asyncio.gather(*(why_model(services, model) for model in models))
    troubles = [answer for answer in answers if answer.causes[0].code not in _NO_TROUBLE]
    causes = [
        msgspec.structs.replace(cause, sentence=f"{answer.name}: {cause.sentence}")
        for answer in troubles
        for cause in answer.causes[:1]
    ]
    quiet = Cause(
        code=CauseCode.NOTHING, sentence=f"Nothing is the matter with any of {len(models)} models.",
        help=ROWS[CauseCode.NOTHING].help,
    )  # fmt: skip
    causes = causes or [quiet]
    return Why(about="models", name="", sentence=causes[0].sentence, causes=causes)


async def _ask(services: Services, backend: Backend, query: str) -> PodTimelines | str:
    """What the pod recorded, or why that isn't known."""
    try:
        client = PodClient(services.pools.of(backend))
        return await client.fetch_json("GET", TIMELINES_PATH + query, PodTimelines)
    except PodUnavailable as error:
        return printable(str(error), _LONGEST)


def _account(backend: Backend, reply: PodTimelines | str) -> PodAccount:
    ejected = max(0.0, backend.ejected_until - asyncio.get_running_loop().time())
    told = reply if isinstance(reply, PodTimelines) else None
    load = told.load if told is not None else None
    machine: Facts = dict(told.machine) if told is not None else {}
    return PodAccount(
        pod=backend.id,
        in_flight=backend.in_flight,
        failures=backend.failures,
        ejected_seconds=ejected,
        silent="" if told is not None else str(reply),
        running=load.in_flight if load is not None else None,
        queued=load.queued if load is not None else None,
        places=load.concurrent_requests if load is not None else None,
        queue_places=load.queued_requests if load is not None else None,
        machine=machine,
    )


def _model_account(services: Services, model: Model, accounts: list[PodAccount]) -> ModelAccount:
    progress = services.registry.progress(model)
    ready = len(services.registry.backends(model))
    failure = progress.failure
    return ModelAccount(
        name=model.name,
        phase=progress.phase,
        percent=progress.percent,
        eta_seconds=progress.eta_seconds,
        download=progress.download,
        reason=failure.reason if failure is not None else model.facts.reason,
        message=failure.message if failure is not None else progress.message,
        replicas=max(ready, model.facts.replicas),
        ready_replicas=ready,
        pods=accounts,
    )


def _model_of(services: Services, timeline: Timeline) -> Sequence[Model]:
    model = services.registry.find(timeline.model) if timeline.model else None
    return () if model is None else (model,)


def _of(timeline: Timeline, model: Model, backend: Backend) -> Timeline:
    """As a pod told it, under the names by which the gateway knows pod and model, whatever it calls itself."""
    return msgspec.structs.replace(timeline, component="pod", pod=backend.id, model=model.name)


def _as_gateways(pod: Timeline) -> Timeline:
    """A request that this gateway knows from a pod alone."""
    return Timeline(
        component="gateway", id=pod.id, started=pod.started, seconds=pod.seconds, running=pod.running, model=pod.model,
        key=pod.key, pod=pod.pod, code=pod.code, error=pod.error, message=pod.message,
        intervals=(interval("send", 0.0, pod.seconds),),
    )  # fmt: skip


def _newest(timelines: Sequence[Timeline], found: Timeline) -> Timeline | None:
    """Of a request that was sent more than once, what the last pod did."""
    mine = [each for each in timelines if each.started >= found.started - 60.0]
    return max(mine, key=lambda each: each.started, default=None)


def _silence(found: Timeline, accounts: Sequence[PodAccount]) -> str:
    account = next((each for each in accounts if each.pod == found.pod), None)
    if account is None:
        return f"pod {found.pod} isn't there any more"
    return f"pod {account.pod} doesn't tell: {account.silent}" if account.silent else _FORGOTTEN


def _unknown(services: Services, request_id: str) -> ApiError:
    recent, now = services.recent, time.time()
    ages = []
    for what, since in (
        ("slow or failed", recent.reaches_back_to),
        ("other", recent.ordinary_reach_back_to),
    ):
        ages.append(f"{what} ones of {'the last ' + duration(now - since) if since else 'all the time since it began'}")
    return ApiError(
        "request_unknown",
        f"No record of a request {printable(request_id, 128)}. This gateway remembers requests: {', '.join(ages)}. "
        "Other gateways have records of their own.",
        reaches_back_to=recent.reaches_back_to,
    )
