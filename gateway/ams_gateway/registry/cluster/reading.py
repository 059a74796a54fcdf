"""From Kubernetes objects to what the gateway routes by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from ams_common.errors import ApiError
from ams_common.families import BY_NAME
from ams_common.lifecycle import Phase, stage_of
from ams_common.naming import NameClaim, give_names
from ams_common.progress import Failure, Progress
from ams_common.quantity import parse_bytes
from ams_common.reasons import row_of
from ams_common.resource.conditions import ConditionType
from ams_kube.objects import EndpointSlice
from ams_kube.views import AnswersView, ResourceView, StatusView

from ams_gateway.registry.port import KeepAnswers, Model, ModelFacts

# Conditions that keep requests from being answered, in the order in which their reasons are given.
_BLOCKING: tuple[ConditionType, ...] = ("Accepted", "PreflightPassed", "WeightsReady", "Available")
_BLOCKING_WITHOUT_PODS: tuple[ConditionType, ...] = ("Accepted", "PreflightPassed")
# The operator's view of a model that no endpoint is known of here yet: a request asks for it, so it is about to start.
_ASKED_FOR = {Phase.READY: Phase.STARTING, Phase.IDLE: Phase.SCHEDULING}
_ADAPTER_PHASES = {"Loading": Phase.LOADING, "Failed": Phase.FAILED}  # by state in status.adapters
_BITS = {"4bit": 4, "8bit": 8}


@dataclass(frozen=True, slots=True)
class RoutedResource:
    """A ModelDeployment as far as requests are concerned.

    `refusal` is why none may wait for it, `at_rest` why none starts it: `suspended`.
    """

    key: str
    created: str
    model: Model
    progress: Progress
    refusal: Failure | None = None
    at_rest: str | None = None

    def refuse(self, name: str) -> ApiError | None:
        """The error of a request that finds no pod of the model called `name`, None if it may wait."""
        if self.at_rest is not None:
            return ApiError("suspended", f"{name} is {self.at_rest}.", model=name)
        if self.refusal is not None:
            return ApiError(
                "model_failed",
                f"{name} can't be served: {self.refusal.message}",
                reason=self.refusal.reason,
                model=name,
            )
        return None


def read_resource(view: ResourceView) -> RoutedResource:
    spec, status, metadata = view.spec, view.status, view.metadata
    created = metadata.creation_timestamp or ""
    failure = _failure(status, metadata.generation)
    family = BY_NAME.get(status.model.family or "")
    facts = ModelFacts(
        model_type=family.model_type if family else None,
        source=spec.model.source,
        source_exists=_holds(status, "WeightsReady"),
        quantization_bits=_BITS.get(status.quantization.chosen or spec.quantization),
        max_memory=spec.max_memory or None,
        replicas=status.replicas,
        engine=status.engine.name,
        engine_reason=status.engine.reason,
        engine_version=status.engine.version,
        reason=next((each.reason for each in status.conditions if each.type == "Ready" and each.status != "True"), ""),
    )
    return RoutedResource(
        key=metadata.key,
        created=created,
        model=Model(
            name=metadata.name,
            aliases=tuple(spec.model.aliases),
            adapters=tuple(each.name for each in spec.adapters if each.name),
            adapter_phases={
                each.name: _ADAPTER_PHASES[each.state] for each in status.adapters if each.state in _ADAPTER_PHASES
            },
            modalities=frozenset(status.model.modalities) if status.model.modalities else None,
            max_body_bytes=_bytes(spec.limits.max_body_bytes),
            request_timeout_seconds=spec.limits.request_timeout_seconds,
            created=_unix_time(created),
            context_tokens=_number(spec.limits.context_tokens),
            max_new_tokens=_number(spec.limits.max_new_tokens),
            answers=_answers(spec.cache.answers),
            key=metadata.key,
            facts=facts,
        ),
        progress=_progress(status, failure, spec.at_rest),
        refusal=failure,
        at_rest=spec.at_rest,
    )


def name_resources(
    resources: Iterable[RoutedResource], *, confined: bool = False
) -> tuple[Mapping[str, str], dict[str, Model]]:
    """(key by each name that routes may use, in the spelling of `resource_name`; model by key), by `give_names`."""
    by_key = {each.key: each for each in resources}
    claims = [NameClaim(each.key, each.created, each.model.aliases) for each in by_key.values()]
    naming = give_names(claims, confined=confined)
    models = {
        key: replace(by_key[key].model, name=given.name, aliases=given.aliases) for key, given in naming.given.items()
    }
    return naming.owners, models


def read_slice(endpoints: EndpointSlice) -> dict[str, tuple[str, str]]:
    """uid → (pod's name, address) of the pods in a slice that take requests: ready, and not about to end."""
    port = next((port.port for port in endpoints.ports or () if port.port), None)
    if port is None:
        return {}
    pods = {}
    for endpoint in endpoints.endpoints or ():
        if endpoint.conditions.ready is False or endpoint.conditions.terminating or not endpoint.addresses:
            continue
        address = endpoint.addresses[0]
        host = f"[{address}]" if ":" in address else address
        target = endpoint.target_ref
        pods[target.uid if target and target.uid else address] = (
            target.name if target and target.name else address,
            f"http://{host}:{port}",
        )
    return pods


def _failure(status: StatusView, generation: int) -> Failure | None:
    """Why waiting for the model would be in vain; None where it may get ready by itself.

    So it may where the spec was changed since, and where no pod is there: the next one may fare better than the last.
    """
    if status.observed_generation < generation:
        return None
    by_type = {condition.type: condition for condition in status.conditions}
    for kind in _BLOCKING if status.replicas else _BLOCKING_WITHOUT_PODS:
        condition = by_type.get(kind)
        if condition is not None and condition.status == "False" and _is_fatal(kind, condition.reason):
            return Failure(condition.reason, condition.message or condition.reason)
    return None


def _is_fatal(kind: ConditionType, reason: str) -> bool:
    row = row_of(reason)
    if row is not None:
        return row.fatal
    return kind in ("Accepted", "PreflightPassed")  # a newer operator's reason; these two never pass by waiting


def _progress(status: StatusView, failure: Failure | None, at_rest: str | None) -> Progress:
    if at_rest is not None:
        return Progress(Phase.STOPPED, message=at_rest)
    if failure is not None:
        return Progress(Phase.FAILED, message=failure.message, failure=failure)
    phase = stage_of(status.phase)
    phase = _ASKED_FOR.get(phase, phase)
    download = status.download if phase == Phase.DOWNLOADING else None
    percent = eta = None
    if download is not None:
        percent = 100 * download.bytesDone / download.bytesTotal if download.bytesTotal else None
        eta = download.etaSeconds
    return Progress(phase, percent, eta, message=status.message, download=download)


def _holds(status: StatusView, kind: str) -> bool:
    return any(condition.type == kind and condition.status == "True" for condition in status.conditions)


def _bytes(quantity: int | str) -> int:
    try:
        return parse_bytes(quantity)
    except ValueError:
        return 64 << 20


def _answers(view: AnswersView | None) -> KeepAnswers | None:
    return None if view is None else KeepAnswers(view.seconds, _bytes(view.bytes))


def _number(limit: int | str) -> int | None:
    return limit if isinstance(limit, int) and limit > 0 else None


def _unix_time(timestamp: str) -> int:
    try:
        return int(datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        return 0
