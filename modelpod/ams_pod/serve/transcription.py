"""`POST /v1/audio/transcriptions`: a form with a file, transcribed by a model that takes audio."""

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.multipart import MultipartReader
from ams_common.errors import ApiError
from ams_common.parsing import explain, with_choices
from ams_common.printable import printable
from ams_common.request_body import ignored_of_form
from ams_common.wire import (
    ChatRequest,
    TranscriptionDelta,
    TranscriptionDone,
    TranscriptionRequest,
    TranscriptionResponse,
    TranscriptionUsage,
)
from ams_common.wire.presence import no_file

from ams_pod.engines.port import Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.items import Audio, content_part
from ams_pod.media.spool import Spool, Upload
from ams_pod.serve.content import unsupported
from ams_pod.serve.degraded import marks
from ams_pod.serve.events import event
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import chosen_adapter
from ams_pod.serve.parameters import sampling_of
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.reading import UPLOAD_SECONDS, check_announced, too_large, upload_timed_out
from ams_pod.serve.transcribing import Outcome, TranscriptionJob, transcribe
from ams_pod.serve.transcripts import Joiner, joined, srt, verbose, vtt

_CHUNK_BYTES = 256 << 10
_TEXT_BYTES = 64 << 10
_PARTS = 64
_LISTS = "[]"  # what ends the name of a field that may come several times
_CONTENT_TYPES = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}
# More tokens than any speech has: a model that goes beyond repeats itself, and would to the end of its context.
_TOKENS_PER_SECOND = 40
_LEAST_TOKENS = 128
_TASK = "Transcribe the speech in the audio word for word. Answer with the transcript only."


async def transcriptions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    modalities = pod.check_room(request[SHARE]).capabilities.modalities
    if "audio" not in modalities:
        raise unsupported("audio", "file", modalities, pod.settings.name)
    with pod.intake.spool() as spool:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                upload, texts = await _read_form(request, pod, spool)
        except TimeoutError:
            raise upload_timed_out() from None
        fields, ignored = _fields(texts), ignored_of_form(texts, TranscriptionRequest)
        adapter = chosen_adapter(request, fields.model)
        if fields.stream and fields.response_format not in (None, "json", "text"):
            raise ApiError(
                "invalid_parameter", f"response_format: {fields.response_format} can't be streamed; use json.",
                param="response_format",
            )  # fmt: skip

        if fields.timestamp_granularities and fields.response_format != "verbose_json":
            raise ApiError(
                "invalid_parameter", "timestamp_granularities: only with response_format verbose_json.",
                param="timestamp_granularities",
            )  # fmt: skip

        def prepare(engine: Engine, window: Audio) -> Prepared:
            content = [content_part(window), {"type": "text", "text": _task(fields)}]
            prepared = engine.prepare_chat([{"role": "user", "content": content}])
            return replace(prepared, text_only=None)  # without the sound there is nothing to transcribe

        def sampling(engine: Engine, prepared: Prepared, seconds: float) -> Sampling:
            as_chat = ChatRequest(model=fields.model, messages=[], temperature=fields.temperature or 0.0)
            cap = _LEAST_TOKENS + int(seconds * _TOKENS_PER_SECOND)
            return replace(sampling_of(as_chat, None, engine.info, cap, len(prepared.ids)), adapter=adapter)

        job = TranscriptionJob(
            file=Encoded("audio", "file", upload),
            spool=spool,
            prepare=prepare,
            sampling=sampling,
            format=_TranscriptionFormat(fields),
            stream=bool(fields.stream),
            ignored=ignored,
        )
        return await transcribe(request, job)


def _task(fields: TranscriptionRequest) -> str:
    sentences = [_TASK]
    if fields.language:
        sentences.append(f"The language is {fields.language}.")
    if fields.prompt:
        sentences.append(f"It goes on from this text, or uses such words: {fields.prompt}")
    return " ".join(sentences)


async def _read_form(request: web.Request, pod: ModelPod, spool: Spool) -> tuple[Upload, dict[str, str]]:
    """The file, kept in the spool as it comes, and the other fields."""
    if request.content_type != "multipart/form-data":
        raise ApiError(
            "unsupported_media_type",
            f"The body must be a form: send Content-Type: multipart/form-data, not {request.content_type!r}.",
        )
    limit = pod.settings.max_body_bytes
    check_announced(request, limit)
    upload: Upload | None = None
    texts: dict[str, str] = {}
    total = 0
    try:
        form = await request.multipart()
        for _ in range(_PARTS):
            if (field := await form.next()) is None:
                break
            name = "" if isinstance(field, MultipartReader) else field.name or ""
            if isinstance(field, MultipartReader):
                raise ApiError("invalid_parameter", "A part of the form is a form itself; send its fields one by one.")
            if name == "file" and upload is None:
                upload = await _keep(field, spool, limit)
                total += upload.bytes
            else:
                text = await _text(field, name)
                total += len(text)
                plain = name.removesuffix(_LISTS)
                texts[plain] = f"{texts[plain]}, {text}" if plain in texts and name != plain else texts.get(plain, text)
            if total > limit:
                raise too_large(limit, None)
        else:
            raise ApiError("invalid_parameter", f"The form has more than {_PARTS} fields.", limit=_PARTS)
    except (
        ValueError,
        AssertionError,
        RuntimeError,
        HttpProcessingError,
    ) as error:  # what aiohttp makes of a form that is none
        raise ApiError(
            "invalid_parameter", f"The form can't be read: {printable(str(error), 200) or 'it is cut off'}."
        ) from None
    if upload is None:
        raise no_file()
    return upload, texts


async def _keep(field: BodyPartReader, spool: Spool, limit: int) -> Upload:
    writer, total = spool.writer(), 0
    while chunk := await field.read_chunk(_CHUNK_BYTES):
        total += len(chunk)
        if total > limit:
            raise too_large(limit, None)
        writer.write(bytes(chunk))  # into memory or the page cache
    return writer.finish()


async def _text(field: BodyPartReader, name: str) -> str:
    data = b""
    while chunk := await field.read_chunk(_TEXT_BYTES):
        data += chunk
        if len(data) > _TEXT_BYTES:
            raise ApiError("invalid_parameter", f"{name[:100]} is too long.", param=name[:100], limit=_TEXT_BYTES)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ApiError("invalid_parameter", f"{name[:100]} is not valid UTF-8.", param=name[:100]) from None


def _fields(texts: dict[str, str]) -> TranscriptionRequest:
    filled: dict[str, Any] = {name: text for name, text in texts.items() if text.strip()}
    try:
        return msgspec.convert(filled, TranscriptionRequest, strict=False)
    except msgspec.ValidationError as error:
        path, sentence = explain(error)
        sentence = with_choices(sentence, TranscriptionRequest, path)
        raise ApiError("invalid_parameter", f"{path}: {sentence}.", param=path) from None


class _TranscriptionFormat:
    """The answer as the request wants it."""

    def __init__(self, fields: TranscriptionRequest) -> None:
        self._format = fields.response_format or "json"
        self._language = fields.language
        self._joiner = Joiner()
        self._shown: list[str] = []
        self.content_type = _CONTENT_TYPES[self._format]

    def whole(self, outcome: Outcome) -> TranscriptionResponse | str:
        text = joined(outcome.segments)
        match self._format:
            case "text":
                return text + "\n"
            case "srt":
                return srt(outcome.segments)
            case "vtt":
                return vtt(outcome.segments)
            case "verbose_json":
                return TranscriptionResponse(
                    task="transcribe",
                    language=self._language,
                    duration=round(outcome.seconds, 3),
                    segments=verbose(outcome.segments),
                    **_fields_of(text, outcome),
                )
        return TranscriptionResponse(**_fields_of(text, outcome))

    def piece(self, text: str) -> bytes:
        if not (shown := self._joiner.push(text)):
            return b""
        self._shown.append(shown)
        return event(TranscriptionDelta(delta=shown))

    def next_window(self) -> None:
        self._joiner.next_window()

    def end(self, outcome: Outcome) -> bytes:
        return event(TranscriptionDone(**_fields_of("".join(self._shown), outcome)))


def _fields_of(text: str, outcome: Outcome) -> dict[str, Any]:
    usage = outcome.usage
    tokens = TranscriptionUsage(
        input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )
    return {"text": text, "usage": tokens, "finish_reason": outcome.finish_reason, **marks(outcome.degraded)}
