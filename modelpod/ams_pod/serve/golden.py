"""Golden prompts: what a new version of a model must be able to answer before anybody else may ask it."""

import asyncio
import re
import time
from concurrent.futures import Executor

from ams_common.errors import ApiError
from ams_common.outside import read_json
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import GoldenPrompt
from ams_common.wire import GenerateRequest

from ams_pod.engines.port import Engine, EngineRefusal
from ams_pod.serve.generation import Generation
from ams_pod.serve.metrics import PodMetrics
from ams_pod.serve.parameters import sampling_of

_SHOWN = 200  # characters of an answer in a message


def parse_golden_prompts(text: str) -> list[GoldenPrompt]:
    """From the setting; ValueError with a sentence if it makes no sense."""
    try:
        prompts = read_json(text, list[GoldenPrompt]) if text else []
        for each in prompts:
            if (each.contains is None) == (each.regex is None):
                raise ValueError("each golden prompt needs either contains or regex")
            re.compile(each.regex or "")
    except re.error as error:
        raise ValueError(str(error)) from None
    return prompts


async def check(
    prompts: list[GoldenPrompt], engine: Engine, settings: ServeSettings, metrics: PodMetrics, pool: Executor
) -> str | None:
    """Ask each, greedily, one after another: why the first that fails did, as a sentence; None if all are as wished."""
    for prompt in prompts:
        seconds = float(prompt.max_seconds or settings.request_timeout_seconds)
        started = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                answer = await _ask(prompt, engine, settings, metrics, pool)
        except TimeoutError:
            return f"The golden prompt {_quoted(prompt.prompt)} was not answered within {seconds:g} s."
        except (ApiError, EngineRefusal) as error:
            return f"The golden prompt {_quoted(prompt.prompt)} was not answered: {error}"
        if (complaint := judge(prompt, answer)) is not None:
            took = f"{time.monotonic() - started:.1f} s"
            return f"The golden prompt {_quoted(prompt.prompt)} was answered in {took} {complaint}."
    return None


def judge(prompt: GoldenPrompt, answer: str) -> str | None:
    """What is wrong with an answer, None if nothing is."""
    if prompt.contains is not None and prompt.contains not in answer:
        return f"with {_quoted(answer)}, which doesn't contain {_quoted(prompt.contains)}"
    if prompt.regex is not None and re.search(prompt.regex, answer) is None:
        return f"with {_quoted(answer)}, which doesn't match {_quoted(prompt.regex)}"
    return None


async def _ask(
    prompt: GoldenPrompt, engine: Engine, settings: ServeSettings, metrics: PodMetrics, pool: Executor
) -> str:
    """The answer, without reasoning; as far as it went when it held what it must contain."""
    messages = [{"role": "user", "content": prompt.prompt}]
    prepared = await asyncio.get_running_loop().run_in_executor(pool, engine.prepare_chat, messages)
    request = GenerateRequest(prompt=prompt.prompt, temperature=0)
    most = settings.max_new_tokens
    sampling = sampling_of(request, most or engine.info.context_tokens, engine.info, most, len(prepared.ids))
    answer = ""
    async with Generation(engine, prepared, sampling, [], metrics) as generation:
        while (delta := await generation.next()) is not None:
            answer += delta.content
            if prompt.contains is not None and prompt.contains in answer:
                break
    return answer


def _quoted(text: str) -> str:
    short = " ".join(text.split())
    return f"'{short[:_SHOWN]}…'" if len(short) > _SHOWN else f"'{short}'"
