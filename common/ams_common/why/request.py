"""Why one request took as long as it did, or failed: its causes, the weightiest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ams_common.reasons import row_of
from ams_common.timeline import Timeline
from ams_common.why.causes import ROWS, CauseCode
from ams_common.why.parts import Part, divide
from ams_common.why.story import Cause, ModelAccount, PodAccount
from ams_common.why.wording import count, duration

_LEFT: Final = 499
_LEAST_SHARE: Final = 0.01

# What an error's code says by itself. Those that aren't here are said by what took longest, or by their status.
_BY_ERROR: Final = {
    "missing_key": CauseCode.KEY_REFUSED,
    "invalid_key": CauseCode.KEY_REFUSED,
    "model_not_allowed": CauseCode.KEY_REFUSED,
    "admin_required": CauseCode.KEY_REFUSED,
    "scope_required": CauseCode.KEY_REFUSED,
    "token_limit": CauseCode.BUDGET,
    "queue_full": CauseCode.QUEUE_FULL,
    "model_failed": CauseCode.MODEL_FAILED,
    "suspended": CauseCode.SUSPENDED,
    "no_backend": CauseCode.POD_UNREACHABLE,
    "backend_failed": CauseCode.POD_ENDED,
    "draining": CauseCode.POD_DRAINING,
    "insufficient_memory": CauseCode.MEMORY_LADDER,
    "overloaded": CauseCode.OVERLOADED,
    "generation_failed": CauseCode.POD_FAILED,
    "internal_error": CauseCode.INTERNAL,
    "request_timeout": CauseCode.SLOW_UPLOAD,
    "request_unknown": CauseCode.MODEL_UNKNOWN,
    "model_not_found": CauseCode.MODEL_UNKNOWN,
    "not_found": CauseCode.MODEL_UNKNOWN,
    "method_not_allowed": CauseCode.MODEL_UNKNOWN,
}
_BY_LIMIT: Final = {
    "requests": CauseCode.REQUEST_RATE,
    "tokens": CauseCode.TOKEN_RATE,
    "concurrent": CauseCode.CONCURRENCY,
    "month": CauseCode.BUDGET,
}
_BY_TIME: Final = ("timeout", "model_loading")  # errors of a wait: what it waited for is the cause


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What was recorded of one request: by the gateway, by the pod that it went to, and what is known of others."""

    gateway: Timeline
    pod: Timeline | None = None
    accounts: Sequence[PodAccount] = ()
    model: ModelAccount | None = None
    silent: str = ""  # why there is no pod's timeline, where it went to one


def explain_request(record: RequestRecord) -> list[Cause]:
    """Never empty."""
    gateway, total = record.gateway, record.gateway.seconds
    parts = divide(gateway, record.pod, record.silent)
    by_time = [_cause(part, record) for part in parts if part.seconds >= _LEAST_SHARE * total or part is parts[0]]
    failure = _failure(record, parts)
    if failure is not None:
        same = [each for each in by_time if each.code == failure.code]
        rest = [each for each in by_time if each.code != failure.code]
        return [_joined(failure, same), *rest]
    by_time = [each for each in by_time if each.seconds]
    if not by_time:
        row = ROWS[CauseCode.NOTHING]
        return [Cause(code=CauseCode.NOTHING, sentence=f"{row.title}: it took {duration(total)}.", help=row.help)]
    return by_time


def _failure(record: RequestRecord, parts: Sequence[Part]) -> Cause | None:
    """The cause of an error; None if the request was answered, or if what took longest is the cause."""
    gateway, pod = record.gateway, record.pod
    error, message, told = gateway.error, gateway.message, gateway.facts
    if pod is not None and pod.error and (not error or error.startswith("pod_answered_")):
        error, message, told = pod.error, pod.message, pod.facts
    error = error or gateway.text("pod_error")
    if gateway.code == _LEFT or error in _BY_TIME:
        return None if any(part.seconds > 0 for part in parts) else _gave_up(record, error)
    if not error and gateway.code < 400:
        return None
    if error == "rate_limited":
        code = _BY_LIMIT.get(str(told.get("limit")), CauseCode.REQUEST_RATE)
    elif (known := _BY_ERROR.get(error)) is not None:
        code = known
    else:
        code = CauseCode.BAD_REQUEST if gateway.code < 500 and gateway.code != 429 else CauseCode.POD_FAILED
    reason = str(told.get("reason") or (record.model.reason if record.model is not None else ""))
    if code is CauseCode.MODEL_FAILED and (row := row_of(reason)) is not None:
        return Cause(code=reason, sentence=_sentence(row.title, message), help=row.help)
    evidence = [f"answered {gateway.code} {error}".rstrip()] if gateway.code else []
    if code is CauseCode.QUEUE_FULL:
        evidence += _queue_evidence(record)
    return Cause(code=code, sentence=_sentence(ROWS[code].title, message), evidence=evidence, help=ROWS[code].help)


def _gave_up(record: RequestRecord, error: str) -> Cause:
    code = CauseCode.CLIENT_LEFT if record.gateway.code == _LEFT else CauseCode.TIMED_OUT
    row = ROWS[code]
    return Cause(
        code=code, sentence=f"{row.title} after {duration(record.gateway.seconds)}.", help=row.help,
        evidence=[f"answered {record.gateway.code} {error}".rstrip()],
    )  # fmt: skip


def _queue_evidence(record: RequestRecord) -> list[str]:
    found = []
    if record.pod is not None and record.pod.text("holders"):
        found.append(f"the places were held by {record.pod.text('holders')}")
    return found + [
        f"pod {each.pod} now: {each.running} running of {each.places}, {each.queued} waiting of {each.queue_places}"
        for each in record.accounts
        if each.running is not None
    ]


def _cause(part: Part, record: RequestRecord) -> Cause:
    gateway = record.gateway
    total = gateway.seconds
    row = ROWS[part.code]
    share = min(1.0, part.seconds / total) if total else None
    took = f"{duration(part.seconds)} of {duration(total)}" if part.seconds < 0.995 * total else duration(total)
    sentence = f"{_specific(part, record) or row.title}: {took}{_how_it_ended(gateway)}."
    help = row.help
    reason = record.model.reason if record.model is not None else ""
    if part.code is CauseCode.SCHEDULING and (known := row_of(reason)) is not None and not known.fatal:
        help = f"{known.help} {row.help}"
    return Cause(
        code=part.code, sentence=sentence, seconds=round(part.seconds, 6),
        share=None if share is None else round(share, 4), evidence=part.evidence, help=help,
    )  # fmt: skip


def _how_it_ended(gateway: Timeline) -> str:
    if gateway.code == _LEFT:
        return "; then the client left"
    if gateway.error in _BY_TIME:
        return f"; then it was answered {gateway.code} {gateway.error}"
    return "; it is still running" if gateway.running else ""


def _specific(part: Part, record: RequestRecord) -> str:
    """The title with the numbers of this request, where there are some."""
    pod = record.pod
    if pod is None:
        return ""
    tokens, answered, media = (pod.number(name) for name in ("prompt_tokens", "completion_tokens", "media"))
    match part.code:
        case CauseCode.LONG_PROMPT if tokens:
            return f"Its own prompt of {count(tokens, 'token')} took long to read"
        case CauseCode.LONG_ANSWER if answered:
            seconds = pod.total("decode")
            pace = f" at {answered / seconds:.1f} a second" if seconds > 0 and answered > 1 else ""
            return f"Its own answer was {count(answered, 'token')} long{pace}"
        case CauseCode.OWN_MEDIA | CauseCode.MEDIA_DECODE if media:
            did = "encode" if part.code is CauseCode.OWN_MEDIA else "decode"
            return f"Its own {count(media, 'medium', 'media')} took long to {did}"
    return ""


def _sentence(title: str, message: str) -> str:
    return f"{title}: {message.rstrip('.')}." if message else f"{title}."


def _joined(failure: Cause, same: Sequence[Cause]) -> Cause:
    """A failure with the time that its cause took before."""
    if not same:
        return failure
    part = same[0]
    return Cause(
        code=failure.code, sentence=failure.sentence, seconds=part.seconds, share=part.share,
        evidence=[*failure.evidence, *(each for each in part.evidence if each not in failure.evidence)],
        help=failure.help,
    )  # fmt: skip
