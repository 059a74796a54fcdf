"""How a process was kept from computing: read from the kernel's own accounts, as differences between two samples.

Throttling is the CPU quota of its cgroup (`cpu.stat`), starvation is time that a thread was ready to run and had no
CPU (`schedstat`), a stop is a tick that came late while the process used no CPU, pressure is time that it waited for
memory (`/proc/pressure/memory`). Pure: the texts come in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ams_common.timeline import Facts

_LATE_SECONDS = 1.0  # a tick that is less late than this says nothing


@dataclass(frozen=True, slots=True)
class MachineSample:
    """Totals since start, at monotonic time `at`. None is what this machine doesn't tell.

    `delays`: of each thread, seconds in which it could have run and had no CPU. `late_seconds`: how much later than
    meant this sample was taken, all together; of that, `stopped_seconds` are those in which nothing was computed.
    """

    at: float
    cpu_seconds: float = 0.0
    throttled_seconds: float | None = None
    throttled_periods: int | None = None
    periods: int | None = None
    delays: Mapping[str, float] = field(default_factory=dict)
    memory_stall_seconds: float | None = None
    stopped_seconds: float = 0.0
    load_average: float | None = None
    swap_bytes: int | None = None


def parse_cpu_stat(text: str) -> tuple[float, int, int]:
    """(seconds throttled, periods throttled, periods) of a cgroup's `cpu.stat`, in the format of version 1 or 2."""
    values = _numbers(text)
    seconds = values.get("throttled_usec", 0) / 1e6 + values.get("throttled_time", 0) / 1e9
    return seconds, values.get("nr_throttled", 0), values.get("nr_periods", 0)


def parse_schedstat(text: str) -> float | None:
    """Seconds that a thread waited for a CPU, of `/proc/PID/task/TID/schedstat`."""
    parts = text.split()
    return int(parts[1]) / 1e9 if len(parts) >= 2 and parts[1].isdigit() else None


def parse_pressure(text: str) -> float | None:
    """Seconds in which some task waited, of a file of /proc/pressure."""
    for line in text.splitlines():
        if line.startswith("some "):
            total = line.rpartition("total=")[2]
            return int(total) / 1e6 if total.isdigit() else None
    return None


def parse_swap(text: str) -> int | None:
    """Bytes of a process in swap, of `/proc/PID/status`."""
    for line in text.splitlines():
        if line.startswith("VmSwap:"):
            words = line.split()
            return int(words[1]) * 1024 if len(words) > 1 and words[1].isdigit() else None
    return None


def stopped_between(before: MachineSample | None, at: float, cpu_seconds: float, every: float) -> float:
    """For how long the process was stopped before a tick at `at` that was due `every` seconds after the last one.

    A tick that is late because the process itself was busy is no stop: then it used its CPU.
    """
    if before is None:
        return 0.0
    late = at - before.at - every
    if late < _LATE_SECONDS:
        return 0.0
    return max(0.0, late - (cpu_seconds - before.cpu_seconds))


def between(first: MachineSample, last: MachineSample, cpus: int) -> Facts:
    """What kept the process from computing between two samples, as facts of a timeline; zeros are left out."""
    wall = max(0.0, last.at - first.at)
    facts: Facts = {"cpus": cpus, "cpu_seconds": round(last.cpu_seconds - first.cpu_seconds, 3)}
    if first.throttled_seconds is not None and last.throttled_seconds is not None:
        facts["throttled_seconds"] = min(wall, last.throttled_seconds - first.throttled_seconds)
        facts["throttled_periods"] = (last.throttled_periods or 0) - (first.throttled_periods or 0)
        facts["periods"] = (last.periods or 0) - (first.periods or 0)
    delays = [value - first.delays[thread] for thread, value in last.delays.items() if thread in first.delays]
    facts["starved_seconds"] = min(wall, max(delays, default=0.0))
    facts["stopped_seconds"] = min(wall, last.stopped_seconds - first.stopped_seconds)
    if first.memory_stall_seconds is not None and last.memory_stall_seconds is not None:
        facts["memory_stall_seconds"] = min(wall, last.memory_stall_seconds - first.memory_stall_seconds)
    if last.load_average is not None:
        facts["load_average"] = last.load_average
    if last.swap_bytes:
        facts["swap_bytes"] = last.swap_bytes
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in facts.items() if value}


def _numbers(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            found[name] = int(value)
    return found
