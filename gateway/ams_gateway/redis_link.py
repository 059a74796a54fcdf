"""The connection to Redis that limits, ledger and answers share; being away is a state, never an error of a request.

One connection carries the calls of everybody, one behind the other without waiting (Redis answers in order). A call
that takes longer than it may ends the connection: Redis counts as away, callers know at once, and a task in the
background comes back with pauses that grow. Of redis-py this uses the connections alone (addresses, TLS, passwords and
the protocol, parsed by hiredis); its client, which takes a connection from a pool and waits for each answer, costs
several times as much for each call.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hiredis
from ams_common.options import OptionError
from ams_common.printable import printable
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import (
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

logger = logging.getLogger("ams_gateway")

PREFIX = "{ams}:"
"""What all our keys begin with: braces keep them on one node of a cluster, as one script works on many of them."""

SLOW_SECONDS = 0.05  # of a call that a request waits for
_CONNECT_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_STEADY_SECONDS = 30.0  # after so long without a fault, the next pause is the first again
_AT_ONCE_BYTES = 32 << 10  # what a socket and its buffer surely take
_PUNCTUAL_SECONDS = 0.005
_CHANCES = 2  # for an answer that may have come while this process had no time to read it
# Answers that say: not now, or not with these settings, whatever is asked. Older servers wrap what a script ran into.
_AWAY_ERRORS = (ClusterDownError, MasterDownError, MovedError, NoPermissionError, OutOfMemoryError, ReadOnlyError)
_AWAY_CODES = re.compile(r"^(MISCONF|NOREPLICAS|BUSY|TRYAGAIN)\b|-(READONLY|OOM|MISCONF|NOREPLICAS)\b").search


class InvalidRedisUrl(ValueError):
    """An address that can't be used; the message is a sentence without the password."""


class RedisAway(Exception):
    """Redis can't be asked, or gave no answer in time: whether it did what was asked is not known."""


class RedisRefused(RedisAway):
    """Redis answered this one call with an error, and is fine otherwise."""


class Script:
    """A Lua script; its text is sent only to a Redis that doesn't have it yet."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class RedisLink(Collector):
    """A connection that is kept up. Use it on one event loop; `start` and `close` it."""

    def __init__(self, url: str, password: str = "") -> None:
        """InvalidRedisUrl for an address that isn't redis://, rediss:// or unix://. `password` wins over the URL's."""
        self._options, self._class = _options_of(url, password)
        self._password = str(self._options.get("password") or "")
        self.where = _where(self._options)
        self.up = False
        self.reason = "it was not asked yet"
        self.calls = 0
        self.seconds = 0.0
        self.failures: Counter[str] = Counter()
        self._connection: AbstractConnection | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._sending: set[asyncio.Task[None]] = set()  # commands that the socket doesn't take at once
        self._lost: asyncio.Future[str] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[bool], object]] = []

    def listen(self, changed: Callable[[bool], object]) -> None:
        """Call `changed` with True when Redis is there, with False when it is away."""
        self._listeners.append(changed)

    async def start(self) -> None:
        """Connect; a Redis that is away is waited for in the background."""
        first = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(first))
        await first.wait()

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._disconnect("this gateway is stopping")

    async def run(
        self, script: Script, keys: Sequence[str], *args: bytes | str | int, seconds: float = SLOW_SECONDS
    ) -> Any:
        """The answer of a script. RedisAway when Redis is away, or didn't answer within `seconds`."""
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *args, seconds=seconds)
        except _NoScript:  # Redis was started again, or lost its scripts
            return await self.call("EVAL", script.text, len(keys), *keys, *args, seconds=seconds)

    async def call(self, *command: bytes | str | int, seconds: float = SLOW_SECONDS) -> Any:
        """The answer to a command, texts as bytes. RedisAway when Redis is away, or didn't answer within `seconds`."""
        if not self.up:
            raise RedisAway(self.reason)
        return await self._ask(*command, seconds=seconds)

    async def _ask(self, *command: bytes | str | int, seconds: float) -> Any:
        connection = self._connection
        if connection is None:
            raise RedisAway(self.reason)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(answer)
        started = time.perf_counter()
        timer = loop.call_later(seconds, self._expire, answer, seconds, time.monotonic() + seconds, _CHANCES)
        try:
            packed = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means tuples of one
            await self._send(connection, packed)
            reply = await answer
        except (RedisError, OSError) as error:
            self._lose(_sentence(error), "lost")
            raise RedisAway(self._without_secret(_sentence(error))) from None
        finally:
            timer.cancel()
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, also where sending failed before it was waited for
            self.calls += 1
            self.seconds += time.perf_counter() - started
        if isinstance(reply, ResponseError):
            raise self._refused(reply)
        return reply

    async def _send(self, connection: AbstractConnection, packed: bytes) -> None:
        """Write a command. A caller that is cancelled must not leave half of it behind: redis-py then disconnects."""
        if not self._sending and len(packed) < _AT_ONCE_BYTES:
            await connection.send_packed_command(packed, check_health=False)
            return
        task = asyncio.create_task(connection.send_packed_command(packed, check_health=False))
        self._sending.add(task)
        task.add_done_callback(self._sent)
        await asyncio.shield(task)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(_sentence(error), "lost")

    def _refused(self, error: ResponseError) -> RedisAway:
        if isinstance(error, NoScriptError):
            return _NoScript("the script isn't loaded")
        sentence = self._without_secret(_sentence(error))
        if isinstance(error, _AWAY_ERRORS) or _AWAY_CODES(str(error)):
            self._lose(sentence, "unusable")
            return RedisAway(sentence)
        self.failures["refused"] += 1
        return RedisRefused(sentence)

    def _expire(self, answer: "asyncio.Future[Any]", seconds: float, due: float, chances: int) -> None:
        """The time for an answer is over, unless it was this process that had no time to read it."""
        if answer.done():
            return
        late = time.monotonic() - due
        if late < -_PUNCTUAL_SECONDS:  # the loop's clock stands still while it is busy: the timer came too early
            wait = -late
        elif chances:
            chances -= 1
            wait = _PUNCTUAL_SECONDS if late < _PUNCTUAL_SECONDS else seconds
        else:
            self._lose(f"no answer within {seconds * 1000:.0f} ms", "slow")
            return
        due = time.monotonic() + wait
        asyncio.get_running_loop().call_later(wait, self._expire, answer, seconds, due, chances)

    def _lose(self, reason: str, kind: str) -> None:
        """The connection is of no more use. All who wait for an answer know at once."""
        if self._lost is None or self._lost.done():
            return
        self.failures[kind] += 1
        reason = self._without_secret(reason)
        self._lost.set_result(reason)
        self._turn(False, reason)
        self._fail_waiting(reason)

    async def _keep(self, first: asyncio.Event) -> None:
        """Connect, and again whenever the connection is lost."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            since = time.monotonic()
            try:
                reason = await self._hold(first)
            except (RedisError, RedisAway, OSError, TimeoutError, ValueError) as error:
                reason = self._without_secret(_sentence(error))
                self.failures["connect"] += 1
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a fault of the library, or answers that are no Redis'
                logger.debug("the connection to Redis failed", exc_info=True)
                reason = f"{type(error).__name__}: {self._without_secret(_sentence(error))}"
                self.failures["connect"] += 1
            self._turn(False, reason, always=not first.is_set())
            first.set()
            await self._disconnect(reason)
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - since > _STEADY_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _hold(self, first: asyncio.Event) -> str:
        """Connect, and stay until the connection is lost; why it was."""
        self._lost = asyncio.get_running_loop().create_future()
        connection = self._class(**self._options)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise TimeoutError(f"no answer within {_CONNECT_SECONDS:g} s") from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection
        reading = asyncio.create_task(self._read(connection))
        try:
            # Writing tells what reading would not: a replica, a full memory or disk.
            await self._ask("SET", PREFIX + "probe", "1", "EX", 60, seconds=SLOW_SECONDS)
            if not self._lost.done():
                self._turn(True, "")
                first.set()
            return await self._lost
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, connection: AbstractConnection) -> None:
        """Give each answer to who waits for it: they come in the order of the calls."""
        while True:
            try:
                reply = await connection.read_response(disable_decoding=True, disconnect_on_error=False)
            except ResponseError as error:
                reply = error
            except (RedisError, OSError) as error:
                self._lose(_sentence(error), "lost")
                return
            if not self._waiting:
                self._lose("it answered without being asked", "lost")
                return
            if not (answer := self._waiting.popleft()).done():
                answer.set_result(reply)

    async def _disconnect(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        self.up = False
        self._fail_waiting(reason)
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _fail_waiting(self, reason: str) -> None:
        while self._waiting:
            if not (answer := self._waiting.popleft()).done():
                answer.set_exception(RedisAway(reason))

    def _turn(self, up: bool, reason: str, *, always: bool = False) -> None:
        """Note the new state, and say so in one line if it is one."""
        changed, self.up, self.reason = self.up != up, up, reason
        if not changed and not always:
            return
        if up:
            logger.info("Redis at %s is there: gateways share their limits", self.where)
        else:
            logger.warning(
                "Redis at %s is away: %s. Until it is back, this gateway keeps to its own part of the limits",
                self.where,
                reason,
            )
        for listener in self._listeners:
            listener(up)

    def _without_secret(self, text: str) -> str:
        return text.replace(self._password, "***") if self._password else text

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "ams_gateway_redis_up", "Whether Redis can be asked; 0: limits are this gateway's own part.", value=self.up
        )
        yield CounterMetricFamily("ams_gateway_redis_calls", "Calls to Redis.", value=self.calls)
        yield CounterMetricFamily("ams_gateway_redis_seconds", "Time that calls to Redis took.", value=self.seconds)
        failures = CounterMetricFamily(
            "ams_gateway_redis_failures", "Calls and connections to Redis that failed.", labels=("reason",)
        )
        for kind, count in self.failures.items():
            failures.add_metric((kind,), count)
        yield failures


class _NoScript(RedisAway):
    pass


def open_link(url: str, password: str = "") -> RedisLink | None:
    """The link of a gateway's settings, to be started; None without an address. OptionError for a bad one."""
    try:
        return RedisLink(url, password) if url else None
    except InvalidRedisUrl as error:
        raise OptionError(f"--redis-url: {error}") from None


def _options_of(url: str, password: str) -> tuple[dict[str, Any], type[AbstractConnection]]:
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise InvalidRedisUrl("expected redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH") from None
    kind = options.pop("connection_class", Connection)
    if "path" not in options and "host" not in options:
        raise InvalidRedisUrl("expected a host, as in redis://HOST:PORT/DB, or a path, as in unix:///PATH")
    if password:
        options["password"] = password
    # Waiting has its bounds here, not in redis-py; RESP 2 is spoken by all servers, old ones and look-alikes.
    options |= {"socket_timeout": None, "socket_connect_timeout": None, "protocol": 2}
    try:
        kind(**options)
    except (TypeError, ValueError, RedisError) as error:
        raise InvalidRedisUrl(f"it has an option that can't be used ({_sentence(error)})") from None
    return options, kind


def _where(options: dict[str, Any]) -> str:
    return printable(str(options.get("path") or f"{options['host']}:{options.get('port', 6379)}"), 200)


def _sentence(error: BaseException) -> str:
    return printable(str(error).strip().partition("\n")[0], 300).rstrip(".") or type(error).__name__
