"""Spans from a timeline that has ended: a server's span, and one for each of its intervals. Pure."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from ams_common import genai
from ams_common.timeline import Fact, Interval, Timeline
from ams_common.traceparent import TraceContext

Kind = Literal["server", "client", "internal"]

# What a pod's intervals are called as spans; those that aren't here keep their names.
_IN_A_POD: Final = {
    "pool": "queue",
    "media": "media",
    "media-towers": "media",
    "preparing": "prepare",
    "step": "queue",
    "towers": "queue",
    "slot": "queue",
    "others": "queue",
    "own-key": "queue",
    "waiting": "queue",
    "reading": "prefill",
    "unsaid": "prefill",
}
_TOKENS: Final = {"prompt_tokens": genai.INPUT_TOKENS, "completion_tokens": genai.OUTPUT_TOKENS}


@dataclass(frozen=True, slots=True)
class PlainSpan:
    """One span: ids in hex, times in nanoseconds since 1970."""

    name: str
    trace: str
    span: str
    parent: str
    kind: Kind
    start: int
    end: int
    attributes: Mapping[str, Fact] = field(default_factory=dict)
    error: str = ""
    state: str = ""


def spans_of(timeline: Timeline, context: TraceContext) -> list[PlainSpan]:
    """The first is the request itself. Its last `send` is the span that the pod's belong to."""
    first = _span(timeline, context)
    sends = [each for each in timeline.intervals if each.name == "send"]
    spans = [first]
    for number, each in enumerate(timeline.intervals):
        onward = bool(sends) and each is sends[-1]
        spans.append(_of_interval(timeline, each, number, context, onward=onward))
    return spans


def _span(timeline: Timeline, context: TraceContext) -> PlainSpan:
    attributes: dict[str, Fact] = {
        genai.PROVIDER_NAME: genai.PROVIDER,
        genai.HTTP_METHOD: "POST" if timeline.route in genai.OPERATIONS else "GET",
        genai.HTTP_ROUTE: timeline.route,
        genai.HTTP_STATUS: timeline.code,
        genai.REQUEST_ID: timeline.id,
    }
    if timeline.model:
        attributes |= {genai.REQUEST_MODEL: timeline.model, genai.RESPONSE_MODEL: timeline.model}
    if (operation := genai.OPERATIONS.get(timeline.route)) is not None:
        attributes[genai.OPERATION_NAME] = operation
    if timeline.key:
        attributes[genai.KEY_ID] = timeline.key
    if timeline.pod:
        attributes[genai.POD] = timeline.pod
    for name, value in timeline.facts.items():
        attributes[_TOKENS.get(name, genai.FACT + name)] = value
    failed = timeline.error or (str(timeline.code) if timeline.code >= 500 else "")
    if failed:
        attributes[genai.ERROR_TYPE] = failed
    start = _nanoseconds(timeline.started)
    return PlainSpan(
        name=f"{attributes[genai.HTTP_METHOD]} {timeline.route}".strip(),
        trace=context.trace,
        span=context.span,
        parent=context.parent,
        kind="server",
        start=start,
        end=start + _nanoseconds(timeline.seconds),
        attributes=attributes,
        error=failed if timeline.code >= 500 or timeline.code == 499 else "",
        state=context.state,
    )


def _of_interval(
    timeline: Timeline, interval: Interval, number: int, context: TraceContext, *, onward: bool
) -> PlainSpan:
    in_pod = timeline.component == "pod"
    name = _IN_A_POD.get(interval.name, interval.name) if in_pod else interval.name
    attributes: dict[str, Fact] = {genai.FACT + fact: value for fact, value in interval.facts.items()}
    if name != interval.name:
        attributes[genai.WAITED_FOR] = interval.name
    start = _nanoseconds(timeline.started + interval.start)
    seconds = interval.seconds
    if onward:  # the pod works until its answer is complete
        seconds += sum(each.seconds for each in timeline.intervals if each.name == "answer")
        attributes |= {genai.POD: timeline.pod}
    return PlainSpan(
        name=name,
        trace=context.trace,
        span=context.onward if onward else _id(context.span, number),
        parent=context.span,
        kind="client" if onward else "internal",
        start=start,
        end=start + _nanoseconds(seconds),
        attributes=attributes,
        error=interval.text("reason") if interval.name == "attempt" else "",
        state=context.state,
    )


def _id(span: str, number: int) -> str:
    """One that no other interval of this span has."""
    return hashlib.blake2b(f"{span}-{number}".encode(), digest_size=8).hexdigest()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
