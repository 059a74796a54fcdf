"""The port: what the pod's HTTP side needs of an engine, and all that it knows of one. No torch, no HTTP here.

An engine loads one model and computes for many requests at once. `ams_pod.engines.registry` opens one by its name.
"""

from ams_pod.engines.port.describing import (
    MOST_KEYS,
    OTHER_KEYS,
    Capabilities,
    EngineCounters,
    Feature,
    GpuMemory,
    KeyWork,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    SamplingDefaults,
)
from ams_pod.engines.port.engine import (
    Detokenizer,
    Engine,
    Opener,
    ReportPhase,
)
from ams_pod.engines.port.errors import (
    EngineError,
    EngineRefusal,
    LoadFailed,
    RefusalKind,
    context_exceeded,
)
from ams_pod.engines.port.requests import (
    PLAIN_CHAT,
    ChatOptions,
    Constraint,
    ConstraintKind,
    Degraded,
    Finish,
    Prepared,
    Publish,
    Sampling,
    Sink,
    Ticket,
    TokenEvent,
    TokenLogprobs,
)

__all__ = [
    "MOST_KEYS",
    "OTHER_KEYS",
    "PLAIN_CHAT",
    "Capabilities",
    "ChatOptions",
    "Constraint",
    "ConstraintKind",
    "Degraded",
    "Detokenizer",
    "Engine",
    "EngineCounters",
    "EngineError",
    "EngineRefusal",
    "Feature",
    "Finish",
    "GpuMemory",
    "KeyWork",
    "LoadFailed",
    "MemoryUsage",
    "ModelInfo",
    "Occupancy",
    "Opener",
    "Prepared",
    "Publish",
    "RefusalKind",
    "ReportPhase",
    "Sampling",
    "SamplingDefaults",
    "Sink",
    "Ticket",
    "TokenEvent",
    "TokenLogprobs",
    "context_exceeded",
]
