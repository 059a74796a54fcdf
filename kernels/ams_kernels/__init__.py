"""Where the compiled library is. Nothing is loaded here: its one user does that, and checks whether it can serve."""

from pathlib import Path


def library() -> Path | None:
    """The shared library; None where the package was built for another kind of machine."""
    path = Path(__file__).parent / "native.so"
    return path if path.is_file() else None
