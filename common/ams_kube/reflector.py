"""Keep somebody's copy of all objects of a kind up to date: list, watch, and list again when the watch is lost.

An API server that goes away is waited for; what was deleted meanwhile is found by comparing the new list with what was
known before.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Generic, NoReturn

import aiohttp
import msgspec
from ams_common.backoff import backoff_seconds

from ams_kube.client import Client
from ams_kube.errors import Gone, KubeError, Unavailable, error_of_answer, refused_event
from ams_kube.freshness import Freshness
from ams_kube.kinds import Kind, T, key_of
from ams_kube.objects import VersionOnly

log = logging.getLogger(__name__)

_WATCH_SECONDS = 290
_SILENCE_SECONDS = 150.0  # bookmarks come each minute: a connection that is silent for longer is dead
_STEADY_SECONDS = 5.0  # a watch that lasted for longer did not fail
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 3.0


class _WatchEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Reflector(Generic[T]):
    """`take` gets each object that is new or changed, `forget` the key (`namespace/name`) of each that is gone.

    Both are called on the event loop. After the first whole list `synced` is set and stays so. An object that can't
    be decoded, or that `take` fails with, is logged and left as it was known. Only cancelling ends the watch.
    """

    def __init__(
        self,
        client: Client,
        kind: Kind[T],
        take: Callable[[T], None],
        forget: Callable[[str], None],
        *,
        namespace: str | None = None,
        labels: str = "",
        fields: str = "",
    ) -> None:
        self.synced = asyncio.Event()
        self.freshness = Freshness()
        self._client = client
        self._kind = kind
        self._take = take
        self._forget = forget
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._known: dict[str, str] = {}  # key → resource version
        self._decoder = msgspec.json.Decoder(kind.type)
        self._version = ""

    @property
    def kind(self) -> str:
        return self._kind.name

    async def run(self) -> NoReturn:
        """Until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            self.freshness.tried()
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                problem, level = "it ended at once", logging.INFO
            except Gone:
                self._version, problem, level = "", "too old", logging.DEBUG
            except (KubeError, ValueError, RecursionError) as error:
                self._version, problem = "", str(error)
                level = logging.INFO if isinstance(error, Unavailable) else logging.WARNING
            except Exception as error:
                self._version, problem, level = "", repr(error), logging.ERROR
            if time.monotonic() - began >= _STEADY_SECONDS:
                failures = 0
                continue
            failures += 1
            wait = backoff_seconds(failures, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS)
            log.log(level, "watch of %s: %s; again in %.1f s", self._kind.plural, problem, wait)
            await asyncio.sleep(wait)

    async def _list(self) -> None:
        found: set[str] = set()
        version = ""
        async for page in self._client.pages(self._kind, self._namespace, labels=self._labels, fields=self._fields):
            version = page.resource_version
            for raw in page.raw:
                found.add(self._deliver(raw))
            await asyncio.sleep(0)  # thousands of objects must not hold up the loop
        for key in self._known.keys() - found:
            self._drop(key)
        self._version = version
        self.freshness.listed()
        self.synced.set()

    async def _watch(self) -> None:
        """Until the server ends it or the connection breaks; then the next one goes on where this one was."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(_WATCH_SECONDS - random.randrange(60)),
        }
        if self._labels:
            query["labelSelector"] = self._labels
        if self._fields:
            query["fieldSelector"] = self._fields
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_SILENCE_SECONDS)
        response = await self._client.open("GET", self._kind.path(self._namespace), query, timeout=timeout)
        try:
            if response.status != 200:
                raise error_of_answer(response.status, await response.read(), response.headers.get("Retry-After"))
            self.freshness.listed()
            async for line in response.content:
                self.freshness.listed()
                self._handle(msgspec.json.decode(line, type=_WatchEvent))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.info("watch of %s broke off (%s)", self._kind.plural, str(error) or type(error).__name__)
        finally:
            _give_up(response)

    def _handle(self, event: _WatchEvent) -> None:
        if event.type == "ERROR":
            raise refused_event(event.object)
        head = msgspec.json.decode(event.object, type=VersionOnly).metadata
        if event.type == "DELETED":
            self._drop(key_of(head))
        elif event.type != "BOOKMARK":
            self._deliver(event.object)
        self._version = head.resource_version

    def _deliver(self, raw: msgspec.Raw) -> str:
        head = msgspec.json.decode(raw, type=VersionOnly).metadata
        key = key_of(head)
        if self._known.get(key) != head.resource_version:
            try:
                given = self._decoder.decode(raw)
            except (ValueError, RecursionError) as error:
                log.warning("%s %s can't be read: %s", self._kind.name, key, error)
            else:
                try:
                    self._take(given)
                except Exception:  # a mistake over one object must not hide all others
                    log.exception("%s %s was not taken in", self._kind.name, key)
            self._known[key] = head.resource_version
        return key

    def _drop(self, key: str) -> None:
        if self._known.pop(key, None) is not None:
            self._forget(key)


def _give_up(response: aiohttp.ClientResponse) -> None:
    """Close the connection without a farewell, which the server might never answer."""
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.abort()
    response.close()
