"""OpenAI's protocol as most engines speak it; an engine's own dialect says where it differs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.answers import (
    ChatLogprob,
    Choice,
    CompletionLogprobs,
    PromptLogprob,
    counted,
    read_chunk,
)
from ams_pod.engines.openai.dialects.messages import message_of
from ams_pod.engines.openai.dialects.vectors import made_of, read_vector
from ams_pod.engines.openai.pieces import (
    Asked,
    EngineGone,
    Facts,
    Held,
    LoadedAdapter,
    Piece,
    Scale,
    Task,
    VectorForm,
)
from ams_pod.engines.port import (
    Constraint,
    EngineError,
    EngineRefusal,
    Finish,
    Sampling,
    TokenLogprobs,
    context_exceeded,
)

PhasePattern = tuple[re.Pattern[str], Phase]
"""A line of the engine's log that begins a phase; its first group, if it has one, is a percentage."""

# All others are a `stop`: by a token, a text, a call of a tool.
_FINISHES: dict[str, Finish] = dict.fromkeys(("length", "max_tokens", "model_length"), "length")
_TOO_LONG = re.compile(
    r"context.{0,12}(length|size|window)|longer than the maximum|max_model_len|too long|(less|fewer) than \d+ tokens",
    re.I | re.S,
)
_TOO_LARGE = re.compile(r"input (?:\((\d{1,9}) tokens\) )?is too large to process")
_ALREADY = re.compile(r"already (been )?(loaded|exist|registered)|has already", re.I)
_RANK = re.compile(r"max[-_]lora[-_]rank", re.I)
_NUMBER = re.compile(r"\d+")
_LOGGED = 300
_OF_REQUESTS = (400, 413, 414, 422)  # of an engine that knows the route; all others are its own faults
_LONGEST_ID = 12  # digits
_MOST_CONTEXT = 1 << 31


class _Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None
    context_length: int | None = None
    meta: dict[str, Any] | None = None


class _Loaded(msgspec.Struct):
    """Of an answer to a request to load an adapter, of an engine that answers 200 whatever becomes of it."""

    success: bool | None = None
    error_message: str | None = None


_ENCODE = msgspec.json.Encoder().encode


class Dialect:
    """A server that speaks OpenAI's protocol and of which nothing else is known. All of it is pure."""

    title: ClassVar[str] = "The engine"
    health_paths: ClassVar[tuple[str, ...]] = ("/health",)  # each asked for where the one in front isn't there
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models",)
    older_paths: ClassVar[Mapping[str, str]] = {}  # of these, one that is asked only where the other doesn't answer
    metrics_path: ClassVar[str] = ""
    metric_names: ClassVar[Mapping[str, str]] = {}  # series to the field of `EngineFigures`
    tells_ids: ClassVar[bool] = False
    picks_slots: ClassVar[bool] = False
    logprobs: ClassVar[bool] = False
    prompt_logprobs: ClassVar[bool] = False
    takes_gbnf: ClassVar[bool] = False  # grammars in llama.cpp's own form, instead of llguidance's Lark
    constraint_kinds: ClassVar[frozenset[str]] = frozenset()
    phases: ClassVar[tuple[PhasePattern, ...]] = ()
    gpu_words: ClassVar[re.Pattern[str]] = re.compile(r"\bCUDA\b|\bROCm\b", re.I)
    sleep_path: ClassVar[str] = ""
    wake_path: ClassVar[str] = ""
    load_path: ClassVar[str] = ""  # of LoRA adapters, while it runs
    unload_path: ClassVar[str] = ""
    vector_forms: ClassVar[
        Sequence[VectorForm]
    ] = ()  # of which the first that it takes is its own; none: it makes none
    score_forms: ClassVar[Sequence[VectorForm]] = ()
    decoders_alone: ClassVar[frozenset[str] | None] = (
        None  # kinds of models that it embeds by the last token; None: all
    )
    pools_freely: ClassVar[bool] = False  # how its vectors are pooled is its own affair, and not to be checked here
    takes_vector_ids: ClassVar[bool] = False  # also where texts go as they are
    gone_words: ClassVar[re.Pattern[str] | None] = None  # of an error that tells that what computes is dead
    tries_prompts: ClassVar[bool] = False  # whether it takes token ids is tried
    key_variable: ClassVar[str] = "AMS_ENGINE_API_KEY"
    extra_variables: ClassVar[Mapping[str, str]] = {}

    # What is asked.

    def refusal(self, sampling: Sampling) -> EngineRefusal | None:
        """What of it this engine can't do; None where it can do all."""
        for asked, name in (
            (sampling.allowed_tokens is not None, "allowed_token_ids"),
            (sampling.min_new_tokens > 0, "min_tokens"),
            (sampling.top_k != 0, "top_k"),
            (sampling.min_p > 0, "min_p"),
            (sampling.repetition_penalty != 1.0, "repetition_penalty"),
            (sampling.ignore_eos, "ignore_eos"),
            (sampling.logprobs is not None, "logprobs"),
            (sampling.prompt_logprobs is not None, "prompt_logprobs"),
            (bool(sampling.stop_tokens), "stop_token_ids"),
        ):
            if asked:
                return self._cannot(name)
        return None

    def _cannot(self, what: str) -> EngineRefusal:
        return EngineRefusal("unsupported", f"{self.title}, which serves this model, can't do this: {what}.")

    def held(self, constraint: Constraint) -> Held:
        """A constraint in the engine's fields. EngineRefusal for one that it can't follow."""
        if constraint.kind not in self.constraint_kinds:
            raise self.cannot_hold(constraint)
        return Held(self.constraint_fields(constraint), constraint.reasoning)

    def cannot_hold(self, constraint: Constraint, why: str = "") -> EngineRefusal:
        kinds = {"lark": "a grammar", "regex": "a regular expression", "choice": "a choice of texts"}
        what = kinds.get(constraint.kind, "a JSON form")
        return EngineRefusal(
            "invalid-constraint", f"{self.title}, which serves this model, can't hold answers to {what}{why}."
        )

    def constraint_fields(self, constraint: Constraint) -> dict[str, Any]:
        raise self.cannot_hold(constraint)

    def request(self, asked: Asked) -> tuple[str, bytes]:
        """(path, body) of a request; its answer is a stream where `streams` says so."""
        if asked.task != "generate":
            path, fields = self.pooled_request(asked)
            return path, _ENCODE({"model": asked.model, **fields})
        path = "/v1/completions" if asked.chat is None else "/v1/chat/completions"
        body: dict[str, Any] = {"model": asked.model, **self.sampling_fields(asked)}
        if asked.chat is None:
            body["prompt"] = asked.ids if asked.text is None else asked.text
        else:
            body |= {"messages": self.messages(asked.chat.messages), **asked.chat.fields}
            if asked.sampling.max_new_tokens >= asked.context_tokens - len(asked.ids):
                body.pop("max_tokens")  # as much as its media leave, which the engine knows
        if self.streams(asked):
            body |= self.stream_fields(asked.without)
        return path, _ENCODE(body)

    def stream_fields(self, without: frozenset[str]) -> Mapping[str, object]:
        """How an answer is asked for as a stream."""
        return {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}

    def whole_request(self, asked: Asked) -> tuple[str, bytes]:
        """(path, body) of a request for a completion that is no stream, greedy and without anything else."""
        prompt = asked.ids if asked.text is None else asked.text
        fields = {"model": asked.model, "prompt": prompt, "max_tokens": asked.sampling.max_new_tokens, "temperature": 0}
        return "/v1/completions", _ENCODE(fields)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Those of a chat with media, in OpenAI's API, as the engine takes them."""
        return messages

    def pooled_request(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """(path, fields) of a request for a vector or a score."""
        form, pair = asked.form, asked.pair
        if pair is None:
            given = asked.ids if asked.text is None else asked.text
            return form.route, {"input": given, "encoding_format": form.encoding}
        if form.pairs == "score":
            return form.route, {"text_1": pair.query, "text_2": pair.text}
        if form.pairs == "documents":
            return form.route, {"query": pair.query, "documents": [pair.text]}
        return form.route, {"query": pair.query, "texts": [pair.text], "raw_scores": True}

    def forms_of(self, task: Task) -> Sequence[VectorForm]:
        """How it may be asked for vectors, or for scores; none: not at all."""
        return self.score_forms if task == "score" else self.vector_forms

    def shares_room(self, config: Mapping[str, Any]) -> bool:
        """Whether texts that it reads at once have to fit its context together."""
        return False

    def why_no_scores(self, config: Mapping[str, Any]) -> str | None:
        """Why its scores would be others than the authors', as a clause; None: they are the same."""
        return None

    def scale_of(self, config: Mapping[str, Any]) -> Scale | None:
        """What is made of its scores, so that they are the builtin engine's; None where that is tried."""
        return "as-is"

    def streams(self, asked: Asked) -> bool:
        return asked.task == "generate" and asked.sampling.prompt_logprobs is None

    def sampling_fields(self, asked: Asked) -> dict[str, Any]:
        """OpenAI's own fields."""
        sampling = asked.sampling
        fields: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if sampling.presence_penalty:
            fields["presence_penalty"] = sampling.presence_penalty
        if sampling.frequency_penalty:
            fields["frequency_penalty"] = sampling.frequency_penalty
        if sampling.seed is not None:
            fields["seed"] = sampling.seed
        if biases := self.biases(asked):
            fields["logit_bias"] = {str(token): bias for token, bias in biases.items()}
        if isinstance(sampling.constraint, Held):
            fields |= sampling.constraint.fields
        return fields

    def biases(self, asked: Asked) -> dict[int, float]:
        """What is added to logits, within what OpenAI's field allows; a token that is never chosen gets the least."""
        known = {
            token: max(-100.0, min(100.0, bias))
            for token, bias in asked.sampling.logit_bias
            if asked.vocabulary is None or token < asked.vocabulary
        }
        return known | dict.fromkeys(asked.sampling.banned_tokens, -100.0)

    # LoRA adapters, of engines that load them while they run.

    def adapter_name(self, adapter: LoadedAdapter) -> str:
        """What the engine calls it."""
        return adapter.id

    def load_body(self, adapter: LoadedAdapter, path: str) -> bytes:
        """Of a request to load the adapter in this folder."""
        return _ENCODE({"lora_name": self.adapter_name(adapter), "lora_path": path})

    def unload_body(self, adapter: LoadedAdapter) -> bytes:
        return _ENCODE({"lora_name": self.adapter_name(adapter)})

    def why_not_loaded(self, status: int, body: bytes, rank: int) -> str | None:
        """What an answer to such a request says against an adapter of this rank, as a sentence; None: it is loaded."""
        try:
            told = read_json(body, _Loaded) if body.lstrip().startswith(b"{") else _Loaded()
        except InvalidJson:
            told = _Loaded()
        if status == 200 and told.success is not False:
            return None
        message = told.error_message or message_of(body)
        if _ALREADY.search(message):
            return None  # by this name, which tells its bytes too
        if _RANK.search(message):
            return (
                f"It has rank {rank}, and {self.title} made room for less when it started. Pods that start from now on"
                f' have room for it; spec.engine.args: ["--max-lora-rank", "{rank}"] makes all of them start anew.'
            )
        if status == 404:
            return f"{self.title} loads no adapters while it runs: it answers 404. {message[:_LOGGED]}".strip()
        return f"{self.title} doesn't load it ({status}): {message[:_LOGGED]}"

    # What comes back.

    def pieces(self, data: bytes) -> Piece | None:
        """Of one event of a stream, or of a whole answer; None where it tells nothing. EngineError for garbage."""
        if data.strip() == b"[DONE]":
            return None
        try:
            chunk = read_chunk(data)
        except InvalidJson as error:
            raise self.unusable(f"sent what is no answer: it {error}") from None
        if chunk.failed:
            return Piece(error=self.failure(_status_of(chunk.error), data))
        piece = Piece()
        if (usage := chunk.usage) is not None:
            piece.prompt_tokens, piece.count = counted(usage.prompt_tokens), counted(usage.completion_tokens)
            if usage.prompt_tokens_details is not None:
                piece.cached_tokens = counted(usage.prompt_tokens_details.cached_tokens)
        if (choice := chunk.first) is not None:
            self._read(choice, piece)
        return piece

    def unusable(self, what: str) -> EngineError:
        """Of an engine whose answer can't be used; `what` it did."""
        return EngineRefusal("engine-failed", f"{self.title} {what}")

    def vector(self, data: bytes, size: int, form: VectorForm) -> Piece:
        """Of the answer to a request for a vector of `size` values, or for a score; 0: of any size.

        EngineRefusal for what is none.
        """
        try:
            values, tokens = read_vector(data, size)
        except ValueError as error:
            raise self.unusable(f"sent what is no vector: {error}") from None
        prompt_tokens = counted(tokens) if form.counts else None
        return Piece(embedding=made_of(values, form), finish="stop", prompt_tokens=prompt_tokens)

    def _read(self, choice: Choice, piece: Piece) -> None:
        if (said := choice.delta or choice.message) is not None:
            piece.text = said.text
        else:
            piece.text = choice.text
        if self.tells_ids and choice.token_ids is not None:
            piece.tokens = choice.token_ids
        if choice.logprobs is not None and self.logprobs:
            piece.logprobs = self.read_logprobs(choice.logprobs)
        if choice.prompt_logprobs is not None:
            piece.prompt_logprobs = [_prompt_logprobs(each) for each in choice.prompt_logprobs]
        if choice.finish_reason:
            if choice.finish_reason in ("error", "abort"):
                piece.error = self.unusable("gave this request up.")
            piece.finish = _FINISHES.get(choice.finish_reason, "stop")

    def read_logprobs(self, found: CompletionLogprobs) -> Sequence[TokenLogprobs]:
        """Those of completions and chats with `return_tokens_as_token_ids`."""
        if found.content is not None:
            return [
                TokenLogprobs(
                    _id_of(each), each.logprob, tuple((_id_of(top), top.logprob) for top in each.top_logprobs)
                )
                for each in found.content
            ]
        tops = found.top_logprobs or [None] * len(found.tokens)
        return [
            TokenLogprobs(
                _token_id(token),
                logprob if logprob is not None else 0.0,
                tuple(sorted(((_token_id(each), value) for each, value in (top or {}).items()), key=lambda x: -x[1])),
            )
            for token, logprob, top in zip(found.tokens, found.token_logprobs, tops, strict=False)
        ]

    def failure(self, status: int, body: bytes, asked: Asked | None = None) -> EngineError:
        """The error of an answer that is none: the request's where the engine says so, and else the engine's own."""
        message = message_of(body)
        if status in (401, 403):
            return self.unusable("doesn't take the key that it was started with.")
        if asked is not None and asked.task != "generate" and (found := _TOO_LARGE.search(message)) is not None:
            given = max(int(found[1] or 0), asked.context_tokens + 1)  # llama.cpp's, which says 500
            return context_exceeded(asked.context_tokens, given, at_least=found[1] is None)
        if status in _OF_REQUESTS:
            if _TOO_LONG.search(message) and asked is not None:
                numbers = [int(found) for found in _NUMBER.findall(message) if len(found) < _LONGEST_ID]
                given = max([number for number in numbers if number >= asked.context_tokens], default=len(asked.ids))
                return context_exceeded(asked.context_tokens, given, at_least=True)
            part: Literal["messages", "prompt"] = "messages" if asked is None or asked.chat else "prompt"
            held = asked is not None and asked.sampling.constraint is not None
            why = f": {message[:_LOGGED]}" if message else f" ({status})."
            return EngineRefusal(
                "invalid-constraint" if held else "invalid-prompt",
                f"{self.title}, which serves this model, refuses the request{why}",
                part=None if held else part,
            )
        if self.gone_words is not None and self.gone_words.search(message):
            return EngineGone(f"it says: {message[:_LOGGED]}")
        return self.unusable(f"failed on this request ({status}){f': {message[:_LOGGED]}' if message else '.'}")

    def dispensable(self, status: int, body: bytes) -> str | None:
        """The field that an answer refuses, of those that a request may go without; None: it isn't about such a one."""
        return None

    def facts(self, answers: Mapping[str, bytes], own: Sequence[str] = ()) -> Facts:
        """From the answers of `facts_paths`, those that there were. `own` are the names that we have for the model."""
        model = self.chosen_model(answers, own)
        return Facts(
            model=model.id,
            context_tokens=model.max_model_len or model.context_length,
            models=tuple(each.id for each in self.models(answers)),
        )

    def label(self, facts: Facts) -> str:
        """What people read where they are told which engine computes."""
        return f"{self.title} {facts.version}".strip()

    def models(self, answers: Mapping[str, bytes]) -> list[_Model]:
        """The engine's model and, behind it, what else it lists, such as adapters."""
        try:
            found = read_json(answers.get("/v1/models") or answers.get("/models") or b"{}")
        except InvalidJson:
            return []
        listed = found.get("data") if isinstance(found, dict) else None
        return [_model(each) for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []

    def chosen_model(self, answers: Mapping[str, bytes], own: Sequence[str] = ()) -> _Model:
        models = self.models(answers)
        name = self.model_of([each.id for each in models], own)
        return next((each for each in models if each.id == name), _Model())

    def model_of(self, listed: Sequence[str], own: Sequence[str]) -> str:
        """Which of the names that it lists the model has; empty: nobody knows. Behind the first are adapters."""
        return listed[0] if listed else ""

    def is_gpu(self, facts: Facts, log: str) -> bool:
        """Whether it computes on a GPU, from what it says."""
        return self.gpu_words.search(log) is not None


def _prompt_logprobs(entry: Mapping[str, PromptLogprob] | None) -> TokenLogprobs | None:
    """vLLM's: by id, the prompt's own token first, and then the likeliest."""
    if not entry:
        return None
    found = [(int(token), each.logprob) for token, each in entry.items() if _is_id(token)]
    if not found:
        return None
    (token, logprob), top = found[0], sorted(found, key=lambda each: -each[1])
    return TokenLogprobs(token, logprob, tuple(top))


def _id_of(told: ChatLogprob) -> int:
    return told.id if told.id is not None else _token_id(told.token)


def _token_id(text: str) -> int:
    number = text.removeprefix("token_id:")
    return int(number) if _is_id(number) else 0


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < _LONGEST_ID


def _status_of(error: Any) -> int:
    """Of an error in the middle of a stream, whose own status was 200."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 500


def _model(found: Mapping[str, Any]) -> _Model:
    name, meta = found.get("id"), found.get("meta")
    return _Model(
        name if isinstance(name, str) else "",
        _tokens(found.get("max_model_len")),
        _tokens(found.get("context_length")),
        meta if isinstance(meta, dict) else None,
    )


def _tokens(found: Any) -> int | None:
    """A length; None for what can't be one."""
    if isinstance(found, str) and _is_id(found):
        found = int(found)
    return found if type(found) is int and 0 < found < _MOST_CONTEXT else None
