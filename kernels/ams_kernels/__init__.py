"""Where the compiled library is. Nothing is loaded here: its one user does that, and checks whether it can serve."""

from pathlib import Path

VERSION = 1  # of the C interface in src/kernels.h, and what `ams_version` must return


def library() -> Path | None:
    """The shared library; None where the package was built for another kind of machine."""
    path = Path(__file__).parent / "native.so"
    return path if path.is_file() else None
