"""`POST /generate`: the older server's body and answer."""

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.wire import GenerateRequest, GenerateResponse

from ams_pod.runtime.interface import Prepared, Runtime, Sampling
from ams_pod.serve.answering import Work, answer
from ams_pod.serve.events import event
from ams_pod.serve.generation import Generation
from ams_pod.serve.keys import POD
from ams_pod.serve.parameters import sampling_of, stop_list
from ams_pod.serve.reading import read_json
from ams_pod.serve.thinking import Delta

_DECODER = msgspec.json.Decoder(GenerateRequest)


async def generate(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    fields, ignored = await read_json(request, _DECODER, pod.settings.max_body_bytes, pod.large_bodies)
    _check(fields, pod.settings.name)
    messages = [{"role": "user", "content": fields.prompt}]
    if fields.system:
        messages.insert(0, {"role": "system", "content": fields.system})

    def sampling(runtime: Runtime, prepared: Prepared) -> Sampling:
        return sampling_of(
            fields, fields.max_new_tokens, "max_new_tokens", runtime.info, pod.settings.max_new_tokens,
            len(prepared.ids),
        )  # fmt: skip

    work = Work(
        prepare=lambda runtime: runtime.prepare_chat(messages),
        sampling=sampling,
        stops=stop_list(fields.stop),
        stream=bool(fields.stream),
        format=_NativeFormat(pod.settings.name, bool(fields.include_thinking)),
        ignored=ignored,
    )
    return await answer(request, work)


def _check(fields: GenerateRequest, model: str) -> None:
    if not fields.prompt.strip():
        raise ApiError("missing_prompt", "prompt must not be empty.", param="prompt")
    for name in ("image", "audio", "video"):
        if getattr(fields, name):
            raise ApiError(
                "unsupported_modality", f"{model} is a text model; it takes no {name}.", param=name,
                model=model, modalities=["text"],
            )  # fmt: skip


class _NativeFormat:
    """{"response": ...} and what is added beside it."""

    def __init__(self, model: str, include_thinking: bool) -> None:
        self._model = model
        self._include_thinking = include_thinking

    def whole(self, delta: Delta, generation: Generation) -> GenerateResponse:
        note = None
        if not generation.ended_thinking:
            note = "The tokens ran out while the model was still reasoning; raise max_new_tokens."
        return GenerateResponse(
            response=delta.content,
            thinking=delta.thinking if self._include_thinking else None,
            usage=generation.usage,
            model=self._model,
            finish_reason=generation.finish_reason,
            note=note,
        )

    def begin(self) -> bytes:
        return b""

    def piece(self, delta: Delta) -> bytes:
        result = b""
        if delta.thinking and self._include_thinking:
            result = event({"response": "", "thinking": delta.thinking})
        return result + event({"response": delta.content}) if delta.content else result

    def end(self, generation: Generation) -> bytes:
        last = self.whole(Delta(), generation)
        return event(msgspec.structs.replace(last, thinking=None))
