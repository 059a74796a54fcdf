"""Bodies of `POST /generate/{model}`, the older server's route, and the progress that its streams show."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase
from ams_common.wire.fields import DEGRADED, FINISH_REASON, FinishReason, NewTokens, Usage
from ams_common.wire.media import MmIoKwargs, MmProcessorKwargs
from ams_common.wire.structured import StructuredFields

MediaField = str | list[str] | None


class GenerateRequest(StructuredFields, frozen=True, kw_only=True):
    """A prompt, with media if the model takes them."""

    prompt: Annotated[str, Meta(description="The text to answer; not blank.")]
    image: Annotated[MediaField, Meta(description="Base64 or a data URI, or a list of them.")] = None
    audio: Annotated[MediaField, Meta(description="Base64 or a data URI, or a list of them.")] = None
    video: Annotated[MediaField, Meta(description="Base64 or a data URI, or a list of them.")] = None
    mm_processor_kwargs: MmProcessorKwargs = None
    media_io_kwargs: MmIoKwargs = None
    max_new_tokens: Annotated[
        NewTokens | None,
        Meta(
            description="Longest answer in tokens, as far as the model's limits allow; left out: 256, if they allow it."
        ),
    ] = None
    system: Annotated[
        str | None, Meta(description="Instructions before the prompt; the model's own when left out.")
    ] = None
    stream: Annotated[bool | None, Meta(description="`true` for server-sent events.")] = None
    include_thinking: Annotated[
        bool | None, Meta(description="`true` to return a reasoning model's thoughts in `thinking`.")
    ] = None


class GenerateResponse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer, and each event of a stream: an event's `response` is what is new, the last event has the rest."""

    response: Annotated[str, Meta(description="The text, without a reasoning block.")]
    thinking: Annotated[str | None, Meta(description="The reasoning block, when it was requested.")] = None
    usage: Annotated[Usage | None, Meta(description="Tokens of prompt and answer.")] = None
    model: Annotated[str | None, Meta(description="Name of the model that answered.")] = None
    finish_reason: Annotated[FinishReason | None, Meta(description=FINISH_REASON)] = None
    model_type: Annotated[str | None, Meta(description="Omni models only: `qwen_omni`.")] = None
    generation_method: Annotated[
        str | None, Meta(description="Omni models only: `multimodal_gpu`, `text_cpu` and the like.")
    ] = None
    memory_optimized: Annotated[
        bool | None, Meta(description="Omni models only: whether weights take fewer than 32 bits each.")
    ] = None
    degraded: Annotated[str | None, Meta(description=DEGRADED)] = None
    note: Annotated[
        str | None,
        Meta(description="A sentence: what was reduced, or that the tokens ran out while the model was reasoning."),
    ] = None


class ProgressEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An `event: progress` of a stream whose model is still starting."""

    phase: Annotated[Phase, Meta(description="How far the model is.")]
    percent: Annotated[float | None, Meta(description="Percent of this phase.")] = None
    eta_seconds: Annotated[int | None, Meta(description="Seconds until this phase ends.")] = None
    message: Annotated[str | None, Meta(description="What the model waits for.")] = None
