"""How many tokens a chat's prompt has: prepared as for an answer, and not computed."""

from aiohttp import web

from ams_pod.serve.chat import ReceivedChat
from ams_pod.serve.keys import SHARE
from ams_pod.serve.refusals import refusals_as_api_errors


async def count_prompt(request: web.Request, received: ReceivedChat) -> int:
    """ApiError where the model doesn't take the chat, or is not ready."""
    pod, share = received.pod, request[SHARE]
    engine = pod.ready()
    with refusals_as_api_errors():
        if not received.media:
            return len((await pod.text_pool.run(received.prepare, engine, [], share=share)).ids)
        options = pod.decode_options(engine.capabilities)
        async with pod.intake.decoded(received.media, options, share) as (media, _):
            received.spool.close()
            return len((await pod.media_pool.run(received.prepare, engine, media, share=share)).ids)
