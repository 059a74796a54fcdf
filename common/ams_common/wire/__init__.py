"""Bodies of the HTTP API: the older server's /generate, OpenAI's /v1, and what the gateway says of itself.

Types that a client sends say what is allowed; msgspec refuses the rest with the field's name (see `parsing`). The
descriptions of the fields are those of the OpenAPI document.
"""

from ams_common.wire.fields import CompletionTokensDetails, FinishReason, PromptTokensDetails, Stop, Usage
from ams_common.wire.generate import GenerateRequest, GenerateResponse, MediaField, ProgressEvent
from ams_common.wire.media import (
    AudioPart,
    ContentPart,
    ImagePart,
    ImageUrl,
    InputAudio,
    MediaIoKwargs,
    PixelBounds,
    PixelSize,
    ProcessorKwargs,
    TextPart,
    Url,
    VideoIoKwargs,
    VideoPart,
)
from ams_common.wire.openai import (
    ChatChoice,
    ChatChunk,
    ChatDeltaChoice,
    ChatMessage,
    ChatRequest,
    ChatResponse,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
    Message,
    StreamOptions,
)
from ams_common.wire.service import (
    HealthResponse,
    ModelCard,
    ModelCounts,
    ModelList,
    ReadyResponse,
    RoutingFields,
)
from ams_common.wire.transcription import (
    TranscriptionDelta,
    TranscriptionDone,
    TranscriptionRequest,
    TranscriptionResponse,
    TranscriptionUsage,
)

__all__ = [
    "AudioPart",
    "ChatChoice",
    "ChatChunk",
    "ChatDeltaChoice",
    "ChatMessage",
    "ChatRequest",
    "ChatResponse",
    "CompletionChoice",
    "CompletionRequest",
    "CompletionResponse",
    "CompletionTokensDetails",
    "ContentPart",
    "FinishReason",
    "GenerateRequest",
    "GenerateResponse",
    "HealthResponse",
    "ImagePart",
    "ImageUrl",
    "InputAudio",
    "MediaField",
    "MediaIoKwargs",
    "Message",
    "ModelCard",
    "ModelCounts",
    "ModelList",
    "PixelBounds",
    "PixelSize",
    "ProcessorKwargs",
    "ProgressEvent",
    "PromptTokensDetails",
    "ReadyResponse",
    "RoutingFields",
    "Stop",
    "StreamOptions",
    "TextPart",
    "TranscriptionDelta",
    "TranscriptionDone",
    "TranscriptionRequest",
    "TranscriptionResponse",
    "TranscriptionUsage",
    "Url",
    "Usage",
    "VideoIoKwargs",
    "VideoPart",
]
