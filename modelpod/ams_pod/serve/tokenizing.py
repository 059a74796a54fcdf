"""`POST /tokenize` and `/detokenize`: texts and chats as the model reads them, and back."""

from typing import Any

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_IGNORED_FIELDS, HEADER_MODEL
from ams_common.request_body import RequestReader, named
from ams_common.wire import ChatRequest, DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse
from ams_common.wire.presence import check_presence

from ams_pod.engines.port import Engine, Prepared
from ams_pod.serve.chat import receive_chat
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import chosen_adapter
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.reading import json_body
from ams_pod.serve.refusals import refusals_as_api_errors

_TOKENIZE = RequestReader(TokenizeRequest)
_DETOKENIZE = RequestReader(DetokenizeRequest)


async def tokenize(request: web.Request) -> web.Response:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _TOKENIZE, pod) as (fields, ignored):
            chosen_adapter(request, fields.model)
            check_presence(fields)
            if fields.messages is not None:
                received = await receive_chat(request, spool, _as_chat(fields), ignored)
                if received.media:
                    raise ApiError("invalid_parameter", "messages: only texts can be tokenized.", param="messages")
                prepare, ignored = received.prepare, received.ignored
            else:
                text = fields.prompt or ""

                def prepare(engine: Engine, media: list[Any]) -> Prepared:
                    return engine.prepare_text(text)

            with_texts = bool(fields.return_token_strs)
            del fields
        engine = pod.ready()
        with refusals_as_api_errors():
            prepared = await pod.text_pool.run(prepare, engine, [], share=request[SHARE])
    if isinstance(prepared.ids, range):
        raise ApiError(
            "invalid_parameter", "model: its tokenizer is its engine's alone; texts can't be tokenized here."
        )
    ids = list(prepared.ids)
    texts = [engine.token_bytes(token).decode(errors="replace") for token in ids] if with_texts else None
    body = TokenizeResponse(count=len(ids), max_model_len=engine.info.context_tokens, tokens=ids, token_strs=texts)
    return _json(pod, body, ignored)


async def detokenize(request: web.Request) -> web.Response:
    pod = request.app[POD]
    async with json_body(request, _DETOKENIZE, pod) as (fields, ignored):
        chosen_adapter(request, fields.model)
        engine = pod.ready()
        with refusals_as_api_errors():
            text = await pod.text_pool.run(engine.text_of, fields.tokens, share=request[SHARE])
    return _json(pod, DetokenizeResponse(prompt=text), ignored)


def _as_chat(fields: TokenizeRequest) -> ChatRequest:
    return ChatRequest(
        model=fields.model,
        messages=fields.messages or [],
        tools=fields.tools,
        continue_final_message=fields.continue_final_message,
        add_generation_prompt=fields.add_generation_prompt,
        chat_template_kwargs=fields.chat_template_kwargs,
    )


def _json(pod: ModelPod, value: msgspec.Struct, ignored: list[str]) -> web.Response:
    headers = {HEADER_MODEL: pod.settings.name} | ({HEADER_IGNORED_FIELDS: named(ignored)} if ignored else {})
    return web.Response(body=msgspec.json.encode(value), content_type="application/json", headers=headers)
