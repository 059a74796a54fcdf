"""The way of a request's media: text or URL → bytes → arrays, within the pod's bounds.

Work runs in a pool of two threads, which know no torch. A request that is cancelled waits until its thread noticed, so
that nothing is read that is gone.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar, TypeVarTuple

from ams_common.errors import ApiError

from ams_pod.media import decoding
from ams_pod.media.base64text import decoded_base64
from ams_pod.media.budget import ByteBudget, HeldBytes
from ams_pod.media.decoding import DecodeOptions, Encoded, Kind
from ams_pod.media.fair_pool import FairPool
from ams_pod.media.fetch import fetch
from ams_pod.media.items import Decoded
from ams_pod.media.limits import MediaLimits, check_frames
from ams_pod.media.sizing import NO_WISHES, Wishes
from ams_pod.media.spool import Spool, Upload
from ams_pod.media.temp import TempFolder
from ams_pod.media.urls import AllowedHosts, is_url
from ams_pod.media.watch import Watch
from ams_pod.shares import EVERYBODY, Share
from ams_pod.waits import Waits

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Observe = Callable[[Kind, float, int], None]
"""Told of each decoded item: its kind, the seconds that it took, its bytes as it was sent."""

_THREADS = 2
_RETRY_SECONDS = 10.0
_BYTES_PER_PIXEL = 3
_FRAMES_TYPE = "data:video/jpeg"  # frames of a video as JPEGs, with commas between them, as vLLM takes them
_LONGEST_TYPE = 100


@dataclass(frozen=True, slots=True)
class MediaSource:
    """Media as a field of a request holds them: base64, a data URI, or a URL.

    `document` is true where only a PDF is taken, as images of its pages.
    """

    kind: Kind
    field: str
    text: str
    wishes: Wishes = NO_WISHES
    document: bool = False


class Intake:
    """Of one pod, on its event loop. `max_bytes` bounds what one URL may give."""

    def __init__(
        self,
        folder: TempFolder,
        hosts: AllowedHosts,
        max_bytes: int,
        observe: Observe,
        limits: MediaLimits | None = None,
    ) -> None:
        self.folder = folder
        self.limits = limits or MediaLimits()
        self.budget = ByteBudget(self.limits.decoded_bytes)
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._observe = observe
        self._pool = FairPool(_THREADS, "media", spare=1)

    def close(self) -> None:
        self._pool.close()

    def spool(self) -> Spool:
        """A context for the uploads of one request."""
        return Spool(self.folder, self.limits.request_memory_bytes)

    async def in_pool(
        self,
        watch: Watch,
        work: Callable[[*Ts], T],
        *arguments: *Ts,
        share: Share = EVERYBODY,
        waits: Waits | None = None,
    ) -> T:
        """Run in a thread of the pool, when it is the key's turn; on cancellation wait until it has stopped."""
        async with self._pool.turn(share, waits) as threads:
            future = threads.submit(work, *arguments)
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                watch.cancel()
                await _ended(future)
                raise
            except MemoryError:
                raise _no_memory() from None

    async def receive(self, sources: Sequence[MediaSource], spool: Spool, share: Share = EVERYBODY) -> list[Encoded]:
        """The bytes of all sources. ApiError `invalid_base64`, `invalid_parameter` or `media_too_large`."""
        self.check_count(len(sources))
        watch = Watch(self.limits.cpu_seconds)
        return [await self._receive(source, spool, watch, share) for source in sources]

    async def _receive(self, source: MediaSource, spool: Spool, watch: Watch, share: Share) -> Encoded:
        if source.kind == "video" and source.text[:_LONGEST_TYPE].lstrip().lower().startswith(_FRAMES_TYPE):
            frames = source.text.partition(",")[2].split(",")
            check_frames(source.field, len(frames))
            parts = [replace(source, text=text) for text in frames]
            uploads = tuple([await self._upload(part, spool, watch, share) for part in parts])
            return Encoded(source.kind, source.field, uploads[0], source.wishes, frames=uploads)
        upload = await self._upload(source, spool, watch, share)
        return Encoded(source.kind, source.field, upload, source.wishes, document=source.document)

    def check_count(self, items: int) -> None:
        if items > self.limits.items:
            raise ApiError(
                "invalid_parameter", f"The request holds {items} media; at most {self.limits.items} are allowed.",
                limit=self.limits.items, given=items,
            )  # fmt: skip

    @contextlib.asynccontextmanager
    async def decoded(
        self,
        items: Sequence[Encoded],
        options: DecodeOptions,
        share: Share = EVERYBODY,
        waits: Waits | None = None,
    ) -> AsyncIterator[tuple[list[Decoded], HeldBytes]]:
        """The arrays of all items, in order, and the memory they hold: the block gives it back.

        They are decoded one after the other, so that only one of them takes what decoding takes. All images together
        keep at most half of what all requests may. ApiError `undecodable_*` or `media_too_large`; it waits while other
        requests hold too much.
        """
        watch = Watch(self.limits.cpu_seconds)
        if images := sum(item.kind == "image" for item in items):
            most = self.limits.decoded_bytes // 2 // (_BYTES_PER_PIXEL * images)
            options = replace(options, image_pixels=min(most, options.image_pixels or most))
        needs = [
            await self.in_pool(watch, decoding.need, item, options, self.limits, watch, share=share, waits=waits)
            for item in items
        ]
        self.check_count(sum(need.items for need in needs))
        size = sum(need.kept for need in needs) + max((need.working for need in needs), default=0)
        async with self.budget.reserved(size, share) as held:
            media: list[Decoded] = []
            for item, need in zip(items, needs, strict=True):
                made = await self.in_pool(watch, self._decode, item, options, watch, share=share)
                media.append(made)
                if (more := decoding.decoded_bytes(made) - need.kept) > 0 and not held.grow(more):
                    raise _no_memory()  # it is longer than it says, and others hold the rest
            held.shrink(sum(map(decoding.decoded_bytes, media)))
            yield media, held

    def _decode(self, item: Encoded, options: DecodeOptions, watch: Watch) -> Decoded:
        started = time.monotonic()
        media = decoding.decode(item, options, self.limits, watch)
        self._observe(item.kind, time.monotonic() - started, item.upload.bytes)
        return media

    async def _upload(self, source: MediaSource, spool: Spool, watch: Watch, share: Share) -> Upload:
        try:
            if is_url(source.text):
                return await fetch(source.text, source.field, spool.writer(), self._hosts, self.limits, self._max_bytes)
            return await self.in_pool(watch, _take, source, spool, watch, share=share)
        except OSError as error:
            raise ApiError(
                "insufficient_memory",
                f"{source.field}: there is no room for it in the temp folder ({error.strerror}).",
                param=source.field, retry_after=_RETRY_SECONDS,
            ) from error  # fmt: skip


def _no_memory() -> ApiError:
    return ApiError(
        "insufficient_memory", "There is not enough memory to decode the media.", retry_after=_RETRY_SECONDS
    )


def _take(source: MediaSource, spool: Spool, watch: Watch) -> Upload:
    writer = spool.writer()
    for chunk in decoded_base64(source.text, source.field):
        watch.check()
        writer.write(chunk)
    return writer.finish()


async def _ended(future: "Future[T]") -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
