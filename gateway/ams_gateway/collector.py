"""Python's collector of reference cycles, kept away from what stays: a pause of it is a pause of every request."""

import gc


def leave_out_what_is_here() -> None:
    """Whatever the process holds by now is never looked at again; call it once everything is imported and started.

    A full collection goes through all that was imported, a hundred thousand objects, for 50 ms, and happens all the
    time in a gateway under load. Requests make no cycles, so that without these objects there is next to nothing to do.
    """
    gc.collect()
    gc.freeze()
