"""vLLM: completions of token ids, whose chunks tell the answer's ids."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.base import Dialect, PhasePattern
from ams_pod.engines.openai.pieces import Asked, Facts, VectorForm
from ams_pod.engines.port import Constraint, EngineRefusal, Sampling

_MEDIA_ARGUMENTS = "arguments of media (it would with --trust-request-mm-kwargs)"


class Vllm(Dialect):
    title: ClassVar[str] = "vLLM"
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models", "/version")
    metrics_path: ClassVar[str] = "/metrics"
    metric_names: ClassVar[Mapping[str, str]] = {
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:kv_cache_usage_perc": "cache_used",
        "vllm:gpu_cache_usage_perc": "cache_used",  # its name before 0.10
        "process_resident_memory_bytes": "process_bytes",
    }
    tells_ids: ClassVar[bool] = True
    logprobs: ClassVar[bool] = True
    prompt_logprobs: ClassVar[bool] = True
    vector_forms: ClassVar[Sequence[VectorForm]] = (VectorForm(),)
    # Texts: a prompt of ids has no room for which of its tokens belong to which of the two.
    score_forms: ClassVar[Sequence[VectorForm]] = (VectorForm("/v1/score"),)
    constraint_kinds: ClassVar[frozenset[str]] = frozenset({"json-object", "json-schema", "regex", "choice", "lark"})
    phases: ClassVar[tuple[PhasePattern, ...]] = (
        (re.compile(r"Initializing a V1 LLM engine|Resolved architecture"), Phase.IMPORTING),
        (re.compile(r"Starting to load model"), Phase.READING),
        (re.compile(r"Loading safetensors checkpoint shards: +(\d+)%"), Phase.READING),
        (re.compile(r"Loading weights took"), Phase.BUILDING),
        (re.compile(r"torch\.compile|Dynamo bytecode|Compiling a graph|Warming up"), Phase.WARMING_UP),
        (re.compile(r"Capturing CUDA graphs?[^:]*: +(\d+)%"), Phase.WARMING_UP),
    )
    load_path: ClassVar[str] = "/v1/load_lora_adapter"
    unload_path: ClassVar[str] = "/v1/unload_lora_adapter"
    sleep_path: ClassVar[str] = "/sleep?level=1"
    wake_path: ClassVar[str] = "/wake_up"
    gone_words: ClassVar[re.Pattern[str] | None] = re.compile(r"EngineCore encountered|EngineDead")
    cpu_words: ClassVar[re.Pattern[str]] = re.compile(r"CPU KV cache|cpu_worker|device_config=cpu")
    key_variable: ClassVar[str] = "VLLM_API_KEY"
    extra_variables: ClassVar[Mapping[str, str]] = {"VLLM_NO_USAGE_STATS": "1"}

    def refusal(self, sampling: Sampling) -> EngineRefusal | None:
        return None

    def sampling_fields(self, asked: Asked) -> dict[str, Any]:
        sampling = asked.sampling
        fields = super().sampling_fields(asked)
        fields |= {
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "ignore_eos": sampling.ignore_eos,
            "min_tokens": min(sampling.min_new_tokens, sampling.max_new_tokens),
            "return_token_ids": True,
        }
        if sampling.stop_tokens:
            fields["stop_token_ids"] = sampling.stop_tokens
        if sampling.allowed_tokens is not None:
            fields["allowed_token_ids"] = sampling.allowed_tokens
        if sampling.logprobs is not None:
            if asked.chat is None:
                fields["logprobs"] = sampling.logprobs
            else:
                fields |= {"logprobs": True, "top_logprobs": sampling.logprobs}
            fields["return_tokens_as_token_ids"] = True
        if sampling.prompt_logprobs is not None:
            fields["prompt_logprobs"] = sampling.prompt_logprobs
        if asked.salt:
            fields["cache_salt"] = asked.salt
        if asked.adapter is not None:
            fields["model"] = asked.adapter.id  # whose prompts it caches apart from others
        rate = asked.chat.frame_rate if asked.chat is not None else None
        if rate is not None and _MEDIA_ARGUMENTS not in asked.without:
            fields["media_io_kwargs"] = {"video": {"num_frames": -1, "fps": rate}}
            fields["mm_processor_kwargs"] = {"fps": rate}  # which Qwen2.5-Omni's looks at
        return fields

    def dispensable(self, status: int, body: bytes) -> str | None:
        """From 0.30 it takes arguments of media from requests only with `--trust-request-mm-kwargs`."""
        try:
            refused = read_json(body, _Refusal).error.param
        except InvalidJson:
            return None
        return _MEDIA_ARGUMENTS if status == 400 and refused in ("media_io_kwargs", "mm_processor_kwargs") else None

    def constraint_fields(self, constraint: Constraint) -> dict[str, Any]:
        value = constraint.value
        fields: dict[str, Any]
        match constraint.kind:
            case "json-object":
                fields = {"json_object": True}
            case "json-schema":
                fields = {"json": self._json(constraint)}
            case "regex":
                fields = {"regex": value}
            case "choice":
                fields = {"choice": self._json(constraint)}
            case "lark":
                fields = {"grammar": value}
        if constraint.white_space == "":
            fields["disable_any_whitespace"] = True
        elif constraint.white_space is not None:
            fields["whitespace_pattern"] = constraint.white_space
        return {"structured_outputs": fields}

    def _json(self, constraint: Constraint) -> Any:
        try:
            return read_json(constraint.value)
        except InvalidJson as error:
            raise EngineRefusal("invalid-constraint", f"The form of the answer {error}.") from None

    def facts(self, answers: Mapping[str, bytes], own: Sequence[str] = ()) -> Facts:
        try:
            version = read_json(answers.get("/version", b"{}"), _Version).version
        except InvalidJson:
            version = ""
        listed = len(self.models(answers))
        return replace(super().facts(answers, own), version=version, adapters=listed - 1 if listed else None)

    def is_gpu(self, facts: Facts, log: str) -> bool:
        return "cpu" not in facts.version and self.cpu_words.search(log) is None


class _Version(msgspec.Struct):
    version: str = ""


class _Fault(msgspec.Struct):
    param: str | None = None


class _Refusal(msgspec.Struct):
    """The body of an error; what it says of a request may be that request's own words."""

    error: _Fault
