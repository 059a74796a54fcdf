"""The OpenAPI document says what the routes do, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.errors import ERRORS
from ams_gateway.openapi import document
from ams_gateway.routes.routing import Route, Scope
from ams_gateway.routes.table import ANY_ERRORS, KEY_ERRORS, ROUTES, client_routes
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import FakeControls, FakeRegistry

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(client_routes(with_metrics=True))))
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    (method.upper(), path): operation for path, item in DOCUMENT["paths"].items() for method, operation in item.items()
}


def raised_in(*packages: str) -> set[str]:
    """Codes of errors that stand as a text in a package's code, the tables of errors and routes left out."""
    return {
        node.value
        for package in packages
        for file in (ROOT / package).rglob("*.py")
        if (file.parent.name, file.name) not in (("ams_common", "errors.py"), ("routes", "table.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ERRORS
    }


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from [value["$ref"]] if "$ref" in value else []
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_it_has_every_route_of_the_clients_port_and_no_internal_one() -> None:
    assert set(OPERATIONS) == {(route.method, route.path) for route in ROUTES if route.scope is not Scope.INTERNAL}
    without_metrics = document(client_routes(with_metrics=False))["paths"]
    assert set(DOCUMENT["paths"]) - set(without_metrics) == {"/metrics"}


def test_every_operation_has_an_id_of_its_own_and_says_what_it_is_for() -> None:
    ids = [operation["operationId"] for operation in OPERATIONS.values()]
    assert len(ids) == len(set(ids))
    assert [
        key for key, operation in OPERATIONS.items() if not (operation["summary"] and operation["description"])
    ] == []


def test_every_field_and_schema_has_a_description() -> None:
    assert [name for name, schema in SCHEMAS.items() if not schema.get("description")] == []
    fields = [
        (name, field, schema) for name, of in SCHEMAS.items() for field, schema in of.get("properties", {}).items()
    ]
    assert [(name, field) for name, field, schema in fields if not schema.get("description")] == []


def test_its_references_lead_somewhere_and_nothing_is_left_over() -> None:
    assert {name.removeprefix("#/components/schemas/") for name in references(DOCUMENT)} == set(SCHEMAS)


def test_bodies_of_chat_transcription_and_admin() -> None:
    chat = OPERATIONS["POST", "/v1/chat/completions"]
    assert chat["requestBody"]["content"] == {"application/json": {"schema": ref("ChatRequest")}}
    assert chat["responses"]["200"]["content"] == {
        "application/json": {"schema": ref("ChatResponse")},
        "text/event-stream": {"schema": ref("ChatChunk")},
    }
    transcription = OPERATIONS["POST", "/v1/audio/transcriptions"]
    assert transcription["requestBody"]["content"] == {"multipart/form-data": {"schema": ref("TranscriptionRequest")}}
    assert transcription["responses"]["200"]["content"] == {
        "application/json": {"schema": ref("TranscriptionResponse")},
        "text/plain": {"schema": {"type": "string"}},
        "text/event-stream": {"schema": {"anyOf": [ref("TranscriptionDelta"), ref("TranscriptionDone")]}},
    }
    form = SCHEMAS["TranscriptionRequest"]
    assert form["required"] == ["file", "model"]
    assert (form["properties"]["file"]["type"], form["properties"]["file"]["format"]) == ("string", "binary")
    memory = OPERATIONS["GET", "/admin/memory_status"]
    assert memory["responses"]["200"]["content"] == {"application/json": {"schema": ref("MemoryStatus")}}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def test_every_code_is_raised_somewhere_and_possible_on_some_route() -> None:
    assert raised_in("gateway", "modelpod", "common", "cli") == set(ERRORS)
    any_route = {"not_found", "method_not_allowed"}  # of requests that reach no operation
    of_keys = {code for codes in KEY_ERRORS.values() for code in codes}
    assert {code for route in ROUTES for code in route.errors} | set(ANY_ERRORS) | of_keys | any_route == set(ERRORS)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_errors_of_a_route_can_be_raised_behind_it(route: Route) -> None:
    behind = ("gateway", "modelpod", "common") if route.request is not None else ("gateway",)
    assert {*ANY_ERRORS, *KEY_ERRORS.get(route.scope, ()), *route.errors} <= raised_in(*behind)
    assert len(route.errors) == len(set(route.errors))


def test_a_status_lists_the_codes_that_it_stands_for() -> None:
    responses = OPERATIONS["GET", "/v1/models/{id}"]["responses"]
    assert set(responses) == {"200", "400", "401", "403", "404", "431", "500", "503"}
    assert responses["404"] == {
        "description": f"- `model_not_found`: {ERRORS['model_not_found'].meaning}",
        "content": {"application/json": {"schema": ref("OpenAIError")}},
    }


@pytest.mark.parametrize(
    "route",
    [
        route
        for route in client_routes(with_metrics=True)
        if route.response and not route.request and not route.path.startswith("/v1/responses/")  # none is kept
    ],
    ids=lambda route: f"{route.method} {route.path}",
)  # fmt: skip
async def test_responses_have_the_type_of_their_route(start: Start, registry: FakeRegistry, route: Route) -> None:
    registry.add("m", modalities=frozenset({"text"}))
    registry.controls = FakeControls()
    running = await start(registry)
    path = route.path.replace("{id}", "m").replace("{model}", "m")
    async with running.client.request(route.method, running.url + path) as response:
        assert response.status == 200
        body = await response.json()
    assert msgspec.to_builtins(msgspec.convert(body, route.response)) == body
