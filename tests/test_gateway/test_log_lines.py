"""What clients write reaches the log as one printable line, whatever it is."""

import pytest
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import FakeRegistry, raw_connection, read_raw_answer


@pytest.mark.parametrize(
    "target",
    [b"/\xff\xfe", b"/a\xc3\xa9", b"/generate/\xff", b"/generate/%ff%0a%1b[31m", b"/v1/models/%00", b"/?\xff", b"*"],
    ids=ascii,
)
async def test_any_path_is_answered_and_logged(start: Start, registry: FakeRegistry, target: bytes) -> None:
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target)
        assert (await read_raw_answer(reader)).status in (200, 400, 404, 405)
    assert await running.metrics()
    await running.gateway.close()
    assert all((path := line.get("path", "/")).isprintable() and path.isascii() for line in running.log)
    assert running.log
