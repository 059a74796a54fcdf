"""Which versions of packages are installed here."""

import importlib.metadata
from functools import cache

PRODUCT = "ai-model-server"


@cache
def installed_version(package: str) -> str:
    """Empty where it isn't installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
