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

from ams_pod.engines.port import Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.items import Media, content_part
from ams_pod.media.spool import Spool, Upload
from ams_pod.serve.answering import GenerationJob, answer
from ams_pod.serve.content import unsupported
from ams_pod.serve.degraded import marks
from ams_pod.serve.events import event
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import POD
from ams_pod.serve.models import check_model
from ams_pod.serve.parameters import sampling_of
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.reading import UPLOAD_SECONDS, check_announced, too_large, upload_timed_out
from ams_pod.serve.thinking import Delta

_CHUNK_BYTES = 256 << 10
_TEXT_BYTES = 64 << 10
_PARTS = 64
_TASK = "Transcribe the speech in the audio word for word. Answer with the transcript only."


async def transcriptions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    modalities = pod.check_room().capabilities.modalities
    if "audio" not in modalities:
        raise unsupported("audio", "file", modalities, pod.settings.name)
    with pod.intake.spool() as spool:
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                upload, texts = await _read_form(request, pod, spool)
        except TimeoutError:
            raise upload_timed_out() from None
        fields, ignored = _fields(texts), ignored_of_form(texts, TranscriptionRequest)
        check_model(pod, fields.model)

        def prepare(engine: Engine, media: list[Media]) -> Prepared:
            content = [content_part(media[0]), {"type": "text", "text": _task(fields)}]
            prepared = engine.prepare_chat([{"role": "user", "content": content}])
            return replace(prepared, text_only=None)  # without the sound there is nothing to transcribe

        def sampling(engine: Engine, prepared: Prepared) -> Sampling:
            as_chat = ChatRequest(model=fields.model, messages=[], temperature=fields.temperature or 0.0)
            cap = pod.settings.max_new_tokens
            return sampling_of(as_chat, None, engine.info, cap, len(prepared.ids))

        job = GenerationJob(
            media=[Encoded("audio", "file", upload)],
            spool=spool,
            prepare=prepare,
            sampling=sampling,
            stops=[],
            stream=bool(fields.stream),
            format=_TranscriptionFormat(fields.response_format == "text"),
            ignored=ignored,
        )
        return await answer(request, job)


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
                texts.setdefault(name.removesuffix("[]"), text)
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
        raise ApiError("invalid_parameter", "file is required: the audio to transcribe.", param="file")
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
    def __init__(self, plain: bool) -> None:
        self._plain = plain
        self._texts: list[str] = []

    def whole(self, delta: Delta, generation: Generation) -> TranscriptionResponse | str:
        if self._plain:
            return delta.content.strip() + "\n"
        return TranscriptionResponse(text=delta.content.strip(), usage=_usage(generation), **marks(generation.degraded))

    def begin(self) -> bytes:
        return b""

    def piece(self, delta: Delta) -> bytes:
        if not delta.content:
            return b""
        self._texts.append(delta.content)
        return event(TranscriptionDelta(delta=delta.content))

    def end(self, generation: Generation) -> bytes:
        text = "".join(self._texts)
        return event(TranscriptionDone(text=text, usage=_usage(generation), **marks(generation.degraded)))


def _usage(generation: Generation) -> TranscriptionUsage:
    usage = generation.usage
    return TranscriptionUsage(
        input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens, total_tokens=usage.total_tokens
    )
