"""The families of the builtin engine, one module each, named as its row in `ams_common.families`.

A module has

- `open_family(request: LoadRequest) -> Engine`: the model of a folder, loaded and checked;
- `PRELOAD`: modules that its models import, for the fork server. None may compute or start a thread when imported.

One pod serves one family, so that a module is imported on use.
"""

import importlib
from typing import Any


def family_module(name: str) -> Any:
    """The module that loads and serves the family of this name."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
