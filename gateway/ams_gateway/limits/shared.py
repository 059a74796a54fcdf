"""Limits that gateways share by Redis: one call for all requests that come in one turn of the event loop.

While a call is under way, what comes waits for the next one; so however many requests there are, Redis is asked a few
thousand times a second at most, and one that is slow makes nobody wait longer than for two calls. Where plenty is left,
a request goes ahead and Redis is told soon after, with what other requests settle. Without Redis, each gateway keeps to
its part of the limits.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping

import msgspec
from ams_common.errors import ApiError
from ams_common.keys import Policy

from ams_gateway.limits import decide
from ams_gateway.limits.decide import Standing
from ams_gateway.limits.messages import Message, Reply, UserMessage
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.places import UNLIMITED, MonthTokens, Place
from ams_gateway.limits.port import Admission
from ams_gateway.limits.script import ALIVE_SECONDS, GATEWAYS, MESSAGES, SCRIPT, USER
from ams_gateway.limits.shared_account import SharedAccount
from ams_gateway.redis_link import RedisAway, RedisLink

logger = logging.getLogger("ams_gateway")

_SETTLE_SECONDS = 0.05  # that what requests settle may wait for a call that goes anyway
_HEARTBEAT_SECONDS = 4.0
_FORGET_SECONDS = 600.0
_SWEEP_SECONDS = 60.0
_SEED_SECONDS = 0.1  # that a user's first request may wait for what the month has used
_MOST_USERS = 200  # of a call, and
_MOST_ASKS = 1000  # requests: Redis does nothing else meanwhile, for about 5 µs each
_REPLY = msgspec.msgpack.Decoder(Reply)


class _Ask:
    __slots__ = ("account", "answer", "tokens")

    def __init__(self, account: SharedAccount, tokens: int, answer: "asyncio.Future[bool | None]") -> None:
        self.account = account
        self.tokens = tokens
        self.answer = answer  # True: let in, False: refused, None: Redis couldn't be asked


class SharedLimiter:
    """A Limiter over Redis. `start` it on the event loop when the link is started, and `close` it before the link."""

    def __init__(
        self,
        link: RedisLink,
        month_tokens: MonthTokens,
        metrics: LimitMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._month_tokens = month_tokens
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._id = os.urandom(6).hex()
        self._number = 0  # of the last message
        self._unanswered: set[SharedAccount] = set()  # whose `sent` may or may not have reached Redis
        self._accounts: dict[str, SharedAccount] = {}
        self._asks: list[_Ask] = []
        self._untold: dict[SharedAccount, None] = {}  # with something to tell
        self._talking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seeding: dict[str, asyncio.Task[None]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._talked = 0.0
        self._swept = clock()
        self._leaving = False
        self._told_of_failure = -1e9
        metrics.months = self.used_months

    async def start(self) -> None:
        self._link.listen(self._link_changed)
        self._beating = asyncio.create_task(self._beat())
        if self._link.up:
            self._wake()

    async def close(self) -> None:
        """Tell Redis what is settled, and that this gateway's places are free."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        for task in self._seeding.values():
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._talking is not None:
            await asyncio.gather(self._talking, return_exceptions=True)
        self._leaving = True
        self._untold |= {account: None for account in self._accounts.values() if account.running}
        if self._link.up:
            await self._talk()

    async def admit(self, policy: Policy, tokens: int) -> Admission:
        if not policy.limited:
            return UNLIMITED
        account = self._account(policy)
        if self._seeding and (seeding := self._seeding.get(policy.id)) is not None:
            await asyncio.wait((seeding,), timeout=_SEED_SECONDS)
        if not self._link.up:
            return self._admit_alone(account, tokens)
        bounds = account.bounds
        reserved = decide.reserved(bounds, tokens)
        if account.goes_ahead(tokens, account.seen):
            self._owe(account, -1.0 if bounds.requests else 0.0, -reserved, 0)
            return Place(self, account, reserved, bounds, account.levels)
        ask = _Ask(account, tokens, asyncio.get_running_loop().create_future())
        self._asks.append(ask)
        if self._talking is None:
            self._wake()
        try:
            granted = await ask.answer
        except asyncio.CancelledError:
            if ask.answer.done() and not ask.answer.cancelled() and ask.answer.result():
                self._give_back(account, tokens)
            raise
        if granted is None:
            return self._admit_alone(account, tokens)
        if granted:
            return Place(self, account, reserved, bounds, account.levels)
        raise self._refused(account.policy, account.standing(), account.bounds, tokens)

    def settle(self, place: Place, tokens: int | None) -> None:
        account: SharedAccount = place.account
        account.running -= 1
        alone = account.alone
        requests, given = (1.0, place.reserved) if tokens is None else (0.0, place.reserved - tokens)
        used = tokens or 0
        if alone is not None and place.period is alone:
            alone.refill(self._clock())
            alone.levels = decide.added(alone.levels, alone.bounds, requests, given)
            alone.used += used
            requests = given = 0.0
        bounds = account.bounds
        self._owe(
            account,
            requests if bounds.requests else 0.0,
            given if bounds.tokens else 0.0,
            used if bounds.monthly is not None else 0,
        )

    def used_months(self) -> Mapping[str, float]:
        """The part of the month's tokens that is used up, by the key's name."""
        return {
            account.policy.name: account.standing().month_tokens / account.policy.monthly_tokens
            for account in self._accounts.values()
            if account.policy.monthly_tokens is not None
        }

    def _admit_alone(self, account: SharedAccount, tokens: int) -> Place:
        """Let in by this gateway's own part of the limits, or ApiError."""
        self._metrics.alone += 1
        standing, bounds = account.standing_alone(self._clock(), self._metrics.gateways)
        if not decide.fits(standing, bounds, tokens):
            raise self._refused(account.policy, standing, bounds, tokens)
        alone = account.alone
        assert alone is not None
        alone.levels = decide.taken(alone.levels, bounds, tokens)
        account.running += 1
        return Place(self, account, decide.reserved(bounds, tokens), bounds, alone.levels, alone)

    def _refused(self, policy: Policy, standing: Standing, bounds: decide.Bounds, tokens: int) -> ApiError:
        error = decide.refusal(policy, standing, bounds, tokens, self._wall())
        self._metrics.refusals[error.details["limit"]] += 1
        return error

    def _give_back(self, account: SharedAccount, tokens: int) -> None:
        """Whoever asked has left before the answer: as if it never came."""
        account.running -= 1
        bounds = account.bounds
        self._owe(account, 1.0 if bounds.requests else 0.0, decide.reserved(bounds, tokens), 0)

    def _owe(self, account: SharedAccount, requests: float, tokens: float, used: int) -> None:
        if requests or tokens or used:
            account.owe(requests, tokens, used)
        elif account.bounds.concurrent is None:
            return
        self._untold[account] = None
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._timer is None and self._talking is None and self._link.up and not self._leaving:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE_SECONDS, self._wake)

    def _account(self, policy: Policy) -> SharedAccount:
        now = self._clock()
        if now - self._swept > _SWEEP_SECONDS:
            self._sweep(now)
        if (account := self._accounts.get(policy.id)) is None:
            account = self._accounts[policy.id] = SharedAccount(policy, now)
        elif account.policy is not policy and account.policy != policy:
            account.follow(policy)
        account.seen = now
        if policy.monthly_tokens is not None and not account.month:
            account.month = decide.month_of(self._wall()).number
            self._seeding[policy.id] = asyncio.create_task(self._seed(account))
        return account

    async def _seed(self, account: SharedAccount) -> None:
        """Learn what the month has used, for a Redis that doesn't know (any more)."""
        try:
            used = (await self._month_tokens((account.policy.id,))).get(account.policy.id, 0)
            account.month_tokens = max(account.month_tokens, used)
        except Exception as error:  # whatever became of the ledger: requests are let in
            logger.warning("what %s used this month can't be read: %s", account.policy.id, error)
        finally:
            self._seeding.pop(account.policy.id, None)

    def _sweep(self, now: float) -> None:
        """Forget users who didn't come for a while, so that memory stays bounded by those who come."""
        self._swept = now
        for id_, account in list(self._accounts.items()):
            if account.is_idle(now, _FORGET_SECONDS) and id_ not in self._seeding:
                del self._accounts[id_]

    def _link_changed(self, up: bool) -> None:
        if not up:
            return
        for account in self._accounts.values():
            if account.come_back():
                self._untold[account] = None
        self._wake()

    async def _beat(self) -> None:
        """Show Redis that this gateway lives, and learn who else does."""
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            if self._link.up and self._clock() - self._talked > _HEARTBEAT_SECONDS / 2:
                self._wake()

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._talking is None and not self._leaving:
            self._talking = asyncio.create_task(self._talk())

    def _leave_alone(self, asks: list[_Ask]) -> None:
        """Nobody goes on asking Redis for these: those who still wait are decided upon here."""
        for ask in asks:
            if not ask.answer.done():
                ask.answer.set_result(None)

    async def _talk(self) -> None:
        """Tell Redis and ask it, until nobody waits any more; at least once, as a sign of life."""
        try:
            while self._link.up:
                asks, self._asks = self._asks[:_MOST_ASKS], self._asks[_MOST_ASKS:]
                try:
                    await self._exchange(asks)
                finally:
                    self._leave_alone(asks)
                much_to_tell = len(self._untold) > (0 if self._leaving else _MOST_USERS)
                if not self._asks and not much_to_tell:
                    break
        except Exception as error:  # whatever it is: requests are let in by this gateway's own part
            self._tell_of_failure(error)
        finally:  # without a pause after the last look at who waits: nobody is left behind
            self._talking = None
            asks, self._asks = self._asks, []
            self._leave_alone(asks)
            if self._untold:
                self._tell_soon()

    async def _exchange(self, asks: list[_Ask]) -> None:
        by_account: dict[SharedAccount, list[_Ask]] = {}
        for ask in asks:
            if not ask.answer.done():
                by_account.setdefault(ask.account, []).append(ask)
                if ask.account.alone is not None and ask.account.come_back():  # only the last call had failed
                    self._untold[ask.account] = None
        self._collect_untold()
        for account in self._unanswered:
            by_account.setdefault(account, [])
        now = self._clock()
        accounts = list(by_account.items())
        users: list[UserMessage] = [
            account.message(now, [ask.tokens for ask in its_asks]) for account, its_asks in accounts
        ]
        message = Message(self._id, self._number, ALIVE_SECONDS, self._leaving, users)
        keys = [GATEWAYS, MESSAGES, *(USER + account.policy.id for account, _ in accounts)]
        answer = await self._link.run(SCRIPT, keys, msgspec.msgpack.encode(message))
        reply = _REPLY.decode(answer if isinstance(answer, bytes) else b"")
        if len(reply.users) != len(accounts):
            raise msgspec.DecodeError("it has another number of users")
        now = self._talked = self._clock()
        self._unanswered.clear()
        self._metrics.gateways = max(1, reply.gateways)
        for (account, its_asks), user in zip(accounts, reply.users, strict=True):
            account.hear(user, reply.month, now)
            for ask, granted in zip(its_asks, user.granted, strict=False):
                self._answer(ask, bool(granted))

    def _answer(self, ask: _Ask, granted: bool) -> None:
        if granted:
            ask.account.running += 1
        if not ask.answer.done():
            ask.answer.set_result(granted)
        elif granted:
            self._give_back(ask.account, ask.tokens)

    def _collect_untold(self) -> None:
        """Make the next message of what is untold, unless the last one has to be sent again."""
        if self._unanswered or not self._untold:
            return
        self._number += 1
        while self._untold and len(self._unanswered) < _MOST_USERS:
            account = next(iter(self._untold))
            del self._untold[account]
            account.send()
            self._unanswered.add(account)

    def _tell_of_failure(self, error: Exception) -> None:
        """Of faults that aren't Redis being away, which the link tells: once a minute."""
        if self._link.up and self._clock() - self._told_of_failure > 60:
            self._told_of_failure = self._clock()
            unforeseen = not isinstance(error, RedisAway | msgspec.DecodeError)
            logger.warning("limits can't be shared by Redis: %s", error, exc_info=error if unforeseen else None)
