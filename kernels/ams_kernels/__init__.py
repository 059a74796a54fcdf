"""Where the compiled libraries are. Nothing is loaded here: their one user does that, and checks which can serve."""

from pathlib import Path

VARIANTS = ("avx512", "avx2")  # kinds of processors, the fastest kernels first


def library(variant: str) -> Path | None:
    """The shared library for one of `VARIANTS`; None where the package was built for another kind of machine."""
    path = Path(__file__).parent / f"{variant}.so"
    return path if path.is_file() else None
