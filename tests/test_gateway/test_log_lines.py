"""What clients write reaches the log as one printable line, whatever it is."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import urllib.request

import pytest
from ams_common.json_lines import JsonLines
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


def test_all_that_a_gateway_logs_is_json_where_that_is_asked_for() -> None:
    """Its own words too: a collector that reads JSON would drop the rest, or end the record of before with it."""
    flags = ["--log-format", "json", "--port", "0", "--host", "127.0.0.1", "--backend", "m=http://127.0.0.1:9"]
    with (
        subprocess.Popen(
            [sys.executable, "-c", "from ams_gateway.main import main; main()", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "AMS_LOG_FROMAT": "json"},
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr)
        assert "did you mean AMS_LOG_FORMAT?" in next(lines)["message"]
        first = next(line for line in lines if line["message"].startswith("listening on"))
        assert (first["level"], first["logger"]) == ("info", "ams_gateway")
        with urllib.request.urlopen(first["message"].split()[2] + "/v1/models", timeout=5) as response:
            response.read()
        process.terminate()
        assert [line["level"] for line in lines][-1:] == ["info"]
        assert process.stdout is not None
        assert [json.loads(line)["route"] for line in process.stdout] == ["/v1/models"]


def test_a_record_with_an_exception_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("ams", logging.ERROR, "f", 1, "it %s\n%d", ("broke", 7), sys.exc_info())
    record.created, record.msecs = 1_700_000_000.25, 250.0
    line = JsonLines().format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("trace").endswith("ValueError: two\nlines")
    assert found == {"time": "2023-11-14T22:13:20.250Z", "level": "error", "logger": "ams", "message": "it broke\n7"}
