"""What a pod says of itself with each answer, so that a gateway gives no kept answer that this pod wouldn't give."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
from ams_common.adapters import AdapterSettings, parse_adapters
from ams_common.pod_settings import ServeSettings
from ams_common.source import parse_source

from ams_pod.contents import contents_of
from ams_pod.engines.port import ModelInfo
from ams_pod.layout import find_adapter
from ams_pod.versions import PRODUCT, installed_version

_CODE = (PRODUCT, "torch", "transformers", "tokenizers")
# Where and how a pod serves; two pods that differ in nothing else answer alike.
_NO_MATTER = frozenset(
    {
        "adapters", "adapters_state", "aliases", "any_name", "concurrent_requests", "debug", "engine_address",
        "engine_log", "engine_sleep_seconds", "fallbacks", "golden_prompts", "grace_seconds", "host", "log_format",
        "max_body_bytes", "models_dir", "port", "queued_requests", "request_timeout_seconds", "source", "stall_seconds",
        "temp_dir", "termination_log", "uds",
    }
)  # fmt: skip


def with_adapters(version: str, adapters: Mapping[str, str]) -> str:
    """The version of a pod that has these adapters loaded, by name with what tells their bytes; itself without any."""
    if not adapters:
        return version
    return hashlib.sha256(msgspec.json.encode([version, sorted(adapters.items())])).hexdigest()[:32]


def answer_version(folder: Path, settings: ServeSettings, info: ModelInfo) -> str:
    """32 hex digits that change with the weights, with settings that change answers, and with the code.

    Weights are told by the hashes of their manifest, or, of a folder that was never checked, by names, sizes and times
    of its files. Blocks for as long as the disk takes to list them.
    """
    parts = {
        "weights": contents_of(folder),
        "adapters": [[each.name, _adapter(each, settings)] for each in parse_adapters(settings.adapters)],
        "settings": {name: value for name, value in msgspec.structs.asdict(settings).items() if name not in _NO_MATTER},
        "model": [info.architecture, info.device, info.precision, info.quantization, info.engine, info.context_tokens],
        "code": [installed_version(name) or "none" for name in _CODE],
    }
    return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()[:32]


def _adapter(adapter: AdapterSettings, settings: ServeSettings) -> list[tuple[str, ...]]:
    found = find_adapter(parse_source(adapter.source), Path(settings.models_dir))
    return [] if found is None else contents_of(found)
