"""What kept a pod from computing is looked up for each request, and read from the kernel seldom."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ams_pod.serve.machine import MachineWatch


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[[int], None]:
    """Files in which a thread has waited for a CPU for so many seconds in all."""
    thread = tmp_path / "proc" / "self" / "task" / "1"
    thread.mkdir(parents=True)

    def write(waited: int) -> None:
        (thread / "schedstat").write_text(f"5 {waited * 10**9} 7\n")

    write(0)
    return write


def test_a_wait_for_a_cpu_is_seen(kernel: Callable[[int], None], tmp_path: Path) -> None:
    watch = MachineWatch(tmp_path)
    began = time.monotonic()
    watch.sample()
    kernel(2)
    time.sleep(0.6)  # that is how long the request takes
    facts = watch.during(began, time.monotonic())
    assert facts["starved_seconds"] == pytest.approx(0.6, abs=0.2)  # no longer than it took


def test_many_requests_that_end_at_once_cost_one_look(
    kernel: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = MachineWatch(tmp_path)
    looks = []
    monkeypatch.setattr("ams_pod.serve.machine.parse_swap", lambda text: looks.append(text))
    watch.sample()
    began = time.monotonic()
    for _ in range(2000):
        now = time.monotonic()
        watch.during(now - 1.0, now)
    assert 1 <= len(looks) <= 2 + (time.monotonic() - began) / 0.25
    assert len(watch._samples) == 1  # none of the quarter of an hour is pushed out
