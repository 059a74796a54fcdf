"""`POST /v1/responses`: stateless; what it goes on from comes with the request."""

from dataclasses import replace

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire.responses import ResponsesRequest

from ams_pod.serve.answering import answer
from ams_pod.serve.chat import receive_chat
from ams_pod.serve.conversation import retold
from ams_pod.serve.keys import POD
from ams_pod.serve.reading import json_body
from ams_pod.serve.responses.format import ResponsesFormat
from ams_pod.serve.responses.translating import to_chat

_READER = RequestReader(ResponsesRequest)
_FORM = "text.format"


async def responses(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _READER, pod) as (fields, ignored):
            translation = to_chat(fields)
            fields = msgspec.structs.replace(fields, input="", previous_items=None)  # they may be large
            toolbox, places = translation.toolbox, translation.places
            try:
                received = await receive_chat(request, spool, translation.chat, [*ignored, *toolbox.left_out])
            except ApiError as error:
                raise retold(error, places, _FORM) from None
            del translation
        form = ResponsesFormat(fields, toolbox)
        try:
            return await answer(request, replace(received.job(form), done=b"", failed=form.failed))
        except ApiError as error:
            raise retold(error, places, _FORM) from None
