"""What a request has while it runs: its place, which it settles when it ends."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from ams_gateway.limits.decide import Bounds, Levels, rate_headers

MonthTokens: TypeAlias = Callable[[Sequence[str]], Awaitable[dict[str, int]]]
"""`Ledger.month_tokens`: what is known of a month that this gateway didn't see from its start."""

_NO_HEADERS: Mapping[str, str] = {}


class Keeper(Protocol):
    """Who gave a place, and takes it back."""

    def settle(self, place: "Place", tokens: int | None) -> None: ...


class Place:
    """An admission of someone who is limited. `account` and `period` are the keeper's own."""

    __slots__ = ("_bounds", "_keeper", "_levels", "account", "period", "reserved", "settled")

    def __init__(
        self, keeper: Keeper, account: Any, reserved: float, bounds: Bounds, levels: Levels, period: object = None
    ) -> None:
        self._keeper = keeper
        self.account = account
        self.reserved = reserved
        self._bounds = bounds
        self._levels = levels
        self.period = period
        self.settled = False

    @property
    def headers(self) -> Mapping[str, str]:
        return rate_headers(self._bounds, self._levels)

    def settle(self, tokens: int | None) -> None:
        if not self.settled:
            self.settled = True
            self._keeper.settle(self, tokens)


class Unlimited:
    """The admission of everyone who isn't limited."""

    __slots__ = ()

    @property
    def headers(self) -> Mapping[str, str]:
        return _NO_HEADERS

    def settle(self, tokens: int | None) -> None:
        pass


UNLIMITED = Unlimited()
