"""Opens an engine of another make: its prompts are made here, while it loads the weights."""

import asyncio
from pathlib import Path

from ams_common.pod_settings import ServeSettings

from ams_pod.engines.port import Engine, Publish, ReportPhase

# No torch: where an engine computes elsewhere, nothing here has a use for it.
_PRELOAD = (
    "ams_pod.engines.openai.loading",
    "transformers.tokenization_utils_tokenizers",
    "tokenizers.decoders",
    "jinja2",
)


def open_engine(
    folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase, loop: asyncio.AbstractEventLoop
) -> Engine:
    """The `Opener` of the engine port."""
    from ams_pod.engines.openai.loading import load  # transformers' tokenizers take a second

    return load(folder, settings, publish, report, loop)


def preload_modules() -> tuple[str, ...]:
    return _PRELOAD
