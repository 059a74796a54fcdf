"""Looks at the volume with the weights. One on the network may hang: a thread asks, and nobody waits for long."""

import asyncio
import contextlib

from ams_pod.volume import VolumeSpace, space_of


class VolumeWatch:
    """`space` is what was last found; `look` looks again and waits at most a moment for it."""

    def __init__(self, folder: str) -> None:
        self.space: VolumeSpace | None = None
        self._folder = folder
        self._looking: asyncio.Task[None] | None = None

    async def look(self, patience_seconds: float = 0.2) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._looking), patience_seconds)

    async def _look(self) -> None:
        self.space = await asyncio.to_thread(space_of, self._folder)
