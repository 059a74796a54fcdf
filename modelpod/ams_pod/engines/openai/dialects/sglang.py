"""SGLang: OpenAI's completions of token ids, with fields of its own for sampling and forms."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
from ams_common.families import Modality
from ams_common.lifecycle import Phase
from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.openai.dialects.base import Dialect, PhasePattern
from ams_pod.engines.openai.pieces import Asked, Facts, LoadedAdapter, VectorForm
from ams_pod.engines.port import Constraint, EngineRefusal, Sampling

# Videos are taken as files; here they are frames, which it can't read.
_MODALITIES: tuple[Modality, ...] = ("text", "image", "audio")


class SGLang(Dialect):
    title: ClassVar[str] = "SGLang"
    facts_paths: ClassVar[tuple[str, ...]] = ("/v1/models", "/server_info", "/get_server_info")
    older_paths: ClassVar[Mapping[str, str]] = {"/get_server_info": "/server_info"}  # before 0.5.7
    metrics_path: ClassVar[str] = "/metrics"
    metric_names: ClassVar[Mapping[str, str]] = {
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
        "sglang:token_usage": "cache_used",
        "sglang:num_used_tokens": "cache_tokens",
    }
    tells_ids: ClassVar[bool] = True  # from 0.5.18; texts before
    takes_gbnf: ClassVar[bool] = True  # which its grammar backends call EBNF
    vector_forms: ClassVar[Sequence[VectorForm]] = (VectorForm(encoding="float"),)
    decoders_alone: ClassVar[frozenset[str]] = frozenset({"qwen2", "qwen3"})  # whose last token it takes, and its norm
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
            "return_token_ids": True,
        }
        if sampling.stop_tokens:
            fields["stop_token_ids"] = sampling.stop_tokens
        if asked.salt:
            fields["cache_salt"] = asked.salt
        if asked.adapter is not None:
            fields["lora_path"] = asked.adapter.key  # whose prompts it caches apart from others
        return fields

    def constraint_fields(self, constraint: Constraint) -> dict[str, Any]:
        if constraint.white_space is not None:
            raise self.cannot_hold(constraint, " with white space of its own")
        match constraint.kind:
            case "json-object":
                return {"response_format": {"type": "json_object"}}
            case "json-schema":  # its own field `json_schema` is ignored in chats
                return {"response_format": {"type": "json_schema", "json_schema": _schema(constraint)}}
            case "regex":
                return {"regex": constraint.value}
            case "choice":
                choices = read_json(constraint.value, list[str])
                return {"regex": "|".join(f"({re.escape(each)})" for each in choices)}
            case "lark":
                return {"ebnf": constraint.value}

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Recordings as `audio_url`, since `input_audio` is refused before 0.5.20."""
        return [
            {**message, "content": [_part(part) for part in message["content"]]}
            if isinstance(message.get("content"), list)
            else message
            for message in messages
        ]

    def adapter_name(self, adapter: LoadedAdapter) -> str:
        return adapter.key

    def facts(self, answers: Mapping[str, bytes], own: Sequence[str] = ()) -> Facts:
        told = _Info()
        for path in ("/server_info", "/get_server_info"):
            with contextlib.suppress(InvalidJson):
                told = read_json(answers[path], _Info) if path in answers else told
        facts = super().facts(answers, own)
        return replace(
            facts,
            version=told.version,
            context_tokens=facts.context_tokens or told.context_length,
            modalities=_MODALITIES,
        )

    def is_gpu(self, facts: Facts, log: str) -> bool:
        return True


class _Info(msgspec.Struct):
    version: str = ""
    context_length: int | None = None


def _schema(constraint: Constraint) -> dict[str, Any]:
    try:
        schema = read_json(constraint.value)
    except InvalidJson as error:
        raise EngineRefusal("invalid-constraint", f"The form of the answer {error}.") from None
    return {"name": "answer", "schema": {} if schema is True else schema}


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "input_audio":
        return part
    sound = part["input_audio"]
    return {"type": "audio_url", "audio_url": {"url": f"data:audio/{sound['format']};base64,{sound['data']}"}}
