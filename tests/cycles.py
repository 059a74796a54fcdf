"""Objects that nothing uses any more and that only Python's collector of reference cycles finds."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def left_to_the_collector(*modules: str) -> Iterator[list[object]]:
    """What the body leaves there, of types of these modules and those below; the list is filled when it ends."""
    found: list[object] = []
    gc.collect()
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found += [each for each in gc.garbage if type(each).__module__.startswith(modules)]
    finally:
        gc.enable()
        gc.set_debug(0)
        gc.garbage.clear()
