"""What a resource says of adapters that its pods load while they run."""

from typing import Any

import msgspec
import pytest
from ams_common.adapters import AdapterSettings, asked_digest
from ams_common.admin import PodAdapter
from ams_common.resource.status import AdapterStatus, LockStatus, Status
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.status.adapters import adapter_statuses
from ams_operator.decide.status.serving import ServingReport
from plan_objects import NOW, SETTINGS, as_applied, resource
from test_health import SERVING, a_pod

SQL = AdapterSettings("sql", "hf://acme/sql")
FRENCH = AdapterSettings("french", "hf://acme/french")
SPEC = [{"name": each.name, "source": each.source} for each in (SQL, FRENCH)]
ENGINE = {"name": "vllm", "image": "vllm:1"}


def told(adapter: AdapterSettings, state: str = "ready", **more: Any) -> PodAdapter:
    return PodAdapter(name=adapter.name, state=state, asked=asked_digest(adapter), **more)


NO = told(SQL, "failed", reason="ModelNotFound", message="There is no acme/sql.")


@pytest.mark.parametrize(
    ("reports", "state", "ready", "message"),
    [
        ([], "Loading", 0, "No pod serves."),
        ([None], "Loading", 0, "0 of 1 pods have it."),
        ([[told(SQL)]], "Ready", 1, None),
        ([[told(SQL)], [told(SQL)]], "Ready", 2, None),
        ([[told(SQL)], [told(SQL, "loading")], None], "Loading", 1, "1 of 3 pods have it."),
        ([[told(FRENCH)]], "Loading", 0, "0 of 1 pods have it."),
        # What a pod says of another source or lock of that name is nothing about this one.
        ([[msgspec.structs.replace(told(SQL), asked="another")]], "Loading", 0, "0 of 1 pods have it."),
        ([[msgspec.structs.replace(NO, asked="another")]], "Loading", 0, "0 of 1 pods have it."),
        ([[NO]], "Failed", 0, "There is no acme/sql."),
        ([[told(SQL)], [NO]], "Failed", 1, "There is no acme/sql."),
    ],
)
def test_what_becomes_of_an_adapter(reports: list[Any], state: str, ready: int, message: str | None) -> None:
    [found] = adapter_statuses([SQL], reports)
    assert (found.state, found.ready_replicas, found.message) == (state, ready, message)
    assert found.reason == ("ModelNotFound" if state == "Failed" else None)


def test_what_was_known_stays_until_all_pods_were_asked() -> None:
    """An operator that has just begun knows nothing of pods, and nothing has changed."""
    [failed] = adapter_statuses([SQL], [[NO]])
    assert adapter_statuses([SQL], [None], [failed]) == [failed]
    assert adapter_statuses([SQL], [[told(SQL)], None], [failed]) == [failed]
    [ready] = adapter_statuses([SQL], [[told(SQL)], [told(SQL)]], [failed])
    assert ready.state == "Ready"
    assert adapter_statuses([FRENCH], [None], [failed])[0].state == "Loading"


@pytest.mark.parametrize(("generation", "state"), [(1, "Ready"), (0, "Loading")])
def test_what_was_known_is_of_the_same_list(generation: int, state: str) -> None:
    given = resource("hf://acme/tiny", engine=ENGINE, adapters=SPEC[:1])
    status = Status(observed_generation=generation, adapters=[AdapterStatus(name="sql", state="Ready")])
    given = msgspec.structs.replace(given, status=status)
    found = plan(Observed(given, pods=[a_pod("0", SERVING)]), SETTINGS, NOW).status.adapters or ()
    assert [each.state for each in found] == [state]


def test_the_lock_of_an_adapter_is_told() -> None:
    [found] = adapter_statuses([SQL], [[told(SQL, files=2, sha256="ab")]])
    assert found.lock == LockStatus(files=2, sha256="ab")


def decided(adapters: list[dict[str, Any]], *, pods: int = 1, **reports: list[PodAdapter]) -> Decision:
    given = resource("hf://acme/tiny", engine=ENGINE, adapters=adapters)
    made = plan(Observed(given), SETTINGS, NOW)
    running = [a_pod(str(number), SERVING) for number in range(pods)]
    children = {each["kind"]: as_applied(each) for each in made.apply}
    told = {uid.removeprefix("p"): ServingReport(adapters=tuple(each)) for uid, each in reports.items()}
    return plan(Observed(given, children=children, pods=running, serving=told), SETTINGS, NOW)


def condition(decision: Decision, kind: str) -> tuple[str, str, str]:
    found = next(each for each in decision.status.conditions or () if each.type == kind)
    return found.status, found.reason, found.message


def test_a_typo_is_told_and_the_model_stays_ready() -> None:
    decision = decided(SPEC, p0=[NO, told(FRENCH)])
    assert condition(decision, "AdaptersReady") == ("False", "AdapterFailed", "sql: There is no acme/sql.")
    assert condition(decision, "Ready")[0] == "True"
    assert [(each.name, each.state) for each in decision.status.adapters or ()] == [
        ("sql", "Failed"), ("french", "Ready")
    ]  # fmt: skip
    [event] = [each for each in decision.transitions if each.reason == "AdapterFailed"]
    assert (event.type, event.message) == ("Warning", "AdaptersReady: sql: There is no acme/sql.")


def test_adapters_that_are_there_and_on_their_way() -> None:
    assert condition(decided(SPEC, p0=[told(SQL), told(FRENCH)]), "AdaptersReady")[:2] == ("True", "AdaptersLoaded")
    assert condition(decided(SPEC, p0=[told(SQL)]), "AdaptersReady") == (
        "Unknown", "AdaptersLoading", "Not in all pods yet: french."
    )  # fmt: skip
    assert condition(decided(SPEC, pods=0), "AdaptersReady")[:2] == ("Unknown", "AdaptersLoading")


@pytest.mark.parametrize("adapters", [[], [{"name": "sql", "source": "hf://acme/sql?file=sql.gguf"}]])
def test_a_model_whose_pods_have_theirs_from_start_to_end_says_nothing(adapters: list[dict[str, Any]]) -> None:
    engine = {"name": "llamacpp", "image": "llama:1"}
    given = resource("hf://acme/tiny?file=tiny.gguf", engine=engine, adapters=adapters)
    status = plan(Observed(given), SETTINGS, NOW).status
    assert status.adapters is None
    assert "AdaptersReady" not in {each.type for each in status.conditions or ()}


def test_the_types_of_the_resource_take_what_is_told() -> None:
    status = AdapterStatus(name="sql", state="Failed", reason="LockMismatch", message="It differs.")
    assert msgspec.json.decode(msgspec.json.encode(status), type=AdapterStatus) == status
