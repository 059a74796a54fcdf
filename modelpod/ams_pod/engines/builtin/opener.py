"""Opens the builtin engine: torch and transformers are imported here, while the weights come into the page cache."""

import asyncio
from pathlib import Path

from ams_common.families import FAMILIES
from ams_common.pod_settings import ServeSettings

from ams_pod.derived import derived_folder
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.builtin.model.read_ahead import read_ahead
from ams_pod.engines.port import Engine, Publish, ReportPhase

# What every family needs beside its own modules.
_PRELOAD = (
    "ams_pod.engines.builtin.loading",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.integrations.sdpa_attention",
    "transformers.generation.utils",
    "safetensors.torch",
    "tokenizers.decoders",
    "jinja2",
    "ams_pod.engines.builtin.model.prepared",
)


def open_engine(
    folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase, loop: asyncio.AbstractEventLoop
) -> Engine:
    """The `Opener` of the engine port; in the thread that computes, for good."""
    read_ahead(folder, derived_folder(Path(settings.models_dir), folder))
    from ams_pod.engines.builtin.loading import load_engine  # torch and transformers take seconds

    return load_engine(folder, settings, publish, report)


def preload_modules() -> tuple[str, ...]:
    """All that `open_engine` imports, whatever the family."""
    modules = [family_module(row.name) for row in FAMILIES]
    return (*_PRELOAD, *(name for module in modules for name in (module.__name__, *module.PRELOAD)))
