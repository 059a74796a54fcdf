"""The families, one module each: which class loads it, how a prompt and media become inputs, what it can't do.

Each module has `load(folder, settings, device, dtype, publish, report) -> Runtime`. Modules are imported on use: one
pod serves one family.
"""

import importlib
from typing import Any

MODULES = {
    "text": "ams_pod.engines.builtin.families.text",
    "vision-language": "ams_pod.engines.builtin.families.vision_language",
    "audio-language": "ams_pod.engines.builtin.families.audio_language",
    "omni": "ams_pod.engines.builtin.families.omni",
    "vqa": "ams_pod.engines.builtin.families.vqa",
}


def family_module(name: str) -> Any:
    """The module that loads and serves family `name`, one of `ams_common.families`."""
    return importlib.import_module(MODULES[name])
