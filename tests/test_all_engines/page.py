"""docs/engines-conformance.md: what each engine was seen to do, by the suite itself."""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

from test_all_engines import table
from test_all_engines.table import Column, Section

WORDS = {
    "test_golden_prompts": "golden prompts before it is ready",
    "test_generate": "`/generate`",
    "test_chat": "`/v1/chat/completions`",
    "test_chat_streamed_is_the_same": "streamed: the same text",
    "test_completions": "`/v1/completions`, streamed too",
    "test_usage": "usage, in streams too",
    "test_tools": "tools: required and named",
    "test_structured_output": "structured output by a JSON schema",
    "test_logprobs": "logprobs",
    "test_logprobs_of_prompts": "`prompt_logprobs`",
    "test_regular_expressions": "`guided_regex`",
    "test_choices": "`guided_choice`",
    "test_grammars": "`guided_grammar` in Lark",
    "test_least_tokens": "`min_tokens`",
    "test_allowed_tokens": "`allowed_token_ids`",
    "test_cached_prompts": "`cached_tokens` of a prompt that came before",
    "test_stop_strings": "stop strings",
    "test_several_answers": "`n`",
    "test_a_prompt_that_is_too_long": "too long a prompt: 400",
    "test_responses": "`/v1/responses`",
    "test_messages": "`/v1/messages`",
    "test_32_streams": "32 streams at once",
    "test_who_hangs_up_frees_the_engine": "idle a second after its client has gone",
    "test_kill_9_under_32_streams": "kill -9 under 32 streams: none hangs, the next request is answered",
    "test_kill_9_of_the_core": "kill -9 of what computes behind the engine's HTTP server: likewise",
    "test_a_hang_under_32_streams": "a hang (SIGSTOP) under 32 streams: likewise",
    "test_ending_loses_nothing": "SIGTERM under 8 streams: none is lost",
}
FAMILIES = {
    "test_images": "chats with images",
    "test_video": "chats with a video (vLLM: with `--trust-request-mm-kwargs`)",
    "test_recording": "chats with a recording",
    "test_mixed_media": "chats with several kinds of media",
    "test_video_with_sound": "chats with a video and its sound (Qwen2.5-Omni)",
    "test_media_streamed": "streamed: the same text and usage",
    "test_control_tokens_in_media_chats": "control tokens that a message spells are text",
    "test_media_beyond_the_context": "too long a chat with media: 400",
    "test_transcriptions": "`/v1/audio/transcriptions` (Qwen2-Audio)",
    "test_embeddings": "`/v1/embeddings` (BERT, Qwen3-Embedding)",
    "test_embeddings_refused": "`/v1/embeddings`: too long a text, unknown ids: 400",
    "test_rerank": "`/v1/rerank` (a cross-encoder)",
}
HEAD = """# What each engine does

Written by `make engines`, which runs one suite over each engine through the gateway of a real `ams up`. The manifests
differ in one line, `engine: {name: ...}`. A column tells the versions of its engine and of this product that were run;
an engine that a later run doesn't try keeps its column. What each can't do by design is in
[engine differences](operations/engine-differences.md).
"""
SECTIONS = (
    Section(
        "Text",
        "The model is SmolLM2-135M-Instruct: for llama.cpp the GGUF file, for vLLM its weights in bfloat16.",
        tuple(WORDS.values()),
    ),
    Section(
        "Media and vectors",
        "Tiny models with random weights (Qwen2.5-VL, Qwen2-Audio, Qwen2.5-Omni, BERT, Qwen3-Embedding) in float32.\n"
        "Answers are compared with the builtin engine's on the same folder: prompts have to be equally long, first\n"
        "tokens equally probable, vectors and scores the same. For llama.cpp those of BERT and Qwen3 are GGUF files;\n"
        "its cross-encoder has no types of tokens.",
        tuple(FAMILIES.values()),
    ),
)
_ROWS = WORDS | FAMILIES
_found: dict[str, Column] = {}


def began(engine: str, program: str | None) -> None:
    """`program` is the engine's, which tells its version; None: it is ours."""
    ours = importlib.metadata.version("ai-model-server")
    if engine not in _found:
        _found[engine] = Column(engine, ours if program is None else _version(engine, program), ours, {})


def _version(engine: str, program: str) -> str:
    beside = {"LD_LIBRARY_PATH": str(Path(program).parent)} if engine == "llamacpp" else {}
    told = subprocess.run(
        [program, "--version"], capture_output=True, text=True, env={**os.environ, **beside}, timeout=120
    )
    found = re.search(r"^(?:version: *)?(\d[\w.+-]*)", told.stdout + told.stderr, re.MULTILINE)
    return found[1] if found else ""


def tried(engine: str, test: str, *, passed: bool) -> None:
    """Of a row that several tests make, all have to pass."""
    _found[engine] = table.with_cell(_found[engine], _ROWS[test], table.yes_or_no(passed=passed))


def cannot(engine: str, test: str, reason: str) -> None:
    """The engine can't do it, and was seen to say so."""
    _found[engine] = table.with_cell(_found[engine], _ROWS[test], table.cannot(reason))


def is_as_above(engine: str, test: str) -> None:
    """The row asks what the one before it asked, of this engine."""
    _found[engine] = table.with_cell(_found[engine], _ROWS[test], "as above")


def text(before: str) -> str:
    """The page as Markdown, after the one that was there."""
    return table.written(HEAD, SECTIONS, table.merged(table.read(before), list(_found.values())))
