"""What `ams top`, `ams up` and `ams status -w` show of models, on a terminal and without one."""

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from ams_cli import model_table, top, watching
from ams_cli.gateway_client import GatewayError, at_url
from ams_cli.overviews import follow
from ams_cli.screen import models_table
from ams_common.lifecycle import Phase
from ams_common.wire import ErrorOverview, ModelOverview, Overview, PodOverview, UserOverview
from rich.console import Console


def model(name: str, state: Phase, **more: Any) -> ModelOverview:
    return ModelOverview(
        name=name, aliases=[], state=state, pods=more.pop("pods", []), errors=more.pop("errors", []), **more
    )


BUSY = model(
    "smollm2", Phase.READY, replicas=1, ready_replicas=1, in_flight=3, queued=2, tokens_per_second=41.26,
    memory_bytes=890 << 20, pods=[PodOverview(id="p", cache_tokens=30, cache_capacity_tokens=120)],
    errors=[ErrorOverview(time=990, code="queue_full", message="64 requests wait.", help="Try again later.", count=12)],
)  # fmt: skip
COLD = model("qwen-vl", Phase.DOWNLOADING, percent=43.0, eta_seconds=190.0, replicas=1, held=2, message="a\x1b[31mb\nc")


def overview(*models: ModelOverview, at: float = 1000.0) -> Overview:
    return Overview(time=at, version="1", where="local", user=UserOverview(scopes=[]), models=list(models))


@asynccontextmanager
async def a_gateway(*answers: Overview | web.Response, asked: asyncio.Event | None = None) -> AsyncIterator[str]:
    """Gives one event for each overview, and keeps the stream open after the last, when `asked` is set."""

    async def get(request: web.Request) -> web.StreamResponse:
        assert request.headers["Accept"] == "text/event-stream"
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        for answer in answers:
            if isinstance(answer, web.Response):
                return answer
            if not stream.prepared:
                await stream.prepare(request)
            data = b"event: overview\ndata: " + msgspec.json.encode(answer) + b"\n\n: alive\n\n"
            for at in range(0, len(data), 100):  # events come in pieces
                await stream.write(data[at : at + 100])
                await asyncio.sleep(0.01)
        if asked is not None:
            asked.set()
        await asyncio.sleep(30)
        return stream

    app = web.Application()
    app.router.add_get("/overview", get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_cells_tell_what_is_known() -> None:
    assert model_table.cells(BUSY) == ("smollm2", "ready", "1/1", "3 (+2 queued)", "41.3", "25 %", "890.0 MiB", "")
    assert model_table.cells(COLD) == (
        "qwen-vl", "downloading ━━━━━─────── 43 % 3m10s left", "0/1", "0 (+2 held)", "", "", "", "a [31mb c",
    )  # fmt: skip
    assert [model_table.progress_bar(percent).count("━") for percent in (-5, 0, 50, 100, 170)] == [0, 0, 6, 12, 12]


@pytest.mark.parametrize(
    ("order", "first"), [("name", "qwen-vl"), ("tokens", "smollm2"), ("requests", "smollm2"), ("memory", "smollm2")]
)
def test_orders(order: model_table.Order, first: str) -> None:
    assert model_table.ordered([BUSY, COLD], order)[0].name == first


def test_the_table_has_colours_only_on_a_terminal() -> None:
    for terminal in (True, False):
        console = Console(
            width=120, file=io.StringIO(), force_terminal=terminal, color_system="256" if terminal else None
        )
        console.print(models_table([BUSY, COLD]))
        assert isinstance(console.file, io.StringIO)
        assert ("\x1b[" in console.file.getvalue()) is terminal
        assert "41.3" in console.file.getvalue()


async def test_an_overview_is_followed() -> None:
    async with a_gateway(overview(COLD), overview(BUSY, COLD)) as url, at_url(url) as gateway:
        overviews = follow(gateway)
        assert [len((await anext(overviews)).models) for _ in range(2)] == [1, 2]
        await overviews.aclose()


async def test_what_is_no_overview_is_told() -> None:
    refused = web.json_response({"error": "No key."}, status=401)
    async with a_gateway(refused) as url, at_url(url) as gateway:
        with pytest.raises(GatewayError, match=r"No key\. Put a key into AMS_API_KEY"):
            await anext(follow(gateway))
    foreign = web.Response(text="data: {}\n\n", content_type="text/event-stream")
    async with a_gateway(foreign) as url, at_url(url) as gateway:
        with pytest.raises(GatewayError, match="is not AI Model Server's"):
            await anext(follow(gateway))


async def test_one_table_where_nobody_looks() -> None:
    async with a_gateway(overview(BUSY, COLD)) as url, at_url(url) as gateway:
        text = await top.once(gateway, "name")
    assert text.splitlines()[0] == f"2 models, 1 ready, 5 requests, 41.3 tokens/s at {url}"
    assert [line.split()[0] for line in text.splitlines()[2:5]] == ["MODEL", "qwen-vl", "smollm2"]
    assert text.splitlines()[-1] == "smollm2: queue_full 12 times, 10s ago: 64 requests wait. Try again later."


async def test_changes_are_lines() -> None:
    said: list[str] = []
    half = msgspec.structs.replace(COLD, percent=50.0)
    async with a_gateway(overview(BUSY, COLD), overview(BUSY, half), overview(half)) as url, at_url(url) as gateway:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watching.watch_gateway(gateway, None, said.append), 2)
    assert [line.split()[:4] for line in said] == [
        ["MODEL", "STATE", "READY", "MESSAGE"],
        ["smollm2", "ready", "1/1"],
        ["qwen-vl", "downloading", "43", "%"],
        ["qwen-vl", "downloading", "50", "%"],
        ["smollm2", "gone"],
    ]


async def test_a_model_that_is_not_there_can_not_be_watched() -> None:
    async with a_gateway(overview(BUSY)) as url, at_url(url) as gateway:
        with pytest.raises(GatewayError, match="no model 'other'; available: smollm2"):
            await watching.watch_gateway(gateway, "other", lambda _: None)


async def in_a_terminal(*arguments: str, until: str, then: bytes) -> tuple[int, str]:
    """Exit status and output of `ams` with a terminal of 120 × 30, where `then` is typed once it shows `until`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ams_cli.main", *arguments, stdin=theirs, stdout=theirs, stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.set_blocking(ours, False)
    shown, deadline, typed = "", time.monotonic() + 30, False
    while process.returncode is None and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
        try:
            shown += os.read(ours, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            continue
        if not typed and until in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown):
            os.write(ours, then)
            typed = True
    assert process.returncode is not None, shown
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
    return process.returncode, shown


async def test_a_terminal_shows_models_live_until_q_is_typed() -> None:
    async with a_gateway(overview(COLD), overview(BUSY, COLD)) as url:
        status, shown = await in_a_terminal("top", "--url", url, until="queue_full 12 times", then=b"q")
    assert status == 0
    assert "━" in shown
    assert "\x1b[?1049l" in shown  # what was on the screen before is there again


async def test_a_gateway_that_goes_away_is_waited_for() -> None:
    asked = asyncio.Event()
    async with a_gateway(overview(COLD), asked=asked) as url:
        running = asyncio.create_task(in_a_terminal("top", "--url", url, until="trying again", then=b"q"))
        await asyncio.wait_for(asked.wait(), 30)
    assert (await running)[0] == 0


async def test_no_gateway_to_begin_with(unused_tcp_port: int) -> None:
    status, shown = await in_a_terminal("top", "--url", f"http://127.0.0.1:{unused_tcp_port}", until="never", then=b"")
    assert status == 1
    assert "is `ams up` running?" in shown
