"""What is done with each field that clients send: one table, for whoever reads requests and for docs/fields.md.

A field of a wire type is honoured. Of the others, those in this table are known: `inert` ones are taken and change
nothing, as they are not about the answer; `refused` ones would change the answer, so that a request that sets them is
an error, unless their value is one of `harmless`, which ask for what happens anyway. Null is harmless everywhere. A
field that is neither is ignored, and the header X-AMS-Ignored-Fields names it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
from msgspec import inspect

from ams_common.wire.embeddings import EmbeddingRequest, RerankRequest
from ams_common.wire.generate import GenerateRequest
from ams_common.wire.messages import CountTokensRequest, MessagesRequest
from ams_common.wire.openai import ChatRequest, CompletionRequest
from ams_common.wire.responses import ResponsesRequest
from ams_common.wire.tokenizing import DetokenizeRequest, TokenizeRequest
from ams_common.wire.transcription import TranscriptionRequest

Treatment = Literal["inert", "refused"]

ROUTES: dict[type[msgspec.Struct], str] = {
    ChatRequest: "chat",
    CompletionRequest: "completions",
    ResponsesRequest: "responses",
    MessagesRequest: "messages",
    GenerateRequest: "generate",
    TranscriptionRequest: "transcriptions",
    TokenizeRequest: "tokenize",
    EmbeddingRequest: "embeddings",
    RerankRequest: "rerank",
    DetokenizeRequest: "detokenize",
}


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field. `path` is as in `messages[].name`; `sentence` goes on after the field's name in an error."""

    path: str
    treatment: Treatment
    sentence: str
    harmless: tuple[Any, ...] = ()

    def unknown_in(self, value: Any) -> Iterator[str]:
        """The fields of an object that may pass which say more than a harmless one's."""
        known = {name for each in self.harmless if isinstance(each, dict) for name in each}
        if self.treatment == "refused" and isinstance(value, dict):
            yield from (name for name, each in value.items() if name not in known and each is not None)

    def takes(self, value: Any) -> bool:
        """Whether a request with this value may pass."""
        return self.treatment == "inert" or value is None or any(_same(value, each) for each in self.harmless)


def rules_of(type_: type[msgspec.Struct]) -> Sequence[FieldRule]:
    """The rules for requests of a wire type; a field that the type has is honoured and has none."""
    own = {field.encode_name for field in msgspec.structs.fields(type_)}
    return [rule for rule in _RULES.get(type_, ()) if rule.path not in own]


def _same(value: Any, other: Any) -> bool:
    """Equal, and of the same type in JSON: 0 is 0.0, and no false. An object may hold more than a harmless one does."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, dict) and isinstance(other, dict) and other:
        return all(name in value and _same(value[name], each) for name, each in other.items())
    return bool(value == other)


def _inert(*paths: str, why: str) -> list[FieldRule]:
    return [FieldRule(path, "inert", why) for path in paths]


def _refused(*paths: str, why: str = "is not supported", harmless: tuple[Any, ...] = ()) -> list[FieldRule]:
    return [FieldRule(path, "refused", why, harmless) for path in paths]


_ANY_JSON = [
    *_inert("user", "safety_identifier", "metadata", why="is for the client's own records"),
    *_inert("store", why="nothing is stored"),
    *_inert("service_tier", "priority", why="all requests are served alike"),
    *_inert("request_id", "rid", why="the id of a request is the header X-Request-Id"),
    *_inert(
        "prompt_cache_key", "prompt_cache_retention", "cache_prompt", "id_slot", "prediction",
        why="is about speed alone",
    ),
    *_inert("keep_alive", why="how long a model stays is its manifest's"),
    *_inert("timings_per_token", why="times are in the metrics"),
    *_inert("spaces_between_special_tokens", why="is about how special tokens look"),
    *_inert("guided_decoding_backend", why="there is one way to do it"),
    *_refused("n", "best_of", harmless=(1,), why="only 1 answer a request is supported here"),
    *_refused("top_logprobs", harmless=(0,)),
    *_refused("prompt_logprobs"),
    *_refused("bad_words", "logits_processors", harmless=([],)),
    *_refused("return_token_ids", "return_tokens_as_token_ids", harmless=(False,)),
    *_refused("truncate_prompt_tokens", why="is not supported; a prompt that is too long is an error"),
    *_refused("use_beam_search", harmless=(False,)),
    *_refused("num_beams", "length_penalty", harmless=(1,), why="beam search is not supported"),
    *_refused("repeat_penalty", harmless=(1,), why="is not supported; use repetition_penalty"),
    *_refused("typical_p", "tfs_z", harmless=(1,)),
    *_refused(
        "top_a", "mirostat", "dynatemp_range", "smoothing_factor", "dry_multiplier", "xtc_probability",
        "no_repeat_ngram_size", harmless=(0,),
    ),
    *_refused("structural_tag", "structured_outputs.structural_tag"),
    *_refused(
        "structured_outputs.disable_additional_properties", harmless=(False,),
        why="is not supported; say additionalProperties in the schema",
    ),
    *_inert(
        "structured_outputs.backend", "structured_outputs.disable_fallback", "structured_outputs._backend",
        "structured_outputs._backend_was_auto", why="there is one way to do it",
    ),
    *_refused("reasoning_effort", harmless=("medium",), why="how much a model reasons can't be set"),
    *_refused(
        "reasoning", "thinking", "enable_thinking", "thinking_budget", "thinking_token_budget", "think",
        why="how much a model reasons can't be set",
    ),
    *_refused(
        "include_reasoning", "separate_reasoning", "stream_reasoning", harmless=(True,),
        why="reasoning is always told apart",
    ),
    *_refused("reasoning_format", harmless=("auto", "deepseek"), why="reasoning is always told apart"),
    *_refused("chat_template_kwargs", harmless=({},), why="options of chat templates are not supported"),
    *_refused("chat_template", why="is not supported; the model's own is used"),
    *_refused(
        "lora_path", "lora", "adapter_id", harmless=([],),
        why="is not supported; ask for an adapter by the model's name, as in MODEL:ADAPTER",
    ),
]  # fmt: skip
_OPENAI = [*_ANY_JSON, *_inert("stream_options.include_obfuscation", why="streams are not padded")]

_TOOLS = [
    *_refused("tools", "functions", harmless=([],), why="calls of tools are for /v1/chat/completions"),
    *_refused(
        "tool_choice", "function_call", harmless=("none", "auto"), why="calls of tools are for /v1/chat/completions"
    ),
]
_CHAT = [
    *_OPENAI,
    *_refused("modalities", harmless=(["text"],), why="answers are text"),
    *_refused("audio", why="answers are text"),
    *_refused("verbosity", harmless=("medium",)),
    *_refused("web_search_options"),
    *_refused("documents", harmless=([],), why="is not supported; put documents into messages"),
    *_refused("add_special_tokens", "echo", harmless=(False,)),
    *_inert("messages[].annotations", why="is about an earlier answer"),
    *_inert("messages[].cache_control", "messages[].content[].cache_control", why="is about speed alone"),
    *_refused("messages[].audio", why="an earlier answer is text"),
]
_COMPLETION = [
    *_OPENAI,
    *_refused("add_special_tokens", harmless=(True,)),
]
_GENERATE = [
    *_ANY_JSON,
    *_TOOLS,
    *_refused("logprobs", "echo", harmless=(False,)),
]
_RESPONSES = [
    *_ANY_JSON,
    *_inert("stream_options", why="streams are not padded, and end with usage"),
    *_inert(
        "prompt_cache_options", "access_programs", why="is about speed, cost or safety",
    ),
    *_inert("client_metadata", why="is for the client's own records"),
    *_inert("max_tool_calls", why="this server runs no tools itself"),
    *_inert("reasoning.generate_summary", "reasoning.context", "reasoning.mode", why="the model's own way is taken"),
    *_inert(
        "input[].phase", "input[].caller", "input[].content[].annotations", "input[].content[].logprobs",
        "input[].content[].prompt_cache_breakpoint", why="is about an earlier answer, or about speed alone",
    ),
    *_refused("background", harmless=(False,), why="is not supported; a response is computed while its client waits"),
    *_refused("background_options", why="is not supported; a response is computed while its client waits"),
    *_refused("conversation", why="is not supported; use previous_response_id, or send the whole input"),
    *_refused("prompt", why="is not supported; put the prompt into instructions and input"),
    *_refused("context_management", harmless=([],), why="is not supported; a prompt that is too long is an error"),
    *_refused("truncation", harmless=("disabled",), why="is not supported; a prompt that is too long is an error"),
    *_refused("moderation", "image", why="is not supported"),
]  # fmt: skip
_MESSAGES_PROMPT = [
    *[rule for rule in _ANY_JSON if rule.path != "container"],
    *_inert("anthropic_beta", "betas", why="all there is may be used"),
    *_inert(
        "speed", "inference_geo", "diagnostics", "user_profile_id", "workspace_id", why="all requests are served alike",
    ),
    *_inert("context_management", why="the conversation is taken as it is sent"),
    *_inert(
        "cache_control", "system[].cache_control", "tools[].cache_control", "messages[].content[].cache_control",
        "messages[].content[].content[].cache_control", why="is about speed alone",
    ),
    *_inert("messages[].content[].citations", "system[].citations", why="answers cite nothing"),
    *_inert("messages[].content[].caller", "messages[].content[].toolset_name", why="is about an earlier answer"),
    *_inert(
        "tools[].defer_loading", "tools[].input_examples", "tools[].eager_input_streaming", "tools[].allowed_callers",
        why="all tools are declared at once, and called by the model alone",
    ),
    *_refused("output_format", why="is not supported; use output_config.format"),
    *_refused("container", why="is not supported; this server runs no tools itself"),
    *_refused("mcp_servers", harmless=([],), why="is not supported; this server runs no tools itself"),
]  # fmt: skip
_MESSAGES = [*_MESSAGES_PROMPT]
_TRANSCRIPTION = [
    *_inert("user", why="is for the client's own records"),
    *_inert("chunking_strategy", why="long recordings are heard in windows of our own"),
    *_refused("include", why="there are no logprobs of a transcript"),
    *_refused("known_speaker_names", "known_speaker_references", why="speakers are not told apart"),
]
_EMBEDDING = [
    *_inert("user", "safety_identifier", "metadata", why="is for the client's own records"),
    *_inert("priority", "service_tier", why="all requests are served alike"),
    *_refused("truncate_prompt_tokens", "truncate", why="is not supported; a text that is too long is an error"),
    *_refused("normalize", "embed_dtype", "pooling", "task", why="is as the model's own files say"),
    *_refused("instruction", why="is not supported; put it in front of the texts, or use prompt_name"),
]
_RERANK = [
    *_inert("user", "metadata", why="is for the client's own records"),
    *_refused("truncate_prompt_tokens", "max_tokens_per_doc", "max_chunks_per_doc", why="is not supported"),
    *_refused("rank_fields", why="is not supported; documents are texts"),
]
_TOKENIZE = [
    *_refused("add_special_tokens", harmless=(True,)),
    *_refused("chat_template", why="is not supported; the model's own is used"),
]
_RULES: dict[type[msgspec.Struct], list[FieldRule]] = {
    TokenizeRequest: _TOKENIZE,
    EmbeddingRequest: _EMBEDDING,
    RerankRequest: _RERANK,
    ChatRequest: _CHAT,
    CompletionRequest: _COMPLETION,
    ResponsesRequest: _RESPONSES,
    MessagesRequest: _MESSAGES,
    CountTokensRequest: _MESSAGES_PROMPT,
    GenerateRequest: _GENERATE,
    TranscriptionRequest: _TRANSCRIPTION,
}


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A field in the table of docs/fields.md: its path, the routes that treat it so, what is done, and a sentence."""

    path: str
    routes: tuple[str, ...]
    treatment: str
    sentence: str


def rows() -> list[FieldRow]:
    """All fields that are known, by treatment and path; the routes that treat one alike share a row."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for type_, route in ROUTES.items():
        honoured: dict[str, dict[str, None]] = {}  # a part of one kind may take a field otherwise than that of another
        for path, sentence in _honoured(inspect.type_info(type_), ""):
            honoured.setdefault(path, {}).setdefault(sentence)
        for path, sentences in honoured.items():
            found.setdefault((path, "honoured", "; ".join(sentences)), []).append(route)
        for rule in rules_of(type_):
            found.setdefault((rule.path, rule.treatment, _told(rule)), []).append(route)
    order = ["honoured", "inert", "refused"]
    made = [FieldRow(path, tuple(routes), treatment, text) for (path, treatment, text), routes in found.items()]
    return sorted(made, key=lambda row: (order.index(row.treatment), row.path, row.routes))


def fields_table() -> str:
    """The table of docs/fields.md."""
    lines = ["| field | of | is | |", "|---|---|---|---|"]
    for row in rows():
        of = "all" if len(row.routes) == len(ROUTES) else ", ".join(row.routes)
        lines.append(f"| `{row.path}` | {of} | {row.treatment} | {row.sentence.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _told(rule: FieldRule) -> str:
    if not rule.harmless:
        return rule.sentence
    values = " and ".join(f"`{msgspec.json.encode(value).decode()}`" for value in rule.harmless)
    return f"{rule.sentence}; {values} may be sent"


def _honoured(kind: inspect.Type, prefix: str) -> Iterator[tuple[str, str]]:
    """(path, description) of each field of a struct and of the structs in it."""
    assert isinstance(kind, inspect.StructType)
    for field in kind.fields:
        description, below = "", field.type
        if isinstance(below, inspect.Metadata):
            description, below = (below.extra_json_schema or {}).get("description", ""), below.type
        path = prefix + field.encode_name
        yield path, description
        for struct, inside in structs_in(below):
            yield from _honoured(struct, path + inside + ".")


def structs_in(kind: inspect.Type, inside: str = "") -> Iterator[tuple[inspect.StructType, str]]:
    """The structs that a field's value may be, each with `[]` for each list around it."""
    match kind:
        case inspect.Metadata():
            yield from structs_in(kind.type, inside)
        case inspect.UnionType():
            for each in kind.types:
                yield from structs_in(each, inside)
        case inspect.ListType():
            yield from structs_in(kind.item_type, inside + "[]")
        case inspect.StructType():
            yield kind, inside


def of_form(type_: type[msgspec.Struct]) -> dict[str, FieldRule]:
    """The rules for a form, whose values are texts, by name."""
    return {
        rule.path: replace(rule, harmless=("", *map(str, rule.harmless)))
        for rule in rules_of(type_)
        if "." not in rule.path
    }
