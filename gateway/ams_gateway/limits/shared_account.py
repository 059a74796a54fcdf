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

    def plus(self, requests: float, tokens: float, used: int) -> "Owed":
        return Owed(self.requests + requests, self.tokens + tokens, self.used + used)


NOTHING = Owed()


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
    """A user as this gateway last heard of them. `others` are requests that run at other gateways, `running` here."""

    __slots__ = (
        "alone", "bounds", "levels", "month", "month_tokens", "others", "owed", "policy", "running", "seen",
        "sent",
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

    @property
    def tells(self) -> bool:
        """Whether the end of a request has to be told to others."""
        bounds = self.bounds
        return bounds.concurrent is not None or bounds.tokens is not None or bounds.monthly is not None

    def standing(self) -> Standing:
        """As last heard, with what was used here since."""
        used = self.month_tokens + self.sent.used + self.owed.used
        return Standing(self.levels, self.running + self.others, used)

    def standing_alone(self, now: float, gateways: int) -> tuple[Standing, Bounds]:
        """This gateway's own part at `now`; of the month it guesses that the others use as much as it does."""
        if self.alone is None:
            bounds = decide.bounds_of(self.policy, gateways)
            levels = decide.refilled(self.levels, self.bounds, now)
            for owed in (self.sent, self.owed):
                levels = decide.added(levels, self.bounds, owed.requests, owed.tokens)
            self.alone = Alone(bounds, decide.parted(levels, gateways), gateways)
        alone = self.alone
        alone.refill(now)
        used = self.month_tokens + self.sent.used + self.owed.used + (alone.gateways - 1) * alone.used
        return Standing(alone.levels, self.running, used), alone.bounds

    def come_back(self) -> bool:
        """Redis is there again: owe it what was taken of this gateway's own part. Whether there is anything to tell."""
        alone, self.alone = self.alone, None
        if alone is not None:
            requests = alone.levels.requests - alone.untouched.requests if alone.bounds.requests else 0.0
            tokens = alone.levels.tokens - alone.untouched.tokens if alone.bounds.tokens else 0.0
            self.owed = self.owed.plus(requests, tokens, 0)
        return self.running > 0 or self.owed != NOTHING

    def message(self, now: float, asks: list[int]) -> UserMessage:
        """What `sent` owes, and who asks."""
        policy, levels, sent = self.policy, decide.refilled(self.levels, self.bounds, now), self.sent
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
        self.levels = Levels(reply.requests, reply.tokens, now)
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
