"""Notices a model process that hangs: one that doesn't answer, or that says itself that it computes nothing."""

import asyncio
from dataclasses import dataclass

import aiohttp

_MISSES = 3  # in a row: a machine that is busy may be late once


@dataclass(frozen=True, slots=True)
class LivenessSettings:
    """How often a ready process is asked, and how long it may take to answer; in seconds."""

    interval_seconds: float = 5.0
    answer_seconds: float = 10.0


async def until_hung(socket_path: str, settings: LivenessSettings) -> str:
    """Ask the process behind the socket again and again; returns when it hangs, with a sentence that says how."""
    misses = 0
    timeout = aiohttp.ClientTimeout(total=settings.answer_seconds)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket_path), timeout=timeout) as session:
        while True:
            await asyncio.sleep(settings.interval_seconds)
            try:
                async with session.get("http://pod/health") as response:
                    if response.status == 503:
                        return "the process hung: it computed nothing while requests waited"
                    misses = 0
            except TimeoutError:
                misses += 1
            except (aiohttp.ClientError, OSError):
                continue  # it ended, or has no socket yet: whoever started it notices
            if misses == _MISSES:
                seconds = _MISSES * (settings.answer_seconds + settings.interval_seconds)
                return f"the process hung: it didn't answer for {seconds:g} s"
