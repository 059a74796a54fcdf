"""Limits of one gateway that shares them with no other."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from ams_common.keys import Policy

from ams_gateway.limits import decide
from ams_gateway.limits.decide import Bounds, Levels, Standing
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.places import UNLIMITED, MonthTokens, Place
from ams_gateway.limits.port import Admission

logger = logging.getLogger("ams_gateway")

_FORGET_SECONDS = 600.0  # a user who didn't come for so long has full buckets, or long debts: those stay
_SWEEP_SECONDS = 60.0
_SEED_SECONDS = 1.0  # that a user's first request may wait for what the month has used


class Account:
    """What is kept of one user. `month_tokens` are those of the month `month`."""

    __slots__ = ("bounds", "levels", "month", "month_end", "month_tokens", "policy", "running", "seen")

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self.bounds: Bounds = decide.bounds_of(policy)
        self.levels: Levels = decide.full(self.bounds, now)
        self.running = 0
        self.month = 0
        self.month_end = 0
        self.month_tokens = 0
        self.seen = now

    def follow(self, policy: Policy) -> None:
        """Take over a policy that changed: what was taken stays taken, and a new limit starts full."""
        old, self.policy = self.bounds, policy
        self.bounds = decide.bounds_of(policy)
        whole = decide.full(self.bounds, self.levels.at)
        self.levels = Levels(
            self.levels.requests if old.requests else whole.requests,
            self.levels.tokens if old.tokens else whole.tokens,
            self.levels.at,
        )

    def turn_month(self, wall: float) -> None:
        """Begin the month that it is at `wall`, in Unix time, if it is a later one."""
        month = decide.month_of(wall)
        self.month_end = month.end
        if month.number > self.month:
            self.month, self.month_tokens = month.number, 0

    def is_idle(self, now: float) -> bool:
        """Whether nothing would be lost with it that a new account wouldn't have."""
        if self.running or now - self.seen < _FORGET_SECONDS:
            return False
        levels = decide.refilled(self.levels, self.bounds, now)
        whole = decide.full(self.bounds, now)
        return levels.requests >= whole.requests and levels.tokens >= whole.tokens


class MemoryLimiter:
    """A Limiter for one gateway. `clock` goes evenly, `wall` is Unix time; both in seconds."""

    def __init__(
        self,
        month_tokens: MonthTokens,
        metrics: LimitMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._month_tokens = month_tokens
        self._metrics = metrics
        self._clock = clock
        self._wall = wall
        self._accounts: dict[str, Account] = {}
        self._seeding: dict[str, asyncio.Task[None]] = {}
        self._swept = clock()
        metrics.months = self.used_months

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        for task in self._seeding.values():
            task.cancel()

    async def admit(self, policy: Policy, tokens: int) -> Admission:
        if not policy.limited:
            return UNLIMITED
        now = self._clock()
        account = self._account(policy, now)
        if (seeding := self._seeding.get(policy.id)) is not None:
            await asyncio.wait((seeding,), timeout=_SEED_SECONDS)
            now = self._clock()
        wall = self._wall()
        if wall >= account.month_end:
            account.turn_month(wall)
        account.seen = now
        account.levels = decide.refilled(account.levels, account.bounds, now)
        standing = Standing(account.levels, account.running, account.month_tokens)
        if not decide.fits(standing, account.bounds, tokens):
            error = decide.refusal(policy, standing, account.bounds, tokens, wall)
            self._metrics.refusals[error.details["limit"]] += 1
            raise error
        account.levels = decide.taken(account.levels, account.bounds, tokens)
        account.running += 1
        return Place(self, account, decide.reserved(account.bounds, tokens), account.bounds, account.levels)

    def settle(self, place: Place, tokens: int | None) -> None:
        account: Account = place.account
        account.running -= 1
        account.levels = decide.refilled(account.levels, account.bounds, self._clock())
        if tokens is None:
            account.levels = decide.added(account.levels, account.bounds, 1, place.reserved)
            return
        account.levels = decide.added(account.levels, account.bounds, 0, place.reserved - tokens)
        if (wall := self._wall()) >= account.month_end:
            account.turn_month(wall)
        account.month_tokens += tokens

    def used_months(self) -> Mapping[str, float]:
        """The part of the month's tokens that is used up, by the key's name."""
        return {
            account.policy.name: account.month_tokens / account.policy.monthly_tokens
            for account in self._accounts.values()
            if account.policy.monthly_tokens is not None
        }

    def _account(self, policy: Policy, now: float) -> Account:
        if now - self._swept > _SWEEP_SECONDS:
            self._sweep(now)
        if (account := self._accounts.get(policy.id)) is None:
            account = self._accounts[policy.id] = Account(policy, now)
        elif account.policy is not policy and account.policy != policy:
            account.follow(policy)
        if policy.monthly_tokens is not None and not account.month:
            account.month = decide.month_of(self._wall()).number
            self._seeding[policy.id] = asyncio.create_task(self._seed(account))
        return account

    async def _seed(self, account: Account) -> None:
        """Learn what was used before this account was made. What is settled meanwhile may be in it or not."""
        try:
            used = (await self._month_tokens((account.policy.id,))).get(account.policy.id, 0)
            account.month_tokens = max(account.month_tokens, used)
        except Exception as error:  # whatever became of the ledger: requests are let in
            logger.warning("what %s used this month can't be read: %s", account.policy.id, error)
        finally:
            self._seeding.pop(account.policy.id, None)

    def _sweep(self, now: float) -> None:
        """Forget users of whom nothing is left to know, so that memory stays bounded by those who come."""
        self._swept = now
        for id_, account in list(self._accounts.items()):
            if account.is_idle(now) and id_ not in self._seeding:
                del self._accounts[id_]
