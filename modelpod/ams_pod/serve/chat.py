"""A chat on its way to the engine, whichever API it came by: they all become a `ChatRequest` first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, CompletionRequest

from ams_pod.engines.port import Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.intake import MediaSource
from ams_pod.media.spool import Spool
from ams_pod.serve.answering import Format, GenerationJob
from ams_pod.serve.content import Chat, chat_contents, check_modalities, sources_of
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import check_model
from ams_pod.serve.parameters import sampling_of, stop_list
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.wishes import unheard


@dataclass(frozen=True, slots=True)
class ReceivedChat:
    """A chat whose media lie in the spool: `fields` without its messages, which `chat` holds."""

    pod: ModelPod
    fields: ChatRequest
    chat: Chat
    media: list[Encoded]
    spool: Spool
    ignored: list[str]

    def job(self, form: Format) -> GenerationJob:
        """To be answered in this form."""
        fields, chat = self.fields, self.chat
        return GenerationJob(
            media=self.media,
            spool=self.spool,
            prepare=lambda engine, items: engine.prepare_chat(chat.messages(items)),
            sampling=sampler(self.pod, fields, fields.max_completion_tokens or fields.max_tokens),
            stops=stop_list(fields.stop),
            stream=bool(fields.stream),
            format=form,
            ignored=self.ignored,
            cache_salt=fields.cache_salt or "",
        )


async def receive_chat(request: web.Request, spool: Spool, fields: ChatRequest, ignored: list[str]) -> ReceivedChat:
    """Check a chat and put its media into the spool. ApiError for what the model doesn't take.

    To be called while the memory of the request's body is reserved.
    """
    pod = request.app[POD]
    check_model(pod, fields.model)
    contents = chat_contents(fields)
    sources = sources_of(contents)
    capabilities = pod.check_room(request[SHARE]).capabilities
    check_modalities(sources, capabilities.modalities, pod.settings.name)
    if not sources and not any(text.strip() for _, content in contents for text in content if _is_text(text)):
        raise ApiError("missing_prompt", "messages hold no text.", param="messages")
    chat = Chat(contents)
    media = await pod.intake.receive(sources, spool, request[SHARE])
    return ReceivedChat(
        pod=pod,
        fields=msgspec.structs.replace(fields, messages=[]),
        chat=chat,
        media=list(media),
        spool=spool,
        ignored=ignored + unheard(sources, capabilities),
    )


def sampler(
    pod: ModelPod, fields: ChatRequest | CompletionRequest, requested: int | None
) -> Callable[[Engine, Prepared], Sampling]:
    """How the answer's tokens are chosen, once its prompt is known."""

    def sampling(engine: Engine, prepared: Prepared) -> Sampling:
        return sampling_of(fields, requested, engine.info, pod.settings.max_new_tokens, len(prepared.ids))

    return sampling


def _is_text(item: str | MediaSource) -> TypeGuard[str]:
    return isinstance(item, str)
