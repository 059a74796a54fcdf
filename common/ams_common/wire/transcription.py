"""Bodies of OpenAI's `POST /v1/audio/transcriptions`."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ams_common.wire.fields import Degradable, FinishReason, Temperature


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the form beside `file`; they come as texts."""

    model: Annotated[str, Meta(description="Name or alias of a model that takes audio.")]
    language: Annotated[
        Annotated[str, Meta(pattern="^[A-Za-z]{2,8}([ _-][A-Za-z0-9]{1,8}){0,3}$")] | None,
        Meta(description="A language tag like `en` or `pt-BR`, passed on to the model."),
    ] = None
    prompt: Annotated[
        Annotated[str, Meta(max_length=10_000)] | None,
        Meta(description="Text that precedes the audio, or words to expect."),
    ] = None
    response_format: Annotated[
        Literal["json", "text", "verbose_json", "srt", "vtt"] | None,
        Meta(
            description="`text` for the transcript alone; `verbose_json`, `srt` and `vtt` have the times of the "
            "windows that the audio was heard in, of up to 30 seconds; default `json`."
        ),
    ] = None
    timestamp_granularities: Annotated[
        Literal["segment"] | None, Meta(description="Only `segment`: these models tell no times of words.")
    ] = None
    temperature: Annotated[Temperature | None, Meta(description="0, the default, takes the likeliest token.")] = None
    stream: Annotated[bool | None, Meta(description="`true` for server-sent events.")] = None


class TranscriptionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one transcription."""

    type: Annotated[Literal["tokens"], Meta(description="What is counted.")] = "tokens"
    input_tokens: Annotated[int, Meta(description="Tokens of the audio and the instruction.")]
    output_tokens: Annotated[int, Meta(description="Tokens of the transcript.")]
    total_tokens: Annotated[int, Meta(description="Sum of both.")]


class TranscriptionSegment(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in one window of the audio."""

    id: Annotated[int, Meta(description="Number of the window, from 0.")]
    start: Annotated[float, Meta(description="Where the window begins, in seconds.")]
    end: Annotated[float, Meta(description="Where the window ends, in seconds.")]
    text: Annotated[str, Meta(description="The transcript of the window.")]


class TranscriptionResponse(Degradable, frozen=True, kw_only=True):
    """The transcript, with response_format json or verbose_json."""

    text: Annotated[str, Meta(description="The transcript.")]
    usage: Annotated[TranscriptionUsage, Meta(description="Tokens of audio and transcript.")]
    finish_reason: Annotated[
        FinishReason,
        Meta(description="`stop`, or `length` where a window's transcript was cut off: the model repeats itself."),
    ] = "stop"
    task: Annotated[Literal["transcribe"] | UnsetType, Meta(description="With verbose_json: what was done.")] = UNSET
    language: Annotated[
        str | UnsetType | None, Meta(description="With verbose_json: the language that the request named.")
    ] = UNSET
    duration: Annotated[float | UnsetType, Meta(description="With verbose_json: length of the audio, in seconds.")] = (
        UNSET
    )
    segments: Annotated[
        list[TranscriptionSegment] | UnsetType,
        Meta(description="With verbose_json: the windows that the audio was heard in, in their order."),
    ] = UNSET


class TranscriptionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a streamed transcription."""

    type: Annotated[Literal["transcript.text.delta"], Meta(description="Kind of this event.")] = "transcript.text.delta"
    delta: Annotated[str, Meta(description="What is new of the transcript.")]


class TranscriptionDone(TranscriptionResponse, frozen=True, kw_only=True):
    """The last event of a streamed transcription, with the whole text."""

    type: Annotated[Literal["transcript.text.done"], Meta(description="Kind of this event.")] = "transcript.text.done"
