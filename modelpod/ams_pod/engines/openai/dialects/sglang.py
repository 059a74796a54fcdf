"""SGLang: OpenAI's completions of token ids, with fields of its own for sampling and forms."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.base import Dialect, PhasePattern
from ams_pod.engines.openai.pieces import Asked, Facts, LoadedAdapter
from ams_pod.engines.port import Constraint, EngineRefusal, Sampling


class SGLang(Dialect):
    title: ClassVar[str] = "SGLang"
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models", "/get_server_info")
    metrics_path: ClassVar[str] = "/metrics"
    metric_names: ClassVar[Mapping[str, str]] = {
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
        "sglang:token_usage": "cache_used",
        "sglang:num_used_tokens": "cache_tokens",
    }
    load_path: ClassVar[str] = "/load_lora_adapter"
    unload_path: ClassVar[str] = "/unload_lora_adapter"
    constraint_kinds: ClassVar[frozenset[str]] = frozenset({"json-object", "json-schema", "regex", "choice", "lark"})
    phases: ClassVar[tuple[PhasePattern, ...]] = (
        (re.compile(r"server_args="), Phase.IMPORTING),
        (re.compile(r"Load weight begin"), Phase.READING),
        (re.compile(r"Loading safetensors checkpoint shards: +(\d+)%"), Phase.READING),
        (re.compile(r"Load weight end"), Phase.BUILDING),
        (re.compile(r"Capture cuda graph begin|Capturing batches"), Phase.WARMING_UP),
    )

    def refusal(self, sampling: Sampling) -> EngineRefusal | None:
        if sampling.allowed_tokens is not None:
            return self._cannot("allowed_token_ids")
        if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
            return self._cannot("logprobs with ids of tokens")
        return None

    def sampling_fields(self, asked: Asked) -> dict[str, Any]:
        sampling = asked.sampling
        fields = super().sampling_fields(asked)
        fields |= {
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "ignore_eos": sampling.ignore_eos,
            "min_tokens": min(sampling.min_new_tokens, sampling.max_new_tokens),
            "skip_special_tokens": False,
        }
        if sampling.stop_tokens:
            fields["stop_token_ids"] = sampling.stop_tokens
        if asked.adapter is not None:
            fields["lora_path"] = asked.adapter.key  # whose prompts it caches apart from others
        return fields

    def constraint_fields(self, constraint: Constraint) -> dict[str, Any]:
        if constraint.white_space is not None:
            raise self.cannot_hold(constraint, " with white space of its own")
        match constraint.kind:
            case "json-object":
                return {"json_schema": '{"type":"object"}'}
            case "json-schema":
                return {"json_schema": constraint.value}
            case "regex":
                return {"regex": constraint.value}
            case "choice":
                choices = read_json(constraint.value, list[str])
                return {"regex": "|".join(f"({re.escape(each)})" for each in choices)}
            case "lark":
                return {"ebnf": constraint.value}

    def adapter_name(self, adapter: LoadedAdapter) -> str:
        return adapter.key

    def facts(self, answers: Mapping[str, bytes]) -> Facts:
        try:
            told = read_json(answers.get("/get_server_info", b"{}"), _Info)
        except InvalidJson:
            told = _Info()
        facts = super().facts(answers)
        return replace(facts, version=told.version, context_tokens=facts.context_tokens or told.context_length)

    def is_gpu(self, facts: Facts, log: str) -> bool:
        return True


class _Info(msgspec.Struct):
    version: str = ""
    context_length: int | None = None
