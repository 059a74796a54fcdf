"""What limits and the ledger cost a request, in processor time of the gateway and in waiting, without HTTP around them.

    python benchmarks/limits.py --requests 20000

Each line is for one way to keep count: in memory; by Redis where plenty is left, so that requests go ahead; and by
Redis with limits that are always asked for, one request at a time and 32 at once. Processor time is that of this
process alone, so that a busy machine changes it less than seconds. Redis is a server of its own, on a socket.
"""

import argparse
import asyncio
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from ams_common.keys import Policy
from ams_common.request_usage import RequestUsage
from ams_gateway.limits.memory import MemoryLimiter
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.port import Limiter
from ams_gateway.limits.shared import SharedLimiter
from ams_gateway.redis_link import RedisLink
from ams_gateway.usage.kept import KeptLedger
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.port import Entry, Outcome

GENEROUS = Policy(
    id="k-1", name="generous", requests_per_minute=10**9, tokens_per_minute=10**12, concurrent_requests=10**6,
    monthly_tokens=10**14,
)  # fmt: skip
# Of these no part is small enough to go ahead: each request is asked for.
ASKED = Policy(
    id="k-2", name="asked", requests_per_minute=10**9, tokens_per_minute=10**12, concurrent_requests=9,
    monthly_tokens=10**14,
)  # fmt: skip
ASKED_BY_MANY = Policy(id="k-3", name="asked-by-many", requests_per_minute=10**9, tokens_per_minute=100)


async def no_months(key_ids: Sequence[str]) -> dict[str, int]:
    return {}


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(name: str, limiter: Limiter, policy: Policy, requests: int, at_once: int) -> None:
    """Let requests in, read their headers, and settle them."""
    waits: list[float] = []

    async def client(count: int) -> None:
        for _ in range(count):
            begun = time.perf_counter()
            admission = await limiter.admit(policy, 1)
            waits.append(time.perf_counter() - begun)
            assert admission.headers
            admission.settle(0)
            await asyncio.sleep(0)

    await client(100)
    waits.clear()
    begun = processor_seconds()
    await asyncio.gather(*(client(requests // at_once) for _ in range(at_once)))
    spent = processor_seconds() - begun
    waits.sort()
    middle, last = waits[len(waits) // 2] * 1e3, waits[int(len(waits) * 0.99)] * 1e3
    each = spent / len(waits) * 1e6
    print(f"{name:45} {at_once:3} at once  {each:6.1f} µs CPU  p50 {middle:.3f} ms  p99 {last:.3f} ms")


async def run(requests: int, folder: Path) -> None:
    await measure("limits in memory", MemoryLimiter(no_months, LimitMetrics()), GENEROUS, requests, 1)
    ledger = KeptLedger(folder / "usage.db", UsageMetrics(), days=400)
    await ledger.start()
    usage = RequestUsage(prompt_tokens=3, completion_tokens=4, compute_seconds=0.01)
    begun = processor_seconds()
    for _ in range(requests):
        ledger.add(Entry(key_id="k", key_name="k", model="m", outcome=Outcome.ANSWERED, usage=usage))
    print(f"{'an entry of the ledger':45} {'':12} {(processor_seconds() - begun) / requests * 1e6:6.1f} µs CPU")
    await ledger.close()
    if shutil.which("redis-server") is None:
        print("redis-server is not installed: limits by Redis are left out")
        return
    link = RedisLink(f"unix://{folder}/redis.sock")
    await link.start()
    limiter = SharedLimiter(link, no_months, LimitMetrics())
    await limiter.start()
    await measure("limits by Redis, plenty left", limiter, GENEROUS, requests, 1)
    await measure("limits by Redis, plenty left", limiter, GENEROUS, requests, 32)
    await measure("limits by Redis, asked for each request", limiter, ASKED, requests // 4, 1)
    await measure("limits by Redis, asked for each request", limiter, ASKED_BY_MANY, requests, 32)
    await limiter.close()
    await link.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="of each measurement (default 20000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        program = shutil.which("redis-server")
        server = None
        if program is not None:
            command = [program, "--port", "0", "--unixsocket", str(folder / "redis.sock"), "--save", "", "--dir", name]
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            time.sleep(0.5)
        try:
            uvloop.run(run(options.requests, folder))
        finally:
            if server is not None:
                server.kill()
                server.wait()


if __name__ == "__main__":
    main()
