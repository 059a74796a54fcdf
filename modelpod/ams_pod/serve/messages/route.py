"""`POST /v1/messages` and `/v1/messages/count_tokens`."""

import asyncio
from dataclasses import replace

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import HEADER_IGNORED_FIELDS, HEADER_MODEL
from ams_common.request_body import RequestReader, named
from ams_common.wire.messages import CountTokensRequest, MessagesRequest, TokenCount

from ams_pod.serve.answering import answer
from ams_pod.serve.chat import receive_chat
from ams_pod.serve.conversation import retold
from ams_pod.serve.counting import count_prompt
from ams_pod.serve.keys import POD
from ams_pod.serve.messages.format import MessagesFormat, shown_thinking
from ams_pod.serve.messages.translating import to_chat
from ams_pod.serve.reading import json_body

_MESSAGES = RequestReader(MessagesRequest)
_COUNT = RequestReader(CountTokensRequest)
_FORM = "output_config.format"


async def messages(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _MESSAGES, pod) as (fields, ignored):
            translation = to_chat(fields)
            form, places = MessagesFormat(fields.model, shown_thinking(fields)), translation.places
            del fields
            try:
                received = await receive_chat(request, spool, translation.chat, [*ignored, *translation.left_out])
            except ApiError as error:
                raise retold(error, places, _FORM) from None
            del translation
        try:
            return await answer(request, replace(received.job(form), done=b""))
        except ApiError as error:
            raise retold(error, places, _FORM) from None


async def count_tokens(request: web.Request) -> web.Response:
    """The tokens of a prompt, as the model would read them; nothing is computed."""
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _COUNT, pod) as (fields, ignored):
            translation = to_chat(fields)
            del fields
            try:
                received = await receive_chat(request, spool, translation.chat, [*ignored, *translation.left_out])
            except ApiError as error:
                raise retold(error, translation.places, _FORM) from None
            del translation
        try:
            async with asyncio.timeout(pod.settings.request_timeout_seconds):
                tokens = await count_prompt(request, received)
        except TimeoutError:
            seconds = pod.settings.request_timeout_seconds
            raise ApiError("timeout", f"The prompt was not counted after {seconds:g} seconds.") from None
    headers = {HEADER_MODEL: pod.settings.name}
    if received.ignored:
        headers[HEADER_IGNORED_FIELDS] = named(received.ignored)
    body = msgspec.json.encode(TokenCount(input_tokens=tokens))
    return web.Response(body=body, content_type="application/json", headers=headers)
