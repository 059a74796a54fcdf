"""What a family loads, with device and number format chosen."""

from dataclasses import dataclass
from pathlib import Path

import torch
from ams_common.pod_settings import ServeSettings

from ams_pod.engines.port import Publish, ReportPhase


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """`publish` and `report` are those of the engine port."""

    folder: Path
    settings: ServeSettings
    device: str
    dtype: torch.dtype
    publish: Publish
    report: ReportPhase
