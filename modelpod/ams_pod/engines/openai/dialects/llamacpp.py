"""llama.cpp's server: its own `/completion`, which takes and gives token ids; chats with media by OpenAI's route."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from ams_common.families import Modality
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.answers import counted
from ams_pod.engines.openai.dialects.base import Dialect, PhasePattern
from ams_pod.engines.openai.gbnf import quoted
from ams_pod.engines.openai.pieces import Asked, Facts, Held, Piece, Scale, VectorForm
from ams_pod.engines.port import (
    Constraint,
    EngineRefusal,
    Sampling,
    TokenLogprobs,
)

_PROBABILITIES = ("qwen3", "qwen3vl")
_SEEDS = (1 << 32) - 1  # the last one asks for chance


class _TokenProbability(msgspec.Struct):
    id: int = 0
    logprob: float = 0.0
    top_logprobs: list["_TokenProbability"] = []


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Chunk(msgspec.Struct):
    content: str = ""
    tokens: list[int] = []
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None
    completion_probabilities: list[_TokenProbability] = []
    timings: _Timings | None = None
    error: Any = None


_CHUNKS = msgspec.json.Decoder(_Chunk)
_ENCODE = msgspec.json.Encoder().encode


class LlamaCpp(Dialect):
    title: ClassVar[str] = "llama.cpp"
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models", "/props", "/lora-adapters")
    metrics_path: ClassVar[str] = "/metrics"
    metric_names: ClassVar[Mapping[str, str]] = {
        "llamacpp:requests_processing": "running",
        "llamacpp:requests_deferred": "waiting",
        "llamacpp:kv_cache_usage_ratio": "cache_used",  # of older versions
    }
    tells_ids: ClassVar[bool] = True
    picks_slots: ClassVar[bool] = True
    logprobs: ClassVar[bool] = True
    constraint_kinds: ClassVar[frozenset[str]] = frozenset({"json-object", "json-schema", "choice", "lark"})
    takes_gbnf: ClassVar[bool] = True
    phases: ClassVar[tuple[PhasePattern, ...]] = (
        (re.compile(r"load_model: loading model"), Phase.READING),
        (re.compile(r"load_model: initializing|warming up the model"), Phase.WARMING_UP),
    )
    key_variable: ClassVar[str] = "LLAMA_API_KEY"
    # Of texts: which tokens begin and end one is the file's affair, and no part of its tokenizer as it is read here.
    vector_forms: ClassVar[Sequence[VectorForm]] = (VectorForm(prompt="text"),)
    score_forms: ClassVar[Sequence[VectorForm]] = (VectorForm("/v1/rerank", "text", pairs="documents"),)
    takes_vector_ids: ClassVar[bool] = True
    pools_freely: ClassVar[bool] = True
    gpu_words: ClassVar[re.Pattern[str]] = re.compile(r"found \d+ (CUDA|ROCm) devices|Metal|offloaded [1-9]\d*/", re.I)

    def refusal(self, sampling: Sampling) -> EngineRefusal | None:
        for asked, name in (
            (sampling.allowed_tokens is not None, "allowed_token_ids"),
            (sampling.min_new_tokens > 0, "min_tokens"),
            (sampling.prompt_logprobs is not None, "prompt_logprobs"),
        ):
            if asked:
                return self._cannot(name)
        return None

    def request(self, asked: Asked) -> tuple[str, bytes]:
        if asked.chat is not None or asked.task != "generate":
            return super().request(asked)
        sampling = asked.sampling
        body: dict[str, Any] = {
            "prompt": asked.ids,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": asked.reuses,
            "n_predict": sampling.max_new_tokens,
            **self._choosing(asked),
        }
        if asked.slot is not None:
            body["id_slot"] = asked.slot
        if sampling.logprobs is not None:
            body["n_probs"] = max(1, sampling.logprobs)
        return "/completion", _ENCODE(body)

    def sampling_fields(self, asked: Asked) -> dict[str, Any]:
        """Of its route for chats, which takes its own fields too."""
        fields = {"max_tokens": asked.sampling.max_new_tokens, **self._choosing(asked)}
        if asked.sampling.logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": asked.sampling.logprobs}
        return fields

    def _choosing(self, asked: Asked) -> dict[str, Any]:
        """How tokens are chosen, in the order in which all engines do it: temperature first."""
        sampling = asked.sampling
        if sampling.temperature > 0:
            fields: dict[str, Any] = {
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "min_p": sampling.min_p,
                "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            }
        else:  # its temperature would leave the whole vocabulary, of whose exponentials it then takes the sum
            fields = {"temperature": 0, "top_k": 1, "samplers": ["penalties", "top_k"]}
        if sampling.repetition_penalty != 1.0 or sampling.presence_penalty or sampling.frequency_penalty:
            fields |= {
                "repeat_last_n": asked.context_tokens,
                "repeat_penalty": sampling.repetition_penalty,
                "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty,
            }
        if sampling.seed is not None:
            fields["seed"] = sampling.seed % _SEEDS
        if asked.adapters:  # each time: what a request doesn't name may be applied, however the engine was started
            chosen = asked.adapter.number if asked.adapter is not None else None
            fields["lora"] = [{"id": each, "scale": float(each == chosen)} for each in range(asked.adapters)]
        if sampling.ignore_eos:
            fields["ignore_eos"] = True
        biases: list[list[Any]] = [
            [token, bias] for token, bias in sampling.logit_bias if asked.vocabulary is None or token < asked.vocabulary
        ]
        biases += [[token, False] for token in sampling.banned_tokens]
        if biases:
            fields["logit_bias"] = biases
        if isinstance(sampling.constraint, Held):
            if asked.thinking and sampling.constraint.reasoning:
                raise EngineRefusal(
                    "invalid-constraint",
                    "llama.cpp, which serves this model, can't let it think before an answer of a given form: send "
                    '"chat_template_kwargs": {"enable_thinking": false}.',
                )
            fields |= sampling.constraint.fields
        return fields

    def constraint_fields(self, constraint: Constraint) -> dict[str, Any]:
        if constraint.white_space is not None:
            raise self.cannot_hold(constraint, " with white space of its own")
        try:
            match constraint.kind:
                case "json-object":
                    return {"json_schema": {"type": "object"}}
                case "json-schema":
                    return {"json_schema": read_json(constraint.value)}
                case "choice":
                    choices = read_json(constraint.value, list[str])
                    return {"grammar": "root ::= " + " | ".join(map(quoted, choices))}
        except InvalidJson as error:
            raise EngineRefusal("invalid-constraint", f"The form of the answer {error}.") from None
        return {"grammar": constraint.value}

    def shares_room(self, config: Mapping[str, Any]) -> bool:
        """Decoders keep keys and values of all slots in one cache."""
        return config.get("is_decoder") is True

    def why_no_scores(self, config: Mapping[str, Any]) -> str | None:
        types = config.get("type_vocab_size")
        if isinstance(types, int) and types > 1:
            return (
                "the model is told by types of tokens which of two texts they are of, and llama.cpp tells it the same"
                " of all; take the builtin engine or vllm, with the repository's safetensors"
            )
        return None

    def scale_of(self, config: Mapping[str, Any]) -> Scale:
        """It tells logits, but for models that were made to answer yes or no."""
        return "as-is" if config.get("model_type") in _PROBABILITIES else "sigmoid"

    def pieces(self, data: bytes) -> Piece | None:
        if not data.startswith(b'{"index"'):
            return super().pieces(data)  # of a chat
        try:
            chunk = _CHUNKS.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self.unusable(f"sent what is no answer: {ascii(str(error))[1:200]}") from None
        if chunk.error is not None:
            return Piece(error=self.failure(500, data))
        piece = Piece(chunk.tokens, chunk.content, counted(chunk.tokens_predicted))
        if chunk.completion_probabilities:
            piece.logprobs = [
                TokenLogprobs(each.id, each.logprob, tuple((top.id, top.logprob) for top in each.top_logprobs))
                for each in chunk.completion_probabilities
            ]
        if chunk.stop:
            piece.finish = "length" if chunk.stop_type == "limit" else "stop"
            piece.prompt_tokens = counted(chunk.tokens_evaluated)
            piece.cached_tokens = counted(chunk.timings.cache_n) if chunk.timings is not None else None
        return piece

    def facts(self, answers: Mapping[str, bytes], own: Sequence[str] = ()) -> Facts:
        try:
            props = read_json(answers.get("/props", b"{}"), _Props)
        except InvalidJson:
            props = _Props()
        model = self.chosen_model(answers, own)
        meta = model.meta or {}
        takes: list[Modality] = ["text"]
        takes += ["image"] if props.modalities.get("vision") else []
        takes += ["audio"] if props.modalities.get("audio") else []
        return replace(
            super().facts(answers, own),
            version=props.build_info,
            context_tokens=props.default_generation_settings.n_ctx or _number(meta.get("n_ctx")),
            concurrent_requests=props.total_slots,
            parameters=_number(meta.get("n_params")),
            weights_bytes=_number(meta.get("size")),
            quantization=str(meta.get("ftype") or "")[:32],
            vocabulary=_number(meta.get("n_vocab")),
            modalities=tuple(sorted(takes)),
            adapters=_adapters(answers.get("/lora-adapters", b"")),
        )


class _Generation(msgspec.Struct, frozen=True):
    n_ctx: int | None = None


class _Props(msgspec.Struct):
    default_generation_settings: _Generation = _Generation()
    total_slots: int | None = None
    build_info: str = ""
    modalities: dict[str, bool] = {}


def _adapters(answer: bytes) -> int | None:
    try:
        return len(read_json(answer, list[_Adapter]))
    except InvalidJson:
        return None


class _Adapter(msgspec.Struct):
    id: int


def _number(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
