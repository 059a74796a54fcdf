"""The whole status of a resource, and the transitions from the one before."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import get_args

import msgspec
from ams_common import labels
from ams_common.lifecycle import Phase
from ams_common.names import route_name
from ams_common.reasons import row_of
from ams_common.resource.conditions import Abnormal
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Condition, EngineStatus, ModelStatus, Status, conditions_of
from ams_common.source import InvalidSource, parse_source, short_name

from ams_operator.decide.observed import Transition
from ams_operator.decide.status.abnormal import abnormal
from ams_operator.decide.status.conditions import judge_all
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.outcome import Outcome
from ams_operator.decide.status.phase import phase_of


def status_of(facts: Facts, gateway_url: str, now: float) -> Status:
    resource, pod = facts.resource, facts.newest_unready_pod
    prefix = facts.names.name.removesuffix(resource.metadata.name)  # its namespace, where the bare name isn't its own
    route = f"{prefix}{route_name(resource.metadata.name)}"
    outcomes = judge_all(facts)
    phase = phase_of(facts, outcomes)
    workload = facts.workload
    progress = pod.progress if pod is not None and pod.stage is Phase.DOWNLOADING else None
    return Status(
        observed_generation=resource.metadata.generation,
        phase=phase.phase.title,
        summary=phase.summary,
        message=phase.message,
        replicas=workload.replicas if workload is not None else 0,
        ready_replicas=facts.ready_pods,
        selector=f"{labels.MODEL}={resource.metadata.name}",
        endpoint=f"{gateway_url.rstrip('/')}/generate/{route}" if gateway_url else None,
        model=_model(facts),
        engine=_engine(facts),
        quantization=facts.verdict.quantization,
        download=progress.download if progress is not None else None,
        lock=facts.lock,
        adapters=list(facts.adapters) if facts.adapters is not None else None,
        conditions=_conditions(resource, [*outcomes.items(), *abnormal(outcomes).items()], now),
    )


def _model(facts: Facts) -> ModelStatus | None:
    try:
        name = short_name(parse_source(facts.resource.spec.model.source))
    except InvalidSource:
        return facts.verdict.model
    return msgspec.structs.replace(facts.verdict.model or ModelStatus(), name=name)


def _engine(facts: Facts) -> EngineStatus | None:
    if facts.engine is None:
        return None
    return EngineStatus(name=facts.engine.name, reason=facts.engine.choice.reason, version=facts.engine_version)


def _conditions(resource: ModelDeployment, outcomes: Iterable[tuple[str, Outcome]], now: float) -> list[Condition]:
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
        for kind, outcome in outcomes
    ]


_LONGEST_MESSAGE = 4096


def transitions_of(before: Status | None, after: Status) -> tuple[Transition, ...]:
    """What people are told: what stands in the way, that it no longer does, and the steps of a start; each once.

    Of a new resource only what stands in its way.
    """
    known = conditions_of(before)
    transitions = []
    for condition in after.conditions or ():
        previous = known.get(condition.type)
        if condition.type in _ABNORMAL or (
            previous is not None and (previous.status, previous.reason) == (condition.status, condition.reason)
        ):
            continue
        row = row_of(condition.reason)
        severity = row.severity if row is not None else "Warning"
        if row is not None and row.condition != condition.type:
            continue  # the Event of the other condition says it
        mended = previous is not None and previous.status == "False" and condition.type in _ONLY_MENDED
        if severity == "Warning" or (previous is not None and row is not None and (row.told or mended)):
            transitions.append(Transition(severity, condition.reason, f"{condition.type}: {condition.message}"))
    return tuple(transitions)


_ABNORMAL = get_args(Abnormal)
_ONLY_MENDED = ("Accepted", "PreflightPassed")  # that they hold is news only after they didn't
