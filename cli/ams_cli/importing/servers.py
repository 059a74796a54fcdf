"""Which server a container runs, by its command or its image, and with which words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ams_cli.importing.references import written_out
from ams_cli.importing.results import NotImported
from ams_cli.importing.shell import Started, started

TGI, TEI, OLLAMA, NIM = "text-generation-inference", "text-embeddings-inference", "Ollama", "NIM"
_IMAGES = (
    ("text-generation-inference", TGI), ("tgi", TGI), ("text-embeddings-inference", TEI), ("tei", TEI),
    ("sglang", "sglang"), ("llama.cpp", "llamacpp"), ("llama-cpp", "llamacpp"), ("llama-server", "llamacpp"),
    ("vllm", "vllm"), ("llm-d-cuda", "vllm"), ("ollama", OLLAMA),
)  # fmt: skip
"""Words of an image's own name, the last part of its repository; the first one that is in it counts."""
_NOT_SERVERS = re.compile(
    r"(?:^|[-_.])(?:router|routing|proxy|gateway|sidecar|exporter|operator|controller|manager|client|webui|web-ui|ui|"
    r"benchmark|bench|loader|downloader|init|runtime|plugin|backend|frontend|mock|mocker|sim|simulator|gradio|demo|test|perf|webserver)(?:$|[-_.])"
)
_MODULES = (
    ("vllm.entrypoints", "vllm"), ("vllm_omni.entrypoints", "vllm"), ("sglang.launch_server", "sglang"),
    ("sglang_router", ""), ("llama_cpp.server", ""),
)  # fmt: skip
_PROGRAMS = {
    "text-generation-launcher": TGI,
    "text-embeddings-router": TEI,
    "llama-server": "llamacpp",
    "ollama": OLLAMA,
}
_NAMED = re.compile(
    r"\b(?:vllm serve|vllm\.entrypoints|sglang\.launch_server|sglang serve|llama-server|text-generation-launcher|"
    r"text-embeddings-router|ollama (?:serve|run|pull))\b"
)
_MOST_CHARACTERS = 1 << 17


@dataclass(frozen=True, slots=True)
class Server:
    """A server and its arguments. `engine` is one of ours, or TGI, TEI, OLLAMA or NIM.

    `variables` are those that the command sets, `by` the programs that start it or run before it.
    """

    engine: str
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    by: tuple[str, ...] = ()


def server_of(image: str, command: Sequence[str], args: Sequence[str], known: Mapping[str, str]) -> Server | None:
    """The server of a container; None if it is none that is known. NotImported if it is, and can't be read.

    `known` are variables by name; one whose value isn't told has $(NAME).
    """
    words = [_written_out(word, known) for word in (*command, *args)]
    engine = engine_of_image(image)
    if engine in (OLLAMA, NIM):
        return Server(engine, tuple(words))
    if engine and not command and (not words or words[0].startswith("-") or _is_model(words[0], engine)):
        return Server(engine, tuple(_with_model(words, engine)))
    if not words:
        return None
    try:
        runs = started(words, known)
    except NotImported:
        if engine or _NAMED.search(" ".join(words)):
            raise
        return None
    if (found := _of_program(runs)) is not None:
        return found
    if engine:
        raise NotImported(f"{PurePosixPath(runs.program).name!r} is no server that is known, in an image of {engine}")
    return None


def engine_of_image(image: str) -> str:
    """By the last part of an image's name; empty if that tells none."""
    path = image.lower().partition("@")[0]
    head, _, name = path.rpartition("/")
    name = name.partition(":")[0]
    if "nvcr.io/nim/" in f"{head}/":
        return NIM
    if _NOT_SERVERS.search(name):
        return ""
    if name == "server" and "llama.cpp" in head:
        return "llamacpp"
    return next((engine for word, engine in _IMAGES if _has(word, name)), "")


def _written_out(text: str, known: Mapping[str, str]) -> str:
    if (result := written_out(text, known, _MOST_CHARACTERS)) is None:
        raise NotImported(f"cmd has more than {_MOST_CHARACTERS:,} characters once its variables are written out")
    return result


def _has(word: str, name: str) -> bool:
    """Whether an image's name has a word; short ones only as a whole part."""
    return word in name if len(word) > 3 else word in re.split(r"[-_.]", name)


def _is_model(word: str, engine: str) -> bool:
    program = PurePosixPath(word).name
    return engine == "vllm" and "/" in word and not re.match(r"(?:vllm|python|sh$|bash$|env$|exec$)", program)


def _with_model(words: Sequence[str], engine: str) -> list[str]:
    """vLLM's model as an option, where it is the first word."""
    return ["--model", *words] if engine == "vllm" and words and not words[0].startswith("-") else list(words)


def _of_program(runs: Started) -> Server | None:
    program, rest = PurePosixPath(runs.program).name, list(runs.arguments)
    engine = next((each for name, each in _PROGRAMS.items() if program.startswith(name)), "")
    if program in ("vllm", "vllm-omni") and rest[:1] == ["serve"]:
        engine, rest = "vllm", _with_model(rest[1:], "vllm")
    elif program == "sglang" and rest[:1] == ["serve"]:
        engine, rest = "sglang", rest[1:]
    elif program.startswith("python"):
        while rest[:1] in (["-u"], ["-O"]):
            rest = rest[1:]
        if rest[:1] == ["-m"] and len(rest) > 1:
            engine = next((each for name, each in _MODULES if rest[1].startswith(name)), "")
            rest = rest[2:]
    if not engine:
        return None
    return Server(engine, tuple(rest), runs.variables, runs.by)
