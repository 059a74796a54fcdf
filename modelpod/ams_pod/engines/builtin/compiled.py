"""Whether the compiled kernels are there, which are a package of their own that not every machine has."""

from functools import cache
from importlib.util import find_spec


@cache
def computes_grouped() -> bool:
    """Whether weights are computed with as they are grouped. Otherwise each step unpacks all of them again."""
    return find_spec("ams_kernels") is not None
