"""What became of adapters that pods load while they run, by what the pods say. Pure."""

from collections.abc import Sequence

from ams_common.adapters import AdapterSettings, asked_digest
from ams_common.admin import PodAdapter
from ams_common.reasons import Reason
from ams_common.resource.status import AdapterStatus, LockStatus

from ams_operator.decide.status.outcome import Outcome

_LONGEST = 500  # characters of one sentence
READY, LOADING, FAILED = "Ready", "Loading", "Failed"


def adapter_statuses(
    wanted: Sequence[AdapterSettings],
    reports: Sequence[Sequence[PodAdapter] | None],
    before: Sequence[AdapterStatus] = (),
) -> list[AdapterStatus]:
    """`reports` are those of the pods that serve, the newest first; None of one that hasn't said anything yet.

    `before` is what was known of the same list: until all pods were asked, as where the operator has just begun, it
    stays.
    """
    known = {each.name: each for each in before} if any(report is None for report in reports) else {}
    return [known.get(adapter.name) or _status(adapter, reports) for adapter in wanted]


def _status(adapter: AdapterSettings, reports: Sequence[Sequence[PodAdapter] | None]) -> AdapterStatus:
    asked = asked_digest(adapter)
    told = [each for report in reports for each in report or () if (each.name, each.asked) == (adapter.name, asked)]
    ready = [each for each in told if each.state == "ready"]
    lock = next((LockStatus(files=each.files, sha256=each.sha256) for each in ready if each.sha256), None)
    failed = next((each for each in told if each.state == "failed"), None)
    if failed is not None:
        return AdapterStatus(
            name=adapter.name,
            state=FAILED,
            ready_replicas=len(ready),
            reason=failed.reason or None,
            message=failed.message[:_LONGEST] or None,
            lock=lock,
        )
    if reports and len(ready) == len(reports):
        return AdapterStatus(name=adapter.name, state=READY, ready_replicas=len(ready), lock=lock)
    text = f"{len(ready)} of {len(reports)} pods have it." if reports else "No pod serves."
    return AdapterStatus(name=adapter.name, state=LOADING, ready_replicas=len(ready), message=text, lock=lock)


def _sentence(failed: AdapterStatus) -> str:
    message = failed.message or failed.reason or "it failed."
    return message if message.startswith(f"The adapter {failed.name}") else f"{failed.name}: {message}"


def adapters_ready(statuses: Sequence[AdapterStatus]) -> Outcome:
    failed = [each for each in statuses if each.state == FAILED]
    if failed:
        return Outcome("False", Reason.ADAPTER_FAILED, " ".join(map(_sentence, failed)))
    loading = [each for each in statuses if each.state == LOADING]
    if loading:
        names = ", ".join(each.name for each in loading)
        return Outcome("Unknown", Reason.ADAPTERS_LOADING, f"Not in all pods yet: {names}.")
    return Outcome("True", Reason.ADAPTERS_LOADED, f"All pods serve all of {len(statuses)} adapters.")
