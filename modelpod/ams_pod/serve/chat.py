"""A chat on its way to the engine, whichever API it came by: they all become a `ChatRequest` first."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, CompletionRequest

from ams_pod.engines.port import Capabilities, ChatOptions, Constraint, Engine, Prepared, Sampling
from ams_pod.media.decoding import Encoded
from ams_pod.media.intake import MediaSource
from ams_pod.media.items import Decoded
from ams_pod.media.spool import Spool
from ams_pod.serve.answering import Format, GenerationJob
from ams_pod.serve.choices import ChoicesFormat
from ams_pod.serve.constraints import constraint_of
from ams_pod.serve.content import Chat, chat_contents, check_modalities, sources_of
from ams_pod.serve.generation import AnswerRules
from ams_pod.serve.history import extras_of
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import chosen_adapter
from ams_pod.serve.parameters import sampling_of, stop_list
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.template_arguments import template_arguments
from ams_pod.serve.tools import ToolPlan, plan_tools, with_tools
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
    plan: ToolPlan
    options: ChatOptions
    constraint: Constraint | None
    adapter: str = ""

    def job(self, form: Format | ChoicesFormat) -> GenerationJob:
        """To be answered in this form."""
        return self._job(self.fields, self.plan, form)

    def _job(self, fields: ChatRequest, plan: ToolPlan, form: Format | ChoicesFormat) -> GenerationJob:
        return GenerationJob(
            media=self.media,
            spool=self.spool,
            prepare=self.prepare,
            sampling=sampler(self.pod, fields, fields.max_completion_tokens or fields.max_tokens),
            stops=stop_list(fields.stop),
            stream=bool(fields.stream),
            format=form,
            ignored=self.ignored,
            cache_salt=fields.cache_salt or "",
            adapter=self.adapter,
            rules=AnswerRules(
                goes_on=self.options.continue_last,
                calls=plan.parser if plan.functions else None,
                special=plan.special or fields.skip_special_tokens is False,
                include_stop=bool(fields.include_stop_str_in_output),
            ),
            answers=fields.n or 1,
            constraint=self.constraint,
        )

    def prepare(self, engine: Engine, media: list[Decoded]) -> Prepared:
        """The prompt."""
        return engine.prepare_chat(self.plan.messages(self.chat.messages(media)), self.options)


async def receive_chat(request: web.Request, spool: Spool, fields: ChatRequest, ignored: list[str]) -> ReceivedChat:
    """Check a chat and put its media into the spool. ApiError for what the model doesn't take.

    To be called while the memory of the request's body is reserved.
    """
    pod = request.app[POD]
    adapter = chosen_adapter(request, fields.model)
    contents, extras = chat_contents(fields), extras_of(fields.messages)
    sources = sources_of(contents)
    engine = pod.check_room(request[SHARE])
    capabilities = engine.capabilities
    check_modalities(sources, capabilities.modalities, pod.settings.name)
    if not sources and not any(text.strip() for _, content in contents for text in content if _is_text(text)):
        raise ApiError("missing_prompt", "messages hold no text.", param="messages")
    plan = plan_tools(fields, engine.info, capabilities, pod.settings.tool_parser)
    template = template_arguments(fields, engine.info.chat_template, reasons="reasoning" in capabilities.features)
    options = ChatOptions(
        tools=plan.tools if plan.native else (),
        template_arguments=template.arguments,
        continue_last=_goes_on(fields),
        no_thinking=template.no_thinking,
    )
    check_logprobs(fields, capabilities)
    constraint = with_tools(plan, constraint_of(fields, capabilities))
    chat = Chat(contents, extras)
    media = await pod.intake.receive(sources, spool, request[SHARE])
    return ReceivedChat(
        pod=pod,
        fields=msgspec.structs.replace(fields, messages=[]),
        chat=chat,
        media=list(media),
        spool=spool,
        ignored=ignored + unheard(sources, capabilities) + list(template.ignored),
        plan=plan,
        options=options,
        constraint=constraint,
        adapter=adapter,
    )


def _goes_on(fields: ChatRequest) -> bool:
    """Whether the answer goes on from the last message. ApiError where that is none of the assistant's."""
    last = fields.messages[-1]
    asked = fields.continue_final_message or last.prefix or last.partial
    if fields.continue_final_message and fields.add_generation_prompt:
        raise ApiError(
            "invalid_parameter", "add_generation_prompt: must be false with continue_final_message.",
            param="add_generation_prompt",
        )  # fmt: skip
    if fields.add_generation_prompt is False and not asked:
        raise ApiError(
            "invalid_parameter", "add_generation_prompt: false only with continue_final_message.",
            param="add_generation_prompt",
        )  # fmt: skip
    if asked and (last.role != "assistant" or last.tool_calls or not last.content):
        raise ApiError(
            "invalid_parameter", "continue_final_message: the last message must be a text of the assistant.",
            param="messages",
        )  # fmt: skip
    return bool(asked)


def check_logprobs(fields: ChatRequest | CompletionRequest, capabilities: Capabilities) -> None:
    """ApiError where logprobs are asked for, and the engine tells none, or of none in particular."""
    if isinstance(fields, ChatRequest) and fields.top_logprobs and not fields.logprobs:
        raise ApiError("invalid_parameter", "top_logprobs: only with logprobs.", param="top_logprobs")
    asked = fields.logprobs is not None and fields.logprobs is not False
    best = isinstance(fields, CompletionRequest) and (fields.best_of or 1) > (fields.n or 1)
    if (asked or best or fields.prompt_logprobs is not None) and "logprobs" not in capabilities.features:
        raise ApiError("invalid_parameter", "logprobs: this model tells none.", param="logprobs")


def sampler(
    pod: ModelPod, fields: ChatRequest | CompletionRequest, requested: int | None
) -> Callable[[Engine, Prepared], Sampling]:
    """How the answer's tokens are chosen, once its prompt is known."""

    def sampling(engine: Engine, prepared: Prepared) -> Sampling:
        return sampling_of(fields, requested, engine.info, pod.settings.max_new_tokens, len(prepared.ids))

    return sampling


def _is_text(item: str | MediaSource) -> TypeGuard[str]:
    return isinstance(item, str)
