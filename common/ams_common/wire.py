"""Bodies of the HTTP API: the older server's /generate and OpenAI's /v1.

Types that a client sends say what is allowed; msgspec refuses the rest with the field's name (see `parsing`).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Media = str | list[str] | None
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
TopK = Annotated[int, Meta(ge=0, le=1_000_000)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
NewTokens = Annotated[int, Meta(ge=1, le=2**31)]
Penalty = Annotated[float, Meta(gt=0, le=10)]
StopString = Annotated[str, Meta(min_length=1, max_length=1000)]
Stop = StopString | Annotated[list[StopString], Meta(max_length=16)] | None
FinishReason = Literal["stop", "length"]


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /generate/{model}`. Media are base64 or data URIs. `temperature` 0 is greedy."""

    prompt: str
    image: Media = None
    audio: Media = None
    video: Media = None
    max_new_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stop = None
    repetition_penalty: Penalty | None = None
    system: str | None = None
    stream: bool | None = None
    include_thinking: bool | None = None
    ignore_eos: bool | None = None  # go on past the model's own end, to max_new_tokens: for measuring


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer of /generate; `response` is the older server's field, the rest is additive."""

    response: str
    thinking: str | None = None
    usage: Usage | None = None
    model: str | None = None
    finish_reason: FinishReason | None = None
    model_type: str | None = None
    generation_method: str | None = None
    memory_optimized: bool | None = None
    degraded: str | None = None
    note: str | None = None


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    text: str


class Url(msgspec.Struct, frozen=True):
    url: str


class ImagePart(msgspec.Struct, frozen=True, tag="image_url"):
    image_url: Url


class VideoPart(msgspec.Struct, frozen=True, tag="video_url"):
    video_url: Url


class InputAudio(msgspec.Struct, frozen=True):
    data: str
    format: str | None = None


class AudioPart(msgspec.Struct, frozen=True, tag="input_audio"):
    input_audio: InputAudio


ContentPart = TextPart | ImagePart | VideoPart | AudioPart


class Message(msgspec.Struct, frozen=True):
    """One turn of a chat. `developer` is OpenAI's newer word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and text completions share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stop = None
    repetition_penalty: Penalty | None = None
    ignore_eos: bool | None = None
    n: int | None = None
    # Fields that would change the answer and that this server can't honour: refused when set, never ignored.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None


class ChatRequest(_Sampled, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: NewTokens | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class CompletionRequest(_Sampled, frozen=True, kw_only=True):
    """`POST /v1/completions`. The prompt is one text or one list of token ids; OpenAI also has lists of these."""

    prompt: str | list[str | int | list[int]]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: FinishReason


class _Degradable(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer carries, beside OpenAI's fields, when memory ran out; absent otherwise."""

    degraded: str | UnsetType = UNSET
    note: str | UnsetType = UNSET


class ChatResponse(_Degradable, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDeltaChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: ChatMessage
    logprobs: None = None
    finish_reason: FinishReason | None = None


class ChatChunk(_Degradable, frozen=True, kw_only=True):
    """One SSE event of a streamed chat. `usage` only in the last one, and only if asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatDeltaChoice]
    usage: Usage | None = None


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None = None


class CompletionResponse(_Degradable, frozen=True, kw_only=True):
    """The answer of /v1/completions, and each SSE event of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `POST /v1/audio/transcriptions` beside `file`; they come as texts of a multipart form."""

    model: str
    language: Annotated[str, Meta(pattern="^[A-Za-z]{2,8}([ _-][A-Za-z0-9]{1,8}){0,3}$")] | None = None
    prompt: Annotated[str, Meta(max_length=10_000)] | None = None
    response_format: Literal["json", "text"] | None = None
    temperature: Temperature | None = None
    stream: bool | None = None


class TranscriptionUsage(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["tokens"] = "tokens"
    input_tokens: int
    output_tokens: int
    total_tokens: int


class TranscriptionResponse(_Degradable, frozen=True, kw_only=True):
    """The answer of /v1/audio/transcriptions with response_format json."""

    text: str
    usage: TranscriptionUsage


class TranscriptionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One SSE event of a streamed transcription."""

    type: Literal["transcript.text.delta"] = "transcript.text.delta"
    delta: str


class TranscriptionDone(TranscriptionResponse, frozen=True, kw_only=True):
    """The last SSE event of a streamed transcription, with the whole text."""

    type: Literal["transcript.text.done"] = "transcript.text.done"


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `GET /v1/models`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ai-model-server"


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class _PeekPart(msgspec.Struct, frozen=True):
    type: str = "text"


class _PeekMessage(msgspec.Struct, frozen=True):
    content: str | list[_PeekPart] | None = None


class RoutingFields(msgspec.Struct, frozen=True):
    """What the gateway reads of a /v1 body: where it goes, whether it streams, which modalities it holds."""

    model: str
    stream: bool | None = None
    messages: list[_PeekMessage] = []
