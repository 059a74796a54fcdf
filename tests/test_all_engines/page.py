"""docs/engines-conformance.md: what each engine was seen to do, by the suite itself."""

import importlib.metadata
import os
import re
import subprocess
import time
from pathlib import Path

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
    "test_stop_strings": "stop strings",
    "test_several_answers": "`n`",
    "test_a_prompt_that_is_too_long": "too long a prompt: 400",
    "test_responses": "`/v1/responses`",
    "test_messages": "`/v1/messages`",
    "test_32_streams": "32 streams at once",
    "test_who_hangs_up_frees_the_engine": "idle a second after its client has gone",
    "test_kill_9_under_32_streams": "kill -9 under 32 streams: none hangs, the next request is answered",
    "test_a_hang_under_32_streams": "a hang (SIGSTOP) under 32 streams: likewise",
    "test_ending_loses_nothing": "SIGTERM under 8 streams: none is lost",
}
_HEAD = """# What each engine does

Written by `make engines`, which runs one suite over each engine through the gateway of a real `ams up`. The manifests
differ in one line, `engine: {{name: ...}}`; the model is SmolLM2-135M-Instruct. What each can't do by design
is in [engine differences](operations/engine-differences.md).

"""
_results: dict[str, dict[str, bool]] = {}
_versions: dict[str, str] = {}
_skipped: dict[str, str] = {}


def began(engine: str, program: str | None) -> None:
    """`program` is the engine's, which tells its version; None: it is ours."""
    _results.setdefault(engine, {})
    if program is None:
        _versions[engine] = importlib.metadata.version("ai-model-server")
        return
    beside = {"LD_LIBRARY_PATH": str(Path(program).parent)} if engine == "llamacpp" else {}
    told = subprocess.run(
        [program, "--version"], capture_output=True, text=True, env={**os.environ, **beside}, timeout=120
    )
    found = re.search(r"(?:version: *)?(\d[\w.+-]*)", told.stdout + told.stderr)
    _versions[engine] = found[1] if found else ""


def skipped(engine: str, why: str) -> None:
    _skipped[engine] = why


def tried(engine: str, test: str, passed: bool) -> None:
    before = _results.setdefault(engine, {}).get(test, True)
    _results[engine][test] = before and passed


def _mark(engine: str, test: str) -> str:
    return {True: "yes", False: "**no**", None: "not tried"}[_results[engine].get(test)]


def text() -> str:
    """The page as Markdown."""
    engines = list(_results)
    head = [" ".join(filter(None, (engine, _versions.get(engine, "")))) for engine in engines]
    lines = ["| |" + "".join(f" {each} |" for each in head), "|---|" + "---|" * len(engines)]
    for test, words in WORDS.items():
        marks = [_mark(engine, test) for engine in engines]
        lines.append(f"| {words} |" + "".join(f" {mark} |" for mark in marks))
    lines += [f"\nNot tried: {engine}: {why}." for engine, why in _skipped.items()]
    return _HEAD.format() + "\n".join(lines) + f"\n\nLast run: {time.strftime('%Y-%m-%d')}.\n"
