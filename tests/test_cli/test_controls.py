"""Models started and stopped by hand, and the log of their current start-up."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from ams_cli.controls import log_tail
from ams_common.errors import ApiError
from ams_gateway.registry.port import Model
from test_cli.local_fleet import Watched, gone, resource, running


def model(local: Watched) -> Model:
    found = local.fleet.find("m")
    assert found is not None
    return found


async def test_start_and_stop_of_a_model_on_demand(tmp_path: Path) -> None:
    async with running(tmp_path, resource()) as local:
        controls = local.fleet.controls
        controls.start(model(local))
        controls.start(model(local))  # twice is once
        await local.until(lambda: local.steps["m"][-1] == "ready")
        assert (await local.ask())["response"] == "POST /generate"
        assert controls.stop(model(local)).phase == "draining"
        assert local.fleet.backends(model(local)) == ()
        await local.until(lambda: local.steps["m"][-1] == "idle")
        assert await gone(local.starts("serve"))
        controls.stop(model(local))
        assert local.fleet.progress(model(local)).phase == "idle"
        await local.demand()  # a request starts it again
        assert len(local.starts("serve")) == 2


async def test_a_replica_that_was_stopped_stays_so_until_somebody_asks(tmp_path: Path) -> None:
    async with running(tmp_path, resource(on_demand=False)) as local:
        await local.until(lambda: local.steps["m"][-1] == "ready")
        local.fleet.controls.stop(model(local))
        await local.until(lambda: local.steps["m"][-1] == "idle")
        await asyncio.sleep(0.3)
        assert len(local.starts("serve")) == 1
        local.fleet.controls.start(model(local))
        await local.until(lambda: local.steps["m"][-1] == "ready")
        os.kill(local.starts("serve")[-1], signal.SIGKILL)  # from now on it stays as before
        await local.until(lambda: len(local.starts("serve")) == 3)


async def test_a_stop_while_it_loads_ends_it_and_refuses_who_waits(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_SERVE": "slow"})) as local:
        waiting = asyncio.create_task(local.demand())
        await local.until(lambda: local.steps["m"][-1] == "reading")
        local.fleet.controls.stop(model(local))
        with pytest.raises(ApiError, match="m was stopped"):
            await waiting
        await local.until(lambda: local.steps["m"][-1] == "idle")
        assert await gone(local.starts("serve"))
        assert local.steps["m"][-2:] == ["draining", "idle"]
        await asyncio.sleep(0.2)
        assert len(local.starts("serve")) == 1


async def test_a_stop_before_its_process_is_there(tmp_path: Path) -> None:
    async with running(tmp_path, resource()) as local:
        local.fleet.controls.start(model(local))
        await local.until(lambda: "downloading" in local.steps["m"])
        local.fleet.controls.stop(model(local))
        await local.until(lambda: local.steps["m"][-1] == "idle")
        await asyncio.sleep(0.3)
        assert local.starts("serve") == []


async def test_a_start_tries_again_at_once_what_failed(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_DOWNLOAD": "gated,ok"})) as local:
        with pytest.raises(ApiError):
            await local.demand()
        with pytest.raises(ApiError):  # a request is refused for a while
            await local.demand()
        local.fleet.controls.start(model(local))
        await local.until(lambda: local.steps["m"][-1] == "ready")


async def test_what_is_suspended_or_ending_is_not_started(tmp_path: Path) -> None:
    async with running(tmp_path, resource(suspend=True)) as local:
        with pytest.raises(ApiError) as refused:
            local.fleet.controls.start(model(local))
        assert refused.value.code == "suspended"
        assert local.fleet.controls.stop(model(local)).phase == "suspended"
    (other := tmp_path / "other").mkdir()
    async with running(other, resource()) as local:
        local.fleet.drain()
        with pytest.raises(ApiError) as refused:
            local.fleet.controls.start(model(local))
        assert refused.value.code == "draining"


async def test_the_log_is_that_of_the_current_start(tmp_path: Path) -> None:
    async with running(tmp_path, resource(env={"FAKE_DOWNLOAD": "die,ok"})) as local:
        controls = local.fleet.controls
        assert await controls.log(model(local)) == ""
        with pytest.raises(ApiError):
            await local.demand()
        assert "out of cheese" in await controls.log(model(local))
        controls.start(model(local))
        await local.until(lambda: local.steps["m"][-1] == "ready")
        assert await controls.log(model(local)) == "serving m\n"
        controls.stop(model(local))
        await local.until(lambda: local.steps["m"][-1] == "idle")
        await local.demand()
        assert await controls.log(model(local)) == "serving m\n"


def test_the_tail_of_a_log_is_bounded_and_begins_with_a_line(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert log_tail(log, 0) == ""
    log.write_bytes(b"old\n" + b"".join(b"line %d \xff\n" % number for number in range(100)))
    assert log_tail(log, 4).startswith("line 0 \ufffd\n")
    tail = log_tail(log, 4, most=50)
    assert tail.startswith("line 9")
    assert len(tail) < 50
    assert tail.endswith("line 99 \ufffd\n")
    assert log_tail(log, 10**9).startswith("old")  # somebody emptied it
