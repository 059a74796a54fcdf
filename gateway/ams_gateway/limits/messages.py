"""What gateways tell Redis of their limits, and what they are answered; script.py says what it does with it."""

import msgspec


class UserMessage(msgspec.Struct, array_like=True):
    """A user's part of a message. A limit of 0 doesn't bind.

    `seed_*` is what this gateway last knew, for a Redis that doesn't: levels now, and tokens that the month
    `seed_month` used. `asks` are the tokens of each request that wants in.
    """

    requests_limit: int
    tokens_limit: int
    concurrent_limit: int
    monthly_limit: int
    seed_requests: float
    seed_tokens: float
    seed_month: int
    seed_month_tokens: int
    give_requests: float
    give_tokens: float
    used_tokens: int
    running: int
    asks: list[int]


class Message(msgspec.Struct, array_like=True):
    gateway: str
    number: int
    alive_seconds: int
    leaving: bool
    users: list[UserMessage]


class UserReply(msgspec.Struct, array_like=True):
    """Levels and running requests of other gateways after the message, the month's tokens, and which asks got in."""

    requests: float
    tokens: float
    others: int
    month_tokens: int
    granted: list[int]


class Reply(msgspec.Struct, array_like=True):
    gateways: int
    month: int
    users: list[UserReply]
