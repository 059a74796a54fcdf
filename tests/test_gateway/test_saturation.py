"""How full a gateway is, as its metrics tell."""

import asyncio
import time

import pytest
from ams_common.room import Room
from ams_gateway.front.lateness import LoopLateness
from ams_gateway.metrics import is_failure
from ams_gateway.saturation import Saturation
from prometheus_client import CollectorRegistry


def sample(saturation: Saturation, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(saturation)
    return registry.get_sample_value(name, labels)


async def test_a_loop_that_was_blocked_shows() -> None:
    lateness = LoopLateness()
    saturation = Saturation(Room(100, 1000), lateness)
    watching = asyncio.create_task(lateness.watch())
    await asyncio.sleep(0.01)
    assert sample(saturation, "ams_gateway_loop_lag_seconds") < 0.3
    time.sleep(0.6)  # noqa: ASYNC251  # that is the fault
    await asyncio.sleep(0.05)
    lag = sample(saturation, "ams_gateway_loop_lag_seconds")
    watching.cancel()
    assert lag is not None
    assert lag > 0.3


def test_parts_of_limits() -> None:
    room = Room(100, 1000)
    saturation = Saturation(room, LoopLateness())
    saturation.clients = lambda: (5, 20)
    with room.share() as share:
        share.keep(50, 0.0)
        share.put_into_file(900)
        assert sample(saturation, "ams_gateway_saturation_ratio", resource="body-memory") == 0.5
        assert sample(saturation, "ams_gateway_saturation_ratio", resource="spool") == 0.9
        assert sample(saturation, "ams_gateway_saturation_ratio", resource="clients") == 0.25
        assert sample(saturation, "ams_gateway_saturation_limit", resource="clients") == 20


@pytest.mark.parametrize(
    ("code", "error", "failed"),
    [
        (200, "", False),
        (404, "model_not_found", False),
        (429, "queue_full", False),
        (499, "", False),  # the client left
        (500, "", True),  # a pod's own answer, passed on
        (503, "model_loading", True),
        (503, "suspended", False),  # its owner wants it so
        (200, "backend_failed", True),  # in a stream
        (200, "pod_answered_503", True),
        (200, "pod_answered_400", False),
        (200, "context_length_exceeded", False),
    ],
)
def test_what_counts_as_a_failure(code: int, error: str, failed: bool) -> None:
    assert is_failure(code, error) is failed
