"""A load of streamed chat completions over HTTP, and what it measured."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

TOPICS = (
    "the history of Rome", "how photosynthesis works", "why the sky is blue", "a recipe for bread",
    "the rules of chess", "how engines work", "what a black hole is", "the life of bees",
)  # fmt: skip
_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_read=300)


@dataclass
class Stream:
    """One answer: when it was asked for, when each piece came (seconds), and how many tokens it had."""

    asked: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""
    error: str = ""

    @property
    def first(self) -> float:
        return self.arrivals[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


@dataclass
class Figures:
    """Of one run of several streams at once."""

    tokens_per_second: float
    first_token_seconds: float  # median over streams
    slowest_first_token_seconds: float
    gap_p99_seconds: float
    tokens: int
    errors: int


def prompt(index: int) -> str:
    more = " Give many details and examples." * (index % 4)
    return f"Please explain {TOPICS[index % len(TOPICS)]} to a child in a clear way.{more}"


def long_prompt(tokens: int) -> str:
    """About `tokens` tokens: one for each short word."""
    words = [f"the {topic.split()[-1]} and" for topic in TOPICS]
    text = " ".join(words[i % len(words)] for i in range(tokens // 3))
    return f"Summarize this: {text}"


def body(model: str, content: str, tokens: int, extra: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True}, **extra,
    }  # fmt: skip


async def stream(session: aiohttp.ClientSession, url: str, request: dict[str, Any]) -> Stream:
    """Ask once and follow the stream to its end."""
    result = Stream(time.perf_counter())
    try:
        async with session.post(f"{url}/v1/chat/completions", json=request) as response:
            if response.status != 200:
                result.error = f"{response.status}: {(await response.text())[:200]}"
                return result
            async for line in response.content:
                if line.startswith(b"data: {"):
                    _take(result, json.loads(line[6:]))
    except (aiohttp.ClientError, TimeoutError) as error:
        result.error = repr(error)
    return result


def _take(result: Stream, event: dict[str, Any]) -> None:
    if usage := event.get("usage"):
        result.tokens = usage["completion_tokens"]
    for choice in event.get("choices", ()):
        if piece := choice.get("delta", {}).get("content"):
            result.arrivals.append(time.perf_counter())
            result.text += piece


async def measure(url: str, requests: Sequence[dict[str, Any]]) -> Figures:
    """All requests at once."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        streams = await asyncio.gather(*(stream(session, url, request) for request in requests))
    good = [s for s in streams if not s.error and s.arrivals]
    for failed in (s for s in streams if s.error):
        print("   ", failed.error)
    if not good:
        return Figures(0, 0, 0, 0, 0, len(streams))
    tokens = sum(s.tokens or len(s.arrivals) for s in good)
    gaps = sorted(gap for s in good for gap in s.gaps) or [0.0]
    return Figures(
        tokens_per_second=tokens / (max(s.arrivals[-1] for s in good) - started),
        first_token_seconds=statistics.median(s.first for s in good),
        slowest_first_token_seconds=max(s.first for s in good),
        gap_p99_seconds=gaps[int(0.99 * (len(gaps) - 1))],
        tokens=tokens,
        errors=len(streams) - len(good),
    )


@dataclass
class Interruption:
    """Gaps of running streams around a long prompt, in seconds."""

    usual_gap: float  # median before it came
    longest_gap: float  # while it was read
    first_token_seconds: float  # of the long prompt

    @property
    def added(self) -> float:
        return self.longest_gap - self.usual_gap


async def interrupt(url: str, running: Sequence[dict[str, Any]], long: dict[str, Any], after: int) -> Interruption:
    """Start `running`, and once each has `after` tokens, send the long prompt."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks, followed = [], []
        for request in running:
            task, result = _follow(session, url, request)
            tasks.append(task)
            followed.append(result)
        while any(len(s.arrivals) < after for s in followed):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        sent = time.perf_counter()
        other = await stream(session, url, long)
        await asyncio.gather(*tasks)
    before = [b - a for s in followed for a, b in zip(s.arrivals, s.arrivals[1:], strict=False) if b < sent]
    during = [
        b - a for s in followed for a, b in zip(s.arrivals, s.arrivals[1:], strict=False)
        if b >= sent and a <= sent + other.first
    ]  # fmt: skip
    if other.error or not other.arrivals:
        raise RuntimeError(f"the long prompt failed: {other.error}")
    return Interruption(statistics.median(before), max(during), other.first)


def _follow(session: aiohttp.ClientSession, url: str, request: dict[str, Any]) -> tuple[asyncio.Task[None], Stream]:
    result = Stream(time.perf_counter())

    async def run() -> None:
        async with session.post(f"{url}/v1/chat/completions", json=request) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    _take(result, json.loads(line[6:]))

    return asyncio.create_task(run()), result
