"""OpenAI's API for one model: chat and text completions, whole and streamed."""

from typing import NoReturn

from aiohttp import web
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire import ChatRequest, CompletionRequest
from ams_common.wire.presence import empty_prompt

from ams_pod.engines.port import Engine, Prepared
from ams_pod.media.items import Decoded
from ams_pod.serve.answering import GenerationJob, answer
from ams_pod.serve.chat import check_logprobs, receive_chat, sampler
from ams_pod.serve.constraints import constraint_of
from ams_pod.serve.generation import AnswerRules
from ams_pod.serve.infilling import infilled
from ams_pod.serve.keys import POD, SHARE
from ams_pod.serve.models import chosen_adapter
from ams_pod.serve.openai_formats import ChatFormat, CompletionFormat
from ams_pod.serve.parameters import stop_list
from ams_pod.serve.reading import json_body

_CHAT = RequestReader(ChatRequest)
_COMPLETION = RequestReader(CompletionRequest)
_MOST_ANSWERS = 128

Prompt = str | list[int]


async def chat_completions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    with pod.intake.spool() as spool:
        async with json_body(request, _CHAT, pod) as (fields, ignored):
            received = await receive_chat(request, spool, fields, ignored)
            del fields
        return await answer(request, received.job(ChatFormat(received.fields)))


async def completions(request: web.Request) -> web.StreamResponse:
    pod = request.app[POD]
    async with json_body(request, _COMPLETION, pod) as (fields, ignored):
        adapter = chosen_adapter(request, fields.model)
        prompts = _prompts(fields.prompt)
        _check_answers(fields, len(prompts))
        engine = pod.check_room(request[SHARE])
        check_logprobs(fields, engine.capabilities)
        if fields.suffix:
            prompts = [infilled(prompt, fields.suffix, engine.info.added_tokens) for prompt in prompts]

    def prepare(engine: Engine, media: list[Decoded]) -> list[Prepared]:
        return [
            engine.prepare_text(prompt) if isinstance(prompt, str) else engine.prepare_ids(prompt) for prompt in prompts
        ]

    nothing = fields.max_tokens == 0 and bool(fields.echo)
    kept = fields.n or 1
    job = GenerationJob(
        prepare=prepare,
        sampling=sampler(pod, fields, 1 if nothing else fields.max_tokens),
        stops=stop_list(fields.stop),
        stream=bool(fields.stream),
        format=CompletionFormat(fields, prompts),
        ignored=ignored,
        cache_salt=fields.cache_salt or "",
        adapter=adapter,
        rules=AnswerRules(
            raw=True,
            special=fields.skip_special_tokens is False,
            include_stop=bool(fields.include_stop_str_in_output),
            nothing=nothing,
        ),
        answers=max(kept, fields.best_of or 1),
        kept=kept if (fields.best_of or 1) > kept else None,
        constraint=constraint_of(fields, pod.ready().capabilities, raw=True),
    )
    return await answer(request, job)


def _check_answers(fields: CompletionRequest, prompts: int) -> None:
    kept, made = fields.n or 1, fields.best_of or fields.n or 1
    if made < kept:
        raise ApiError("invalid_parameter", "best_of: must be at least n.", param="best_of")
    if made > kept and fields.stream:
        raise ApiError("invalid_parameter", "best_of: can't be streamed.", param="best_of")
    if made * prompts > _MOST_ANSWERS:
        raise ApiError(
            "invalid_parameter",
            f"prompt: {prompts} prompts with {made} answers each are more than {_MOST_ANSWERS} answers.",
            param="prompt",
        )
    if fields.echo and fields.suffix:
        raise ApiError("invalid_parameter", "echo: not with suffix.", param="echo")


def _prompts(prompt: str | list[str | int | list[int]]) -> list[Prompt]:
    """A text, token ids, or a list of these. ApiError for one that is empty, or mixed."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        if len(prompt) > _MOST_ANSWERS:
            raise ApiError("invalid_parameter", f"prompt: at most {_MOST_ANSWERS} prompts a request.", param="prompt")
        return [_single(each) if isinstance(each, str | list) else _mixed() for each in prompt]
    return [_single(prompt)]


def _single(prompt: str | list[str | int | list[int]] | list[int]) -> Prompt:
    if not prompt:
        raise empty_prompt()
    if isinstance(prompt, str):
        return prompt
    ids = [token for token in prompt if isinstance(token, int)]
    if len(ids) != len(prompt):
        _mixed()
    return ids


def _mixed() -> NoReturn:
    raise ApiError(
        "invalid_parameter", "prompt: expected texts, or lists of token ids, and not both in one list.", param="prompt"
    )
