"""What one gateway keeps of a user whose limits it shares with others: a copy, what it owes them, and its own part."""

from typing import NamedTuple

from ams_common.keys import Policy

from ams_gateway.limits import decide
from ams_gateway.limits.decide import Bounds, Levels, Standing
from ams_gateway.limits.messages import UserMessage, UserReply


class Owed(NamedTuple):
    """What Redis is to be told: requests and tokens to give back (below 0: to take), and tokens that were used."""

    requests: float = 0.0
    tokens: float = 0.0
    used: int = 0


NOTHING = Owed()

# A request need not wait for Redis where half of a limit is left and what this gateway let in and didn't tell yet is
# a small part of it: others would have to use that half within the moment until they are told.
_HALF = 0.5
_AHEAD_REQUESTS = 0.01
_AHEAD_TOKENS = 0.05
_AHEAD_CONCURRENT = 0.1
_AHEAD_MONTH = 0.9  # that may be used up
_HEARD_SECONDS = 2.0


class Alone:
    """This gateway's own part of a user's limits while Redis is away.

    `untouched` are the levels as if nobody had come: the difference is what Redis is told when it is back.
    """

    __slots__ = ("bounds", "gateways", "levels", "untouched", "used")

    def __init__(self, bounds: Bounds, levels: Levels, gateways: int) -> None:
        self.bounds = bounds
        self.levels = levels
        self.untouched = levels
        self.gateways = gateways
        self.used = 0

    def refill(self, now: float) -> None:
        self.levels = decide.refilled(self.levels, self.bounds, now)
        self.untouched = decide.refilled(self.untouched, self.bounds, now)


class SharedAccount:
    """A user as this gateway last heard of them, with what it did since; `owed` of it isn't told, `sent` is under way.

    `others` are requests that run at other gateways, `running` here. `ahead` are requests, and `ahead_tokens` what they
    took, that were let in without asking and aren't told.
    """

    __slots__ = (
        "ahead", "ahead_tokens", "alone", "bounds", "heard_at", "levels", "month", "month_tokens", "others", "owed",
        "policy", "running", "seen", "sent",
    )  # fmt: skip

    def __init__(self, policy: Policy, now: float) -> None:
        self.policy = policy
        self.bounds = decide.bounds_of(policy)
        self.levels = decide.full(self.bounds, now)
        self.others = 0
        self.running = 0
        self.month = 0
        self.month_tokens = 0
        self.owed = NOTHING
        self.sent = NOTHING
        self.alone: Alone | None = None
        self.ahead = 0
        self.ahead_tokens = 0.0
        self.heard_at = -1e9
        self.seen = now

    def follow(self, policy: Policy) -> None:
        """Take over a policy that changed; a limit that is new starts full."""
        old, self.policy = self.bounds, policy
        self.bounds = decide.bounds_of(policy)
        whole = decide.full(self.bounds, self.levels.at)
        self.levels = Levels(
            self.levels.requests if old.requests else whole.requests,
            self.levels.tokens if old.tokens else whole.tokens,
            self.levels.at,
        )
        self.come_back()

    def goes_ahead(self, asked: int, now: float) -> bool:
        """Whether a request may be let in before Redis is asked; then it is."""
        if now - self.heard_at > _HEARD_SECONDS or self.alone is not None:
            return False
        bounds, ahead = self.bounds, self.ahead + 1
        levels = decide.refilled(self.levels, bounds, now)
        if (bucket := bounds.requests) is not None and not (
            levels.requests >= _HALF * bucket.capacity and ahead <= _AHEAD_REQUESTS * bucket.capacity
        ):
            return False
        tokens = self.ahead_tokens
        if (bucket := bounds.tokens) is not None:
            tokens += min(asked, bucket.capacity)
            if levels.tokens < _HALF * bucket.capacity or tokens > _AHEAD_TOKENS * bucket.capacity:
                return False
        if (most := bounds.concurrent) is not None and not (
            self.running + self.others < _HALF * most and ahead <= _AHEAD_CONCURRENT * most
        ):
            return False
        if (most := bounds.monthly) is not None and self.month_used() > _AHEAD_MONTH * most:
            return False
        self.ahead, self.ahead_tokens = ahead, tokens
        self.levels = levels
        self.running += 1
        return True

    def owe(self, requests: float, tokens: float, used: int) -> None:
        """This gateway did something that the others aren't told yet."""
        owed = self.owed
        self.owed = Owed(owed.requests + requests, owed.tokens + tokens, owed.used + used)
        self.levels = decide.added(self.levels, self.bounds, requests, tokens)

    def send(self) -> None:
        """What is owed is under way from now on."""
        self.sent, self.owed = self.owed, NOTHING
        self.ahead, self.ahead_tokens = 0, 0.0

    def month_used(self) -> int:
        return self.month_tokens + self.sent.used + self.owed.used

    def standing(self) -> Standing:
        """As last heard, with what was used here since."""
        return Standing(self.levels, self.running + self.others, self.month_used())

    def standing_alone(self, now: float, gateways: int) -> tuple[Standing, Bounds]:
        """This gateway's own part at `now`; of the month it guesses that the others use as much as it does."""
        if self.alone is None:
            bounds = decide.bounds_of(self.policy, gateways)
            levels = decide.refilled(self.levels, self.bounds, now)
            self.alone = Alone(bounds, decide.parted(levels, gateways), gateways)
        alone = self.alone
        alone.refill(now)
        used = self.month_used() + (alone.gateways - 1) * alone.used
        return Standing(alone.levels, self.running, used), alone.bounds

    def come_back(self) -> bool:
        """Redis is there again: owe it what was taken of this gateway's own part. Whether there is anything to tell."""
        alone, self.alone = self.alone, None
        if alone is not None:
            requests = alone.levels.requests - alone.untouched.requests if alone.bounds.requests else 0.0
            tokens = alone.levels.tokens - alone.untouched.tokens if alone.bounds.tokens else 0.0
            self.owe(requests, tokens, 0)
        return self.running > 0 or self.owed != NOTHING

    def message(self, now: float, asks: list[int]) -> UserMessage:
        """What `sent` owes, and who asks."""
        policy, sent, owed = self.policy, self.sent, self.owed
        levels = decide.refilled(self.levels, self.bounds, now)
        # For a Redis that knows nothing: without what it is told besides, or later.
        levels = decide.added(levels, self.bounds, -sent.requests - owed.requests, -sent.tokens - owed.tokens)
        return UserMessage(
            policy.requests_per_minute or 0,
            policy.tokens_per_minute or 0,
            policy.concurrent_requests or 0,
            policy.monthly_tokens or 0,
            levels.requests,
            levels.tokens,
            self.month,
            self.month_tokens,
            sent.requests,
            sent.tokens,
            sent.used,
            self.running,
            asks,
        )

    def hear(self, reply: UserReply, month: int, now: float) -> None:
        """What a message was answered with; what it told is settled."""
        self.sent = NOTHING
        self.heard_at = now
        self.levels = decide.added(
            Levels(reply.requests, reply.tokens, now), self.bounds, self.owed.requests, self.owed.tokens
        )
        self.others = reply.others
        self.month, self.month_tokens = month, reply.month_tokens

    def is_idle(self, now: float, forget_seconds: float) -> bool:
        return (
            not self.running
            and self.alone is None
            and self.owed == NOTHING
            and self.sent == NOTHING
            and now - self.seen > forget_seconds
        )
