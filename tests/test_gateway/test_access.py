"""Who may use a gateway from a browser: names of the server, origins of pages, and what pages may do unasked."""

from collections.abc import Mapping

import pytest
from ams_common.errors import ApiError
from ams_gateway.front.access import Access
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import FakeRegistry, raw_connection, read_raw_answer

LOCAL = Access("127.0.0.1", (), ())
CLUSTER = Access("0.0.0.0", (), ())
LISTED = Access("0.0.0.0", ("api.example.com", "*.svc"), ("https://app.example.com",))


def refusal(access: Access, method: str = "POST", **headers: str) -> str:
    """The code, "" if it is admitted."""
    try:
        access.admit(method, {name.replace("_", "-"): value for name, value in headers.items()})
    except ApiError as error:
        return f"{error.code}" if error.status == 403 else f"{error.status}"
    return ""


@pytest.mark.parametrize(
    ("access", "host", "admitted"),
    [
        (LOCAL, "127.0.0.1:5000", True),
        (LOCAL, "192.168.1.7:5000", True),
        (LOCAL, "[::1]:5000", True),
        (LOCAL, "localhost", True),
        (LOCAL, "LocalHost.:5000", True),
        (LOCAL, "app.localhost:5000", True),
        (LOCAL, "evil.example:5000", False),
        (LOCAL, "localhost.evil.example", False),
        (LOCAL, "127.0.0.1.evil.example", False),
        (LOCAL, "evil.example@127.0.0.1", True),  # no browser sends this; the host is the address
        (LOCAL, "", False),
        (LOCAL, "[", False),
        (Access("localhost", ("box.lan",), ()), "box.lan:5000", True),
        (Access("::1", (), ()), "evil.example", False),
        (Access("127.0.0.1", ("*",), ()), "evil.example", True),
        (CLUSTER, "ams-gateway.ams.svc", True),
        (CLUSTER, "10.1.2.3:8080", True),
        (LISTED, "10.1.2.3:8080", True),  # probes
        (LISTED, "ams-gateway.ams.svc:80", True),
        (LISTED, "api.example.com", True),
        (LISTED, "other.example.com", False),
        (LISTED, "svc", False),
    ],
)
def test_hosts(access: Access, host: str, admitted: bool) -> None:
    assert refusal(access, Host=host) == ("" if admitted else "host_not_allowed")


LOCAL_HOST = {"Host": "localhost:5000"}
PAGES: list[tuple[Access, str, dict[str, str], bool]] = [
    (LOCAL, "POST", LOCAL_HOST, True),  # curl and clients
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "http://localhost:5000"}, True),
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "http://localhost:5000", "Sec-Fetch-Site": "same-origin"}, True),
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "https://evil.example"}, False),
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, False),
    (LOCAL, "POST", {**LOCAL_HOST, "Origin": "null"}, False),
    (LOCAL, "GET", {**LOCAL_HOST, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
    (LOCAL, "GET", {**LOCAL_HOST, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
    (LOCAL, "POST", {**LOCAL_HOST, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    (LOCAL, "GET", {**LOCAL_HOST, "Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
    (CLUSTER, "POST", {"Host": "ams", "Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}, True),
    (LISTED, "POST", {"Host": "api.example.com", "Origin": "https://app.example.com"}, True),
    (LISTED, "POST", {"Host": "api.example.com", "Origin": "https://api.example.com"}, True),
    (LISTED, "POST", {"Host": "api.example.com", "Origin": "https://evil.example"}, False),
]


@pytest.mark.parametrize(("access", "method", "headers", "admitted"), PAGES)
def test_pages(access: Access, method: str, headers: Mapping[str, str], admitted: bool) -> None:
    assert refusal(access, method, **headers) == ("" if admitted else "origin_not_allowed")


async def test_a_name_pointed_at_this_machine_is_refused_on_every_route(
    start: Start, pod, registry: FakeRegistry
) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry, metrics_port=0)
    for method, path in (
        ("POST", "/generate/m"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("POST", "/admin/emergency_cleanup"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/nope"),
    ):
        async with running.client.request(method, running.url + path, headers={"Host": "evil.example:5000"}) as answer:
            assert (answer.status, "host_not_allowed" in await answer.text()) == (403, True)
    assert backend.connections == 0


SIMPLE = [
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Origin": "https://evil.example"},
]


@pytest.mark.parametrize("headers", SIMPLE, ids=str)
@pytest.mark.parametrize("path", ["/admin/emergency_cleanup", "/admin/cleanup_temp", "/generate/m", "/v1/completions"])
async def test_a_page_changes_nothing_by_a_request_that_no_server_was_asked_for(
    start: Start, pod, registry: FakeRegistry, path: str, headers: dict[str, str]
) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry, allowed_origins="*")
    async with raw_connection(running.port) as (reader, writer):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode())
        answer = await read_raw_answer(reader)
    assert (answer.status, b"unsupported_media_type" in answer.body) == (415, True)
    assert backend.connections == 0


async def test_a_listed_origin_gets_cors_on_answers_errors_and_streams(
    start: Start, pod, registry: FakeRegistry
) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry, allowed_origins="https://app.example.com, http://localhost:3000")
    origin = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}
    for path, status in (("/generate/m", 200), ("/generate/nobody", 404)):
        got, _, headers = await running.post(path, {}, headers=origin)
        assert (got, headers["Access-Control-Allow-Origin"]) == (status, "https://app.example.com")
        assert "Access-Control-Allow-Credentials" not in headers
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,authorization",
    }
    async with running.client.options(running.url + "/generate/m", headers=asked) as preflight:
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Headers"] == "content-type,authorization"
        assert preflight.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST, DELETE"
    async with running.client.options(
        running.url + "/generate/m", headers={**asked, "Origin": "https://evil.example"}
    ) as preflight:
        assert preflight.status == 403
        assert "Access-Control-Allow-Origin" not in preflight.headers


@pytest.mark.parametrize(
    "line", [b"GET /health HTTP/2.0", b"GET /health HTTP/0.9", b"GET /health", b"GET /health HTTP/1.9"]
)
async def test_other_versions_of_http_are_refused(start: Start, registry: FakeRegistry, line: bytes) -> None:
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(line + b"\r\nHost: localhost\r\n\r\n")
        assert (await read_raw_answer(reader)).status == 400
        assert await reader.read() == b""
