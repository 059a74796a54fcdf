"""`GET /admin/usage` and `ams usage`: what was asked for, added up."""

import csv
import io
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from ams_cli import gateway_client, usage
from ams_common.errors import ApiError
from ams_common.keys import KeyFile, Scope
from ams_common.request_usage import RequestUsage
from ams_gateway.usage.port import Entry, Outcome
from ams_gateway.usage.report import Adding, read_query, to_csv
from ams_gateway.usage.sums import Group, Sums
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakeRegistry
from test_gateway.test_keys import TEAM, bearer, door_of, stored

NOW = datetime(2026, 11, 26, 6, 30, tzinfo=UTC).timestamp()
HOUR = int(datetime(2026, 11, 26, 6, tzinfo=UTC).timestamp())
ROWS = [
    (Group(HOUR, "k-1", "old", "m", "answered"), Sums(2, 10, 4, 6, 1, 1_500_000)),
    (Group(HOUR + 3600, "k-1", "team-a", "m", "cut"), Sums(1, 5, 0, 1, 0, 250_000)),
    (Group(HOUR + 86400, "k-2", "=cmd()", "other", "answered"), Sums(1, 1, 0, 1, 0, 1)),
]


def ask(**parameters: str) -> Any:
    return read_query({name.rstrip("_"): value for name, value in parameters.items()}, NOW)


def iso(unix: int) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.parametrize(
    ("parameters", "start", "end"),
    [
        ({}, "2026-11-01T00:00", "2026-11-26T07:00"),
        ({"from_": "2026-10-01", "to": "2026-10-31"}, "2026-10-01T00:00", "2026-11-01T00:00"),
        ({"from_": "2026-11-26T01:30:00+02:00", "to": "2026-11-26T00:00:01Z"}, "2026-11-25T23:00", "2026-11-26T01:00"),
        ({"from_": "2026-11-26T01:30:00 02:00"}, "2026-11-25T23:00", "2026-11-26T07:00"),
        ({"from_": "2026-11-26T06:00:00Z"}, "2026-11-26T06:00", "2026-11-26T07:00"),
    ],
)
def test_times(parameters: dict[str, str], start: str, end: str) -> None:
    query = ask(**parameters)
    assert (iso(query.start), iso(query.end)) == (start, end)


@pytest.mark.parametrize(
    ("parameters", "param", "sentence"),
    [
        ({"from_": "yesterday"}, "from", "from can't be 'yesterday': use a date as 2026-11-26"),
        ({"to": "9999-12-31"}, "to", "to can't be"),
        ({"to": "0001-01-01T00:00:00+23:59"}, "to", "to can't be"),
        ({"from_": "2026-11-27"}, "from", "from must be before to"),
        ({"group": "user"}, "group", "group can't be 'user': use key, model"),
        ({"group": "hour,day"}, "group", "only one of hour, day and month"),
    ],
)
def test_questions_that_make_no_sense(parameters: dict[str, str], param: str, sentence: str) -> None:
    with pytest.raises(ApiError) as refused:
        ask(**parameters)
    assert (refused.value.code, refused.value.param) == ("invalid_parameter", param)
    assert sentence in refused.value.message


def report(rows: Any, query: Any) -> Any:
    adding = Adding(query)
    adding.take(rows[:1])
    adding.take(iter(rows[1:]))
    return adding.report()


def builtins(**parameters: str) -> Any:
    return msgspec.to_builtins(report(ROWS, ask(**parameters)))


def test_groups() -> None:
    by_key = builtins()
    assert by_key["rows"] == [
        {"key": "team-a", "key_id": "k-1", "requests": 3, "prompt_tokens": 15, "cached_tokens": 4,
         "completion_tokens": 7, "media": 1, "compute_seconds": 1.75},
        {"key": "=cmd()", "key_id": "k-2", "requests": 1, "prompt_tokens": 1, "cached_tokens": 0,
         "completion_tokens": 1, "media": 0, "compute_seconds": 1e-6},
    ]  # fmt: skip
    assert by_key["total"] == {
        "requests": 4, "prompt_tokens": 16, "cached_tokens": 4, "completion_tokens": 8, "media": 1,
        "compute_seconds": 1.750001,
    }  # fmt: skip
    assert (by_key["from"], by_key["to"]) == ("2026-11-01T00:00:00Z", "2026-11-26T07:00:00Z")
    rows = builtins(group="day, model")["rows"]
    assert [(row["start"], row["model"], row["requests"]) for row in rows] == [
        ("2026-11-26T00:00:00Z", "m", 3), ("2026-11-27T00:00:00Z", "other", 1),
    ]  # fmt: skip
    assert [row["start"] for row in builtins(group="month")["rows"]] == ["2026-11-01T00:00:00Z"]
    assert [row["start"] for row in builtins(group="hour")["rows"]][:2] == [
        "2026-11-26T06:00:00Z", "2026-11-26T07:00:00Z",
    ]  # fmt: skip
    assert [(row["outcome"], row["requests"]) for row in builtins(group="outcome")["rows"]] == [
        ("answered", 3), ("cut", 1),
    ]  # fmt: skip


def test_csv_is_no_formula() -> None:
    text = to_csv(report(ROWS, ask(group="key,day")))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [
        "start", "key", "key_id", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "media",
        "compute_seconds",
    ]  # fmt: skip
    assert [row["key"] for row in rows] == ["team-a", "'=cmd()"]
    assert rows[0]["compute_seconds"] == "1.75"


def entry(**options: Any) -> Entry:
    values = {
        "key_id": "k-1", "key_name": "team-a", "model": "m", "outcome": Outcome.ANSWERED,
        "usage": RequestUsage(prompt_tokens=3, completion_tokens=2, compute_seconds=0.5),
    }  # fmt: skip
    return Entry(**(values | options))


async def get(running: Running, path: str, **headers: str) -> tuple[int, str, Any]:
    async with running.client.get(running.url + path, headers=headers) as response:
        return response.status, response.headers["Content-Type"], await response.text()


async def test_the_route(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    ledger = running.gateway._ledger
    for _ in range(3):
        ledger.add(entry())
    status, kind, text = await get(running, "/admin/usage")
    assert (status, kind) == (200, "application/json")
    assert msgspec.json.decode(text)["rows"] == [
        {"key": "team-a", "key_id": "k-1", "requests": 3, "prompt_tokens": 9, "cached_tokens": 0,
         "completion_tokens": 6, "media": 0, "compute_seconds": 1.5},
    ]  # fmt: skip
    expected = (
        "model,requests,prompt_tokens,cached_tokens,completion_tokens,media,compute_seconds\r\nm,3,9,0,6,0,1.5\r\n"
    )
    assert await get(running, "/admin/usage?group=model&format=csv") == (200, "text/csv; charset=utf-8", expected)
    assert (await get(running, "/admin/usage?group=model", Accept="text/csv"))[2] == expected
    assert (await get(running, "/admin/usage?group=model", Accept="application/json, text/csv"))[2] != expected
    status, _, text = await get(running, "/admin/usage?since=today")
    assert (status, "There is no 'since' here" in text) == (400, True)
    for query in ("from=x", "group=x", "format=xml", "from=" + "9" * 5000, "&".join(f"{n}=1" for n in range(50))):
        assert (await get(running, "/admin/usage?" + query))[0] == 400, query[:20]
    metrics = await running.metrics()
    assert 'ams_gateway_key_tokens_total{key="team-a",token_type="input"} 9.0' in metrics


async def test_the_route_is_for_admins(start: Start, registry: FakeRegistry, tmp_path: Any) -> None:
    running = await start(registry, door=door_of(tmp_path, KeyFile(keys=(stored("team", TEAM),))))
    assert (await get(running, "/admin/usage"))[0] == 401
    assert (await get(running, "/admin/usage", **bearer(TEAM)))[0] == 403
    admins = door_of(tmp_path, KeyFile(keys=(stored("team", TEAM, scopes=(Scope.ADMIN,)),)))
    running = await start(registry, door=admins)
    assert (await get(running, "/admin/usage", **bearer(TEAM)))[0] == 200


async def test_a_ledger_that_is_away(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry, redis_url="redis://127.0.0.1:1")
    status, _, text = await get(running, "/admin/usage")
    assert status == 503
    details = msgspec.json.decode(text)["details"]
    assert (details["code"], details["retry_after_seconds"]) == ("usage_unavailable", 5.0)


async def test_ams_usage(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    async with gateway_client.at_url(running.url) as gateway:
        assert (await usage.report(gateway, "2026-11-01", "2026-11-02", "", "table")) == (
            "Nothing was used from 2026-11-01T00:00:00Z to 2026-11-03T00:00:00Z."
        )
        running.gateway._ledger.add(entry())
        running.gateway._ledger.add(entry(key_id="k-2", key_name="team-b", model="\x1b[31m", usage=RequestUsage()))
        lines = (await usage.report(gateway, "", "", "key,model", "table")).splitlines()
        assert [line.split() for line in lines] == [
            ["KEY", "MODEL", "REQUESTS", "PROMPT", "CACHED", "COMPLETION", "MEDIA", "COMPUTE"],
            ["team-a", "m", "1", "3", "0", "2", "0", "0.5s"],
            ["team-b", "\\x1b[31m", "1", "0", "0", "0", "0", "0.0s"],
            ["total", "2", "3", "0", "2", "0", "0.5s"],
        ]
        assert '"prompt_tokens": 3' in await usage.report(gateway, "", "", "", "json")
        assert (await usage.report(gateway, "", "", "model", "csv")).splitlines()[1] == "m,1,3,0,2,0,0.5"
        with pytest.raises(gateway_client.GatewayError, match="group can't be 'x'"):
            await usage.report(gateway, "", "", "x", "table")
