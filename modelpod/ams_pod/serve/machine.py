"""What keeps this process from computing: sampled each second from the kernel, and looked up for a stretch of time."""

import asyncio
import os
import threading
import time
from collections import deque
from pathlib import Path

from ams_common.machine_load import (
    MachineSample,
    between,
    parse_cpu_stat,
    parse_pressure,
    parse_schedstat,
    parse_swap,
    stopped_between,
)
from ams_common.timeline import Facts, bounded

_EVERY_SECONDS = 1.0
_FRESH_SECONDS = 0.25  # a look takes some milliseconds, and many requests may end at once
_MOST = 900
_MINUTE = 60.0
_LEAST_SECONDS = 0.5  # of a stretch that is looked up: shorter ones lie within one sample


class MachineWatch:
    """Samples of the last quarter of an hour. For the event loop's thread; `root` is the root of files, for tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._samples: deque[MachineSample] = deque(maxlen=_MOST)
        self._newest: MachineSample | None = None  # it may be one that isn't kept
        self._cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(_EVERY_SECONDS)

    def sample(self) -> None:
        """Keep the state now; once in each _EVERY_SECONDS."""
        self._newest = self._look()
        self._samples.append(self._newest)

    def _look(self) -> MachineSample:
        """The state now."""
        before = self._samples[-1] if self._samples else None
        at, cpu = time.monotonic(), time.process_time()
        stopped = before.stopped_seconds if before is not None else 0.0
        cpu_stat = _cpu_stat(self._root)
        throttled = parse_cpu_stat(cpu_stat) if cpu_stat else None
        delays = self._delays()
        late = stopped_between(before, at, cpu, _EVERY_SECONDS)
        if before is not None and late > 0:  # who waits for a CPU is late too, and isn't stopped
            waited = [delay - before.delays.get(thread, delay) for thread, delay in delays.items()]
            late = max(0.0, late - max(waited, default=0.0))
            if throttled is not None and before.throttled_seconds is not None:
                late = max(0.0, late - (throttled[0] - before.throttled_seconds))
        return MachineSample(
            at=at,
            cpu_seconds=cpu,
            throttled_seconds=throttled[0] if throttled else None,
            throttled_periods=throttled[1] if throttled else None,
            periods=throttled[2] if throttled else None,
            delays=delays,
            memory_stall_seconds=parse_pressure(_read(self._root / "proc/pressure/memory")),
            stopped_seconds=stopped + late,
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            swap_bytes=parse_swap(_read(self._root / "proc/self/status")),
        )

    def during(self, began: float, ended: float) -> Facts:
        """What kept the process from computing from `began` to `ended`, monotonic seconds, as facts of a timeline."""
        if ended - began < _LEAST_SECONDS or not self._samples:
            return {}
        first = last = self._at(ended)
        for sample in reversed(self._samples):
            if sample.at >= ended:
                last = sample
            first = sample
            if sample.at <= began:
                break
        window = last.at - first.at
        if window <= 0:
            return {}
        facts = between(first, last, self._cpus)
        # A stretch within longer samples has its part of what they counted, a stop excepted: that was all in it.
        part = min(1.0, (ended - began) / window)
        for name in ("throttled_seconds", "starved_seconds", "memory_stall_seconds"):
            if isinstance(value := facts.get(name), float):
                facts[name] = round(value * part, 3)
        return bounded(facts)

    def _at(self, ended: float) -> MachineSample:
        """A state that is about as new as `ended`, which is now or has passed."""
        if self._newest is None or self._newest.at < ended - _FRESH_SECONDS:
            self._newest = self._look()
        return self._newest

    def lately(self) -> Facts:
        """The same of the last minute."""
        now = time.monotonic()
        return self.during(now - _MINUTE, now)

    def _delays(self) -> dict[str, float]:
        found = {}
        folder = self._root / "proc/self/task"
        names = {str(thread.native_id): thread.name for thread in threading.enumerate()}
        try:
            threads = os.listdir(folder)
        except OSError:
            return {}
        for thread in threads:
            delay = parse_schedstat(_read(folder / thread / "schedstat"))
            if delay is not None:
                found[f"{thread} {names.get(thread, '')}".strip()] = delay
        return found


def _cpu_stat(root: Path) -> str:
    """What this process's cgroup tells of throttling; empty if nothing."""
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found.append(root / "sys/fs/cgroup" / path.lstrip("/") / "cpu.stat")
        elif "cpu" in controllers.split(","):
            found.append(root / "sys/fs/cgroup" / controllers / path.lstrip("/") / "cpu.stat")
            found.append(root / "sys/fs/cgroup/cpu" / path.lstrip("/") / "cpu.stat")
    found += [root / "sys/fs/cgroup/cpu.stat", root / "sys/fs/cgroup/cpu/cpu.stat"]
    return next((text for path in found if "nr_throttled" in (text := _read(path))), "")


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(1 << 16)
    except OSError:
        return ""
