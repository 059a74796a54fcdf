"""From a folder and an engine of another make to an `Engine` of the port."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ams_common.adapters import parse_adapters
from ams_common.families import BY_NAME, Modality, UnsupportedArchitecture, family_of, language_config, modalities_of
from ams_common.plain import plain_text
from ams_common.pod_settings import ServeSettings
from ams_common.source import parse_source

from ams_pod.engines.openai.adapters import AdapterFollower
from ams_pod.engines.openai.core import Core, Terms
from ams_pod.engines.openai.dialects import dialect_of
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.embedding import embedding_engine
from ams_pod.engines.openai.engine import OtherEngine
from ams_pod.engines.openai.http import EngineUnreachable
from ams_pod.engines.openai.loops import run_on
from ams_pod.engines.openai.pieces import Facts, LoadedAdapter
from ams_pod.engines.openai.supervisor import State, Supervisor
from ams_pod.engines.openai.trying import PromptForm, tried_form
from ams_pod.engines.port import Capabilities, Feature, LoadFailed, ModelInfo, Publish, ReportPhase
from ams_pod.engines.prompts.embedding import makes_embeddings
from ams_pod.engines.prompts.folder import load_tokenizer, read_model_config, read_tokenizer_if_any
from ams_pod.engines.prompts.text import TextPrompts, sampling_defaults, stop_tokens
from ams_pod.weights_link import later_words, weights_path

_FALLBACK_CONTEXT = 4096
_FIRST_TEXT = "Hello there, how are you today?"
_MOST_NAMES = 300  # characters, of all that a server lists
_BYTES_A_PARAMETER = {"float32": 4, "bfloat16": 2, "float16": 2}


def load(
    folder: Path, settings: ServeSettings, publish: Publish, report: ReportPhase, loop: asyncio.AbstractEventLoop
) -> OtherEngine:
    """Of an engine that lives on `loop`; in another thread than that. LoadFailed if the folder has no tokenizer, or the
    engine doesn't start."""
    config = read_model_config(folder)
    family = _family(settings, config, embeds=makes_embeddings(folder))
    dialect = dialect_of(settings.engine)
    if settings.adapters_state and not dialect.load_path:
        raise LoadFailed(f"--adapters-state: {dialect.title} loads no adapters while it runs; name them by --adapters")
    follower = AdapterFollower(settings.adapters_state, settings.name, dialect) if settings.adapters_state else None
    supervisor = Supervisor(dialect, settings, model_path(folder, settings), report, follower, later_words(folder))
    made: list[Any] = []
    read = read_tokenizer_if_any if family == "embedding" else load_tokenizer
    reading = threading.Thread(target=lambda: made.append(_attempt(lambda: read(folder))), daemon=True)
    reading.start()  # while the engine loads
    try:
        run_on(loop, _opened(supervisor))
    except EngineUnreachable as error:
        raise LoadFailed(f"{dialect.title} can't be asked for its model: {error}") from None
    try:
        reading.join()
        [tokenizer] = made
        if isinstance(tokenizer, BaseException):
            raise tokenizer
        return _engine(folder, settings, publish, config, family, tokenizer, dialect, supervisor, loop)
    except BaseException:
        run_on(loop, supervisor.close())
        raise


async def _opened(supervisor: Supervisor) -> None:
    """Open, and closed again where it can't be, or nobody waits for it any more."""
    try:
        await supervisor.open()
    except BaseException:
        await supervisor.close()
        raise


def _adapters(settings: ServeSettings) -> dict[str, LoadedAdapter]:
    return {
        each.name: LoadedAdapter(settings.name, each.name, number)
        for number, each in enumerate(parse_adapters(settings.adapters))
    }


def model_path(folder: Path, settings: ServeSettings) -> str:
    """What `{model}` in an engine's command stands for: a GGUF file, or the folder itself."""
    return str(weights_path(folder, parse_source(settings.source), settings.engine))


def _engine(
    folder: Path,
    settings: ServeSettings,
    publish: Publish,
    config: Mapping[str, Any],
    family: str,
    tokenizer: Any,
    dialect: Dialect,
    supervisor: Supervisor,
    loop: asyncio.AbstractEventLoop,
) -> OtherEngine:
    facts = supervisor.state.facts
    adapters = _adapters(settings)
    if facts.adapters is not None and facts.adapters < len(adapters):
        raise LoadFailed(f"{dialect.title} has loaded {facts.adapters} of the {len(adapters)} adapters.")
    rows = min(settings.concurrent_requests, facts.concurrent_requests or settings.concurrent_requests)
    core = Core(dialect, publish, supervisor.suspect)
    if not facts.model and len(facts.models) > 1:
        own = f"{settings.name} or {model_path(folder, settings)}"
        others = plain_text(", ".join(facts.models), _MOST_NAMES)
        raise LoadFailed(f"{dialect.title} serves several models, and none is called {own}: {others}")
    model = facts.model or settings.name
    if family == "embedding":

        def described(context: int) -> tuple[ModelInfo, Terms]:
            info = _info(folder, settings, config, family, None, dialect, supervisor.state, context, rows)
            return info, Terms(model, context, rows, frozenset(), info.vocabulary)

        setting = settings.context_tokens
        return embedding_engine(folder, config, tokenizer, setting, dialect, core, supervisor, loop, described)
    context = _context(settings, config, facts)
    prompts = TextPrompts(tokenizer, context)
    info = _info(folder, settings, config, family, prompts, dialect, supervisor.state, context, rows)
    features: set[Feature] = {"raw-prompts"}
    features |= {"reasoning"} if prompts.thinks else set()
    features |= {"tools"} if prompts.habits.tools else set()
    features |= {"constraints"} if dialect.constraint_kinds else set()
    features |= {"logprobs"} if dialect.logprobs else set()
    ends = stop_tokens(folder, tokenizer)
    terms = Terms(model, context, rows, ends, facts.vocabulary, adapters)
    form = PromptForm()
    if dialect.tries_prompts:
        form = run_on(loop, _tried(prompts, terms, dialect, supervisor))
    capabilities = Capabilities(_modalities(family, facts), frozenset(features))
    engine = OtherEngine(info, capabilities, prompts, dialect, core, supervisor, loop, form)
    if supervisor.adapters is not None:
        terms = replace(terms, adapters=supervisor.adapters.served)
    core.terms = terms  # requests may be refused by them before the loop runs
    loop.call_soon_threadsafe(core.begin, supervisor.address, terms)
    return engine


async def _tried(prompts: TextPrompts, terms: Terms, dialect: Dialect, supervisor: Supervisor) -> PromptForm:
    """LoadFailed for an engine that goes on from no prompt of ours."""
    first = prompts.text(_FIRST_TEXT).ids
    special = frozenset(prompts.added_tokens.values())
    try:
        return await tried_form(first, prompts.written, special, terms, dialect, supervisor.address)
    except EngineUnreachable as error:
        raise LoadFailed(f"{dialect.title} doesn't go on from a first prompt: {error}") from None


def _info(
    folder: Path,
    settings: ServeSettings,
    config: Mapping[str, Any],
    family: str,
    prompts: TextPrompts | None,
    dialect: Dialect,
    state: State,
    context: int,
    rows: int,
) -> ModelInfo:
    facts = state.facts
    own = language_config(config)
    precision = next(
        (str(each) for each in (own.get("dtype"), own.get("torch_dtype"), config.get("torch_dtype")) if each),
        "bfloat16",
    )
    precision = precision if settings.precision == "auto" else settings.precision
    weights = facts.weights_bytes or sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    quantized = config.get("quantization_config")
    method = str(quantized.get("quant_method", "")) if isinstance(quantized, Mapping) else ""
    quantization = facts.quantization or method or "none"
    parameters = facts.parameters or (weights // _BYTES_A_PARAMETER.get(precision, 2) if quantization == "none" else 0)
    architectures = config.get("architectures")
    vocabulary = facts.vocabulary or own.get("vocab_size")
    return ModelInfo(
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "unknown",
        family=family,
        device="cuda" if state.is_gpu else "cpu",
        precision=precision,
        parameters=parameters,
        weights_bytes=weights,
        context_tokens=context,
        cache_bytes_per_token=0,  # engines don't tell
        concurrent_requests=rows,
        engine=dialect.label(facts),
        defaults=sampling_defaults(folder),
        quantization=quantization,
        quantization_reason=f"as {dialect.title} loaded it",
        vocabulary=vocabulary if isinstance(vocabulary, int) else None,
        chat_template=prompts.template if prompts is not None else "",
        added_tokens=prompts.added_tokens if prompts is not None else {},
        special_tokens=prompts.special_tokens if prompts is not None else frozenset(),
    )


def _context(settings: ServeSettings, config: Mapping[str, Any], facts: Facts) -> int:
    """What the engine says, else the model's configuration; within what is set."""
    own = language_config(config).get("max_position_embeddings")
    found = facts.context_tokens or (own if isinstance(own, int) and own > 0 else _FALLBACK_CONTEXT)
    return min(found, settings.context_tokens) if settings.context_tokens else found


def _family(settings: ServeSettings, config: Mapping[str, Any], *, embeds: bool) -> str:
    """The one that is set or that the architecture belongs to; `text` for one that only other engines know."""
    if settings.family != "auto":
        return settings.family
    if embeds:
        return "embedding"
    architectures = config.get("architectures")
    try:
        return family_of(architectures if isinstance(architectures, list) else []).name
    except UnsupportedArchitecture:
        return "text"


def _modalities(family: str, facts: Facts) -> tuple[Modality, ...]:
    taken = modalities_of(family) if family in BY_NAME else ("text",)
    return tuple(each for each in taken if facts.modalities is None or each in facts.modalities)


def _attempt(make: Any) -> Any:
    try:
        return make()
    except BaseException as error:
        return error
