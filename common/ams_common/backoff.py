"""How long to wait before the next try, for everything that tries again. Pure: chance comes in as an argument."""


def backoff_seconds(failures: int, chance: float, *, first: float, longest: float) -> float:
    """The wait after `failures` in a row: doubling from `first` to `longest`, less up to a half of it by `chance`.

    `chance` in [0, 1) keeps many clients of one server apart; 1 gives the whole wait.
    """
    whole = min(first * 2.0 ** min(failures - 1, 32), longest)
    return whole * (0.5 + chance / 2)
