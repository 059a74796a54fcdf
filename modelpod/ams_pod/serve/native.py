"""`POST /generate`: the older server's body and answer."""

import msgspec
from aiohttp import web
from ams_common.adapters import adapter_id
from ams_common.families import BY_NAME
from ams_common.request_body import RequestReader
from ams_common.wire import GenerateRequest, GenerateResponse
from ams_common.wire.presence import check_presence

from ams_pod.engines.port import Engine, ModelInfo, Prepared, Sampling
from ams_pod.serve.answering import GenerationJob, answer
from ams_pod.serve.constraints import constraint_of
from ams_pod.serve.content import Chat, Content, check_modalities, generate_sources
from ams_pod.serve.degraded import generation_method, memory_optimized, note_of
from ams_pod.serve.events import event
from ams_pod.serve.generation import AnswerRules, Generation
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import chosen_adapter
from ams_pod.serve.parameters import sampling_of, stop_list
from ams_pod.serve.reading import json_body
from ams_pod.serve.thinking import Delta
from ams_pod.serve.wishes import unheard

_READER = RequestReader(GenerateRequest)


async def generate(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _READER, pod) as (fields, ignored):
            check_presence(fields)
            adapter = chosen_adapter(request, None)
            sources = generate_sources(fields)
            engine = pod.check_room(request[SHARE])
            check_modalities(sources, engine.capabilities.modalities, pod.settings.name)
            contents: list[tuple[str, Content]] = [("user", [*sources, fields.prompt])]
            if fields.system:
                contents.insert(0, ("system", [fields.system]))
            chat = Chat(contents)
            ignored += unheard(sources, engine.capabilities)
            media = await pod.intake.receive(sources, spool, request[SHARE])
            fields = msgspec.structs.replace(fields, image=None, audio=None, video=None)
            del sources, contents

        def sampling(engine: Engine, prepared: Prepared) -> Sampling:
            cap = pod.settings.max_new_tokens
            return sampling_of(fields, fields.max_new_tokens, engine.info, cap, len(prepared.ids))

        job = GenerationJob(
            media=media,
            spool=spool,
            prepare=lambda engine, items: engine.prepare_chat(chat.messages(items)),
            sampling=sampling,
            stops=stop_list(fields.stop),
            stream=bool(fields.stream),
            format=_NativeFormat(adapter_id(pod.settings.name, adapter), engine.info, bool(fields.include_thinking)),
            ignored=ignored,
            cache_salt=fields.cache_salt or "",
            adapter=adapter,
            rules=AnswerRules(
                special=fields.skip_special_tokens is False, include_stop=bool(fields.include_stop_str_in_output)
            ),
            constraint=constraint_of(fields, engine.capabilities),
        )
        return await answer(request, job)


class _NativeFormat:
    """{"response": ...} and what is added beside it; of some families it also tells how the answer was made."""

    def __init__(self, model: str, info: ModelInfo, include_thinking: bool) -> None:
        self._model = model
        self._info = info
        self._include_thinking = include_thinking

    def whole(self, delta: Delta, generation: Generation) -> GenerateResponse:
        note = note_of(generation.degraded)
        if note is None and not generation.ended_thinking:
            note = "The tokens ran out while the model was still reasoning; raise max_new_tokens."
        answer = GenerateResponse(
            response=delta.content,
            thinking=delta.thinking if self._include_thinking else None,
            usage=generation.usage,
            model=self._model,
            finish_reason=generation.finish_reason,
            degraded=generation.degraded,
            note=note,
        )
        family = BY_NAME[self._info.family]
        if not family.answer_details:
            return answer
        return msgspec.structs.replace(
            answer,
            model_type=family.model_type,
            generation_method=generation_method(self._info, generation.media_items, generation.degraded),
            memory_optimized=memory_optimized(self._info),
        )

    def begin(self, generation: Generation) -> bytes:
        return b""

    def piece(self, delta: Delta) -> bytes:
        result = b""
        if delta.thinking and self._include_thinking:
            result = event({"response": "", "thinking": delta.thinking})
        return result + event({"response": delta.content}) if delta.content else result

    def end(self, generation: Generation) -> bytes:
        last = self.whole(Delta(), generation)
        return event(msgspec.structs.replace(last, thinking=None))
