"""The whole status of a resource, and the transitions from the one before."""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from ams_common import labels
from ams_common.lifecycle import Phase
from ams_common.names import route_name
from ams_common.reasons import row_of
from ams_common.resource.conditions import ConditionType
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Condition, ModelStatus, Status, conditions_of
from ams_common.source import InvalidSource, parse_source, short_name

from ams_operator.decide.observed import Transition
from ams_operator.decide.status.conditions import Outcome, judge_all
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.phase import phase_of


def status_of(facts: Facts, gateway_url: str, now: float, *, confined: bool = False) -> Status:
    resource, pod = facts.resource, facts.newest_unready_pod
    route = route_name(resource.metadata.name)
    route = f"{resource.metadata.namespace}.{route}" if confined else route
    outcomes = judge_all(facts)
    phase = phase_of(facts, outcomes)
    deployment = facts.deployment
    progress = pod.progress if pod is not None and pod.stage is Phase.DOWNLOADING else None
    return Status(
        observed_generation=resource.metadata.generation,
        phase=phase.phase.title,
        summary=phase.summary,
        message=phase.message,
        replicas=deployment.status.replicas if deployment is not None else 0,
        ready_replicas=facts.ready_pods,
        selector=f"{labels.MODEL}={resource.metadata.name}",
        endpoint=f"{gateway_url.rstrip('/')}/generate/{route}" if gateway_url else None,
        model=_model(facts),
        quantization=facts.verdict.quantization,
        download=progress.download if progress is not None else None,
        lock=facts.lock,
        conditions=_conditions(resource, outcomes, now),
    )


def _model(facts: Facts) -> ModelStatus | None:
    try:
        name = short_name(parse_source(facts.resource.spec.model.source))
    except InvalidSource:
        return facts.verdict.model
    return msgspec.structs.replace(facts.verdict.model or ModelStatus(), name=name)


def _conditions(resource: ModelDeployment, outcomes: Mapping[ConditionType, Outcome], now: float) -> list[Condition]:
    before = conditions_of(resource.status)
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        Condition(
            type=kind,
            status=outcome.status,
            reason=outcome.reason,
            message=outcome.message[:_LONGEST_MESSAGE],
            last_transition_time=before[kind].last_transition_time
            if kind in before and before[kind].status == outcome.status
            else at,
            observed_generation=resource.metadata.generation,
        )
        for kind, outcome in outcomes.items()
    ]


_LONGEST_MESSAGE = 4096


def transitions_of(before: Status | None, after: Status) -> tuple[Transition, ...]:
    """One for each condition whose status or reason changed; of a new resource only what stands in its way."""
    known = conditions_of(before)
    transitions = []
    for condition in after.conditions or ():
        previous = known.get(condition.type)
        if previous is not None and (previous.status, previous.reason) == (condition.status, condition.reason):
            continue
        row = row_of(condition.reason)
        if row is not None and row.condition != condition.type and condition.status != "True":
            continue  # the Event of the other condition says it
        severity = row.severity if row is not None else "Warning"
        if previous is not None or severity == "Warning":
            transitions.append(Transition(severity, condition.reason, f"{condition.type}: {condition.message}"))
    return tuple(transitions)
