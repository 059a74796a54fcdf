"""One trace from a client through gateway and pod to a collector: real OTLP over HTTP on loopback, decoded."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from ams_common import genai
from ams_common.options import OptionError
from ams_common.traceparent import CHANCE_BYTES, begin_trace
from ams_tracing import tracer
from ams_tracing.tracer import check_tracing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from test_gateway.gateway_fakes import FakeRegistry
from test_serve.echo_pod import echo_pod
from test_serve.test_why_faults import Asked, chat, gateway

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CHANCE = bytes(range(CHANCE_BYTES))


class Collector:
    """An OTLP receiver: `spans` by (service, name)."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[tuple[str, Any]] = []

    async def take(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for each in sent.resource_spans:
            service = next(a.value.string_value for a in each.resource.attributes if a.key == "service.name")
            self.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]
        return web.Response(content_type="application/x-protobuf")

    def named(self, service: str, name: str) -> Any:
        found = [span for of, span in self.spans if (of, span.name) == (service, name)]
        assert found, f"no {name} of {service} among {[(of, span.name) for of, span in self.spans]}"
        return found[0]


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def traced(folder: Path, ask: Any, ratio: float = 1.0) -> Collector:
    """What a gateway and a pod sent after `ask` asked them."""
    async with collecting() as collector:
        pod_settings = {"otlp_endpoint": collector.url, "trace_sample_ratio": 0.0}
        registry = FakeRegistry()
        async with echo_pod(folder, "text", **pod_settings) as echo:
            registry.add("echo", echo.url)
            async with gateway(registry, otlp_endpoint=collector.url, trace_sample_ratio=ratio) as gate:
                await ask(gate)
        return collector


async def test_one_trace_from_client_to_pod(tmp_path: Path) -> None:
    async def ask(gate: Asked) -> None:
        status, _ = await gate.post(
            chat("echo"), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="vendor=1", X_Request_Id="traced"
        )
        assert status == 200

    found = await traced(tmp_path, ask)
    assert {span.trace_id.hex() for _, span in found.spans} == {TRACE}
    server, send = found.named("ams-gateway", "POST /v1/chat/completions"), found.named("ams-gateway", "send")
    in_pod = found.named("ams-pod", "POST /v1/chat/completions")
    assert server.parent_span_id.hex() == SPAN
    assert send.parent_span_id == server.span_id
    assert in_pod.parent_span_id == send.span_id
    assert len({span.span_id for _, span in found.spans}) == len(found.spans)
    for service, root in (("ams-gateway", server), ("ams-pod", in_pod)):
        for of, span in found.spans:
            if of == service and span is not root:
                assert span.parent_span_id == root.span_id
                assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    assert {span.name for of, span in found.spans if of == "ams-gateway"} >= {"auth", "body", "choose", "send"}
    assert {span.name for of, span in found.spans if of == "ams-pod"} >= {"receive", "prepare", "decode"}
    of_pod = attributes(in_pod)
    assert of_pod[genai.REQUEST_MODEL] == "echo"
    assert of_pod[genai.OPERATION_NAME] == "chat"
    assert of_pod[genai.INPUT_TOKENS] > 0
    assert of_pod[genai.OUTPUT_TOKENS] > 0
    assert attributes(server)[genai.REQUEST_ID] == of_pod[genai.REQUEST_ID] == "traced"
    assert server.trace_state == in_pod.trace_state == "vendor=1"
    assert b"word" not in b"".join(span.SerializeToString() for _, span in found.spans)  # no prompts


async def test_a_trace_begins_at_the_gateway_without_a_client(tmp_path: Path) -> None:
    async def ask(gate: Asked) -> None:
        await gate.post(chat("echo"))

    found = await traced(tmp_path, ask)
    server = found.named("ams-gateway", "POST /v1/chat/completions")
    assert server.parent_span_id == b""
    assert {span.trace_id for _, span in found.spans} == {server.trace_id}
    assert found.named("ams-pod", "decode").trace_id == server.trace_id


@pytest.mark.parametrize(("headers", "ratio"), [({}, 0.0), ({"traceparent": f"00-{TRACE}-{SPAN}-00"}, 1.0)])
async def test_nothing_is_sent_of_what_is_not_sampled(tmp_path: Path, headers: dict[str, str], ratio: float) -> None:
    async def ask(gate: Asked) -> None:
        assert (await gate.post(chat("echo"), **headers))[0] == 200

    assert (await traced(tmp_path, ask, ratio)).spans == []


async def test_failures_are_told(tmp_path: Path) -> None:
    async def ask(gate: Asked) -> None:
        assert (await gate.post({"model": "nobody", "messages": []}))[0] == 404

    server = (await traced(tmp_path, ask)).named("ams-gateway", "POST /v1/chat/completions")
    assert attributes(server)[genai.ERROR_TYPE] == "model_not_found"
    assert attributes(server)[genai.HTTP_STATUS] == 404


async def test_a_collector_that_is_away_costs_nobody_anything(tmp_path: Path) -> None:
    registry = FakeRegistry()
    async with echo_pod(tmp_path, "text") as echo:
        registry.add("echo", echo.url)
        async with gateway(registry, otlp_endpoint="http://127.0.0.1:9") as gate, asyncio.timeout(15):
            for _ in range(5):
                assert (await gate.post(chat("echo")))[0] == 200


HOSTILE = (
    "", "x", "00", f"00-{TRACE}-{SPAN}",
    f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more", f"00-{TRACE}-{SPAN}-zz", "0" * 100_000, "00-é",
    f"00-{TRACE}-{SPAN}-01\r\nX: y",
)  # fmt: skip


@pytest.mark.parametrize("header", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_traceparent_counts_as_none(header: str) -> None:
    context = begin_trace(header, "a=b", 1.0, CHANCE)
    assert (context.trace, context.parent, context.state) == (CHANCE.hex()[:32], "", "")
    assert context.sampled


def test_newer_versions_may_have_more() -> None:
    context = begin_trace(f"01-{TRACE}-{SPAN}-09-more", None, 0.0, CHANCE)
    assert (context.trace, context.parent, context.sampled) == (TRACE, SPAN, True)
    assert context.header == f"00-{TRACE}-{CHANCE.hex()[48:64]}-01"


@pytest.mark.parametrize("state", ["x" * 600, "a=\n", "é"])
def test_a_state_that_can_not_be_passed_on_is_left_out(state: str) -> None:
    assert begin_trace(f"00-{TRACE}-{SPAN}-01", state, 0.0, CHANCE).state == ""


def test_the_ratio_is_of_all_traces() -> None:
    sampled = sum(
        begin_trace(None, None, 0.25, number.to_bytes(8, "big") * 4).sampled
        for number in range(0, 1 << 64, (1 << 64) // 1000)
    )
    assert 240 <= sampled <= 260


@pytest.mark.parametrize("endpoint", ["collector:4318", "ftp://x", "http://", "http://[", "http://x:99999"])
def test_an_endpoint_that_can_not_be_used_is_refused(endpoint: str) -> None:
    with pytest.raises(OptionError, match="expected a URL"):
        check_tracing(endpoint)


def test_without_the_extra_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracer, "_is_installed", lambda name: False)
    with pytest.raises(OptionError, match=r"ai-model-server\[tracing\]"):
        check_tracing("http://collector:4318")
    check_tracing("")


OF_GATEWAY = (
    "from ams_gateway.app import Gateway\n"
    "from ams_gateway.registry.static import StaticRegistry\n"
    "from ams_gateway.settings import GatewaySettings\n"
    "Gateway(StaticRegistry({}), GatewaySettings(host='127.0.0.1'))\n"
)
OF_POD = "import ams_pod.serve.server, ams_pod.serve.pod\n"
SAY = "import sys; print([name for name in sys.modules if name.startswith('{0}')])"


# The package redis, which the gateway has, imports the metrics of OpenTelemetry where it is installed.
@pytest.mark.parametrize(
    ("code", "package"),
    [(OF_POD, "opentelemetry"), (OF_GATEWAY, "opentelemetry.sdk.trace"), (OF_GATEWAY, "opentelemetry.exporter")],
)
def test_off_imports_nothing_of_it(code: str, package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code + SAY.format(package)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
