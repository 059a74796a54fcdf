"""Why a model isn't ready, or why its requests are slow: its causes, the weightiest first."""

from collections.abc import Sequence
from typing import Final

from ams_common.lifecycle import Phase
from ams_common.progress import Download, Progress
from ams_common.reasons import Reason, row_of
from ams_common.timeline import number_of
from ams_common.why.causes import ROWS, CauseCode
from ams_common.why.request import RequestRecord, explain_request
from ams_common.why.scheduling import scheduler_says
from ams_common.why.story import Cause, ModelAccount, PodAccount
from ams_common.why.wording import count, duration, listed

_AT_REST: Final = {
    Phase.IDLE: Reason.SCALED_TO_ZERO,
    Phase.STOPPED: Reason.STOPPED,
    Phase.SUSPENDED: Reason.SUSPENDED,
    Phase.PENDING: Reason.SCALED_TO_ZERO,
}
_SAMPLE: Final = 20
_BUSY_SECONDS: Final = 3.0  # of a minute, in which the machine kept a pod from computing


def explain_model(model: ModelAccount, recent: Sequence[RequestRecord] = ()) -> list[Cause]:
    """`recent` are requests that were slow or failed lately, the newest first. Never empty."""
    found = [] if model.ready_replicas else [_not_ready(model)]
    if model.ready_replicas and (why := _half_ready(model)) is not None:
        found.append(why)
    found += [cause for pod in model.pods if (cause := _pod(pod)) is not None]
    known = {cause.code for cause in found}
    found += [cause for cause in _slow(recent[:_SAMPLE]) if cause.code not in known]
    if found:
        return found
    row = ROWS[CauseCode.NOTHING]
    pods = f"{count(model.ready_replicas, 'pod')} of {max(model.replicas, model.ready_replicas)}"
    return [Cause(code=CauseCode.NOTHING, sentence=f"{model.name} is ready, {pods} answer.", help=row.help)]


def _not_ready(model: ModelAccount) -> Cause:
    progress = Progress(model.phase, model.percent, model.eta_seconds)
    reason, message = model.reason, model.message
    if (row := row_of(reason)) is not None and reason not in (Reason.READY, Reason.SERVING):
        return Cause(
            code=reason, sentence=f"{row.title}: {message.rstrip('.')}." if message else f"{row.title}.",
            evidence=_evidence(model), help=row.help,
        )  # fmt: skip
    if (at_rest := _AT_REST.get(progress.phase)) is not None and (row := row_of(at_rest)) is not None:
        return Cause(code=at_rest, sentence=f"{row.title}.", evidence=_evidence(model), help=row.help)
    code = {Phase.DOWNLOADING: CauseCode.DOWNLOAD, Phase.SCHEDULING: CauseCode.SCHEDULING}.get(
        progress.phase.stage, CauseCode.COLD_START
    )
    said = f": {message.rstrip('.')}" if message else ""
    return Cause(
        code=code, sentence=f"{model.name} isn't ready yet, it is {progress.comment()}{said}.",
        evidence=_evidence(model), help=ROWS[code].help,
    )  # fmt: skip


def _evidence(model: ModelAccount) -> list[str]:
    found = [f"the scheduler: {each}" for each in scheduler_says(model.message)]
    found += [f"node {node.node}: {'; '.join(node.lacks)}" for node in model.nodes if node.lacks]
    if model.download is not None:
        found.append(_download(model.download))
    found += [f"the operator: {each.sentence}" for each in model.decisions[:5]]
    return found + [f"event: {each}" for each in model.events[:5]]


def _download(download: Download) -> str:
    words = f"{download.bytesDone / 1e6:,.0f} MB"
    if download.bytesTotal:
        words += f" of {download.bytesTotal / 1e6:,.0f} MB"
    if download.bytesPerSecond is not None:
        words += f" at {download.bytesPerSecond / 1e6:,.2f} MB/s"
    if download.etaSeconds is not None:
        words += f", {duration(download.etaSeconds)} to go"
    return f"downloaded {words}"


def _half_ready(model: ModelAccount) -> Cause | None:
    """Pods answer, and something is in the way of others."""
    if (row := row_of(model.reason)) is None or row.severity != "Warning" or row.phase is Phase.READY:
        return None
    pods = f"{count(model.ready_replicas, 'pod')} of {model.replicas} answer"
    return Cause(
        code=model.reason, sentence=f"{row.title}: {model.message.rstrip('.')}; {pods}.",
        evidence=_evidence(model), help=row.help,
    )  # fmt: skip


def _pod(pod: PodAccount) -> Cause | None:
    if pod.ejected_seconds > 0:
        row = ROWS[CauseCode.POD_UNREACHABLE]
        return Cause(
            code=CauseCode.POD_UNREACHABLE,
            sentence=f"Pod {pod.pod} is left out for {duration(pod.ejected_seconds)} more, after "
            f"{count(pod.failures, 'failure')} in a row.",
            help=row.help,
        )  # fmt: skip
    if (restarts := number_of(pod.machine, "engine_restarts")) >= 1:
        row, ago = ROWS[CauseCode.ENGINE_RESTARTED], number_of(pod.machine, "engine_restart_seconds_ago")
        return Cause(
            code=CauseCode.ENGINE_RESTARTED,
            sentence=f"{row.title}: pod {pod.pod}, {count(int(restarts), 'time')} in the last hour, the last time "
            f"{duration(ago)} ago: {str(pod.machine.get('engine_restart', '')).rstrip('.')}.",
            help=row.help,
        )  # fmt: skip
    running, queued, places = pod.running or 0, pod.queued or 0, pod.places or 0
    if queued > 0 and running >= places > 0:
        full = queued >= (pod.queue_places or 0) > 0
        code = CauseCode.QUEUE_FULL if full else CauseCode.BATCH_FULL
        return Cause(
            code=code,
            sentence=f"Pod {pod.pod} is busy: {count(running, 'request')} running of {places}, {queued} waiting of "
            f"{pod.queue_places}.",
            help=ROWS[code].help,
        )  # fmt: skip
    return _machine(pod)


def _machine(pod: PodAccount) -> Cause | None:
    for name, code in (
        ("stopped_seconds", CauseCode.POD_STOPPED),
        ("throttled_seconds", CauseCode.CPU_THROTTLED),
        ("memory_stall_seconds", CauseCode.MEMORY_PRESSURE),
        ("starved_seconds", CauseCode.CPU_STARVED),
    ):
        if (seconds := number_of(pod.machine, name)) >= _BUSY_SECONDS:
            row = ROWS[code]
            return Cause(
                code=code, sentence=f"{row.title}: pod {pod.pod}, {duration(seconds)} of the last minute.",
                help=row.help,
            )  # fmt: skip
    return None


def _slow(recent: Sequence[RequestRecord]) -> list[Cause]:
    """What delayed requests lately, all together; what happened to one alone is told with it."""
    seconds: dict[str, float] = {}
    first: dict[str, list[str]] = {}
    total = sum(record.gateway.seconds for record in recent)
    for record in recent:
        causes = explain_request(record)
        for cause in causes:
            seconds[cause.code] = seconds.get(cause.code, 0.0) + (cause.seconds or 0.0)
        first.setdefault(causes[0].code, []).append(record.gateway.id)
    ranked = sorted(first, key=lambda code: (seconds.get(code, 0.0), len(first[code])), reverse=True)
    found = []
    for code in ranked:
        ids = first[code]
        title, help = _row(code)
        of = f", {duration(seconds[code])} of their {duration(total)} in all" if seconds.get(code) else ""
        found.append(
            Cause(
                code=code, sentence=f"{title}: {count(len(ids), 'request')} of the last {len(recent)} slow or failed "
                f"ones{of}.",
                seconds=round(seconds[code], 6) if seconds.get(code) else None,
                share=round(min(1.0, seconds[code] / total), 4) if total and seconds.get(code) else None,
                evidence=[f"requests {listed(ids, 3)}"], help=help,
            )
        )  # fmt: skip
    return found


def _row(code: str) -> tuple[str, str]:
    if code in ROWS:
        row = ROWS[CauseCode(code)]
        return row.title, row.help
    reason = row_of(code)
    return (reason.title, reason.help) if reason is not None else (code, "")
