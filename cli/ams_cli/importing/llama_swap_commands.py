"""The commands of a llama-swap file: which engine one starts, by which program or image, and with which arguments."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ams_cli.importing.results import NotImported

_CONTAINERS = ("docker", "podman", "nerdctl")
_IMAGES = {"llama.cpp": "llamacpp", "llama-server": "llamacpp", "vllm": "vllm", "sglang": "sglang"}
_VALUED = (
    "--name", "-p", "--publish", "-v", "--volume", "-e", "--env", "--gpus", "--network", "--ipc", "--shm-size",
    "--runtime", "--device", "-u", "--user", "-w", "--workdir", "-m", "--memory", "--cpus", "--entrypoint", "--mount",
    "--label", "-l", "--env-file", "--group-add", "--security-opt", "--ulimit", "--hostname", "--cap-add", "--pull",
    "--restart",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """An engine and its arguments. `volumes` are the folders of this machine by those of its container."""

    engine: str
    program: str
    arguments: tuple[str, ...]
    image: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    gpus: bool = False

    def host_path(self, word: str) -> str:
        """A path in the container as this machine knows it."""
        for outside, inside in self.volumes:
            if word == inside or word.startswith(inside.rstrip("/") + "/"):
                return outside.rstrip("/") + word[len(inside.rstrip("/")) :]
        return word


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))


def read_command(text: str) -> EngineCommand:
    """NotImported says why it starts no engine that is known."""
    lines = [line.rstrip().removesuffix("\\") for line in without_comments(text).splitlines()]
    try:
        words = shlex.split("\n".join(lines))
    except ValueError as error:
        raise NotImported(f"cmd can't be split into words: {error}") from None
    variables: dict[str, str] = {}
    while words and (words[0] in ("env", "exec") or "=" in words[0].partition("/")[0]):
        name, equals, value = words.pop(0).partition("=")
        if equals:
            variables[name] = value
    if not words:
        raise NotImported("cmd is empty")
    program = PurePosixPath(words[0]).name
    if program in _CONTAINERS:
        return _in_container(words[1:])
    engine, arguments = _engine(program, words[1:])
    return EngineCommand(engine, words[0], tuple(arguments), variables=tuple(variables.items()))


def _engine(program: str, arguments: Sequence[str]) -> tuple[str, list[str]]:
    rest = list(arguments)
    if program.startswith("llama-server"):
        return "llamacpp", rest
    if program == "vllm" and rest[:1] == ["serve"]:
        return "vllm", _named_model(rest[1:])
    if program.startswith("python") and rest[:1] == ["-m"] and len(rest) > 1:
        if rest[1].startswith("vllm.entrypoints"):
            return "vllm", rest[2:]
        if rest[1].startswith("sglang.launch_server"):
            return "sglang", rest[2:]
    if program == "sglang" and rest[:1] == ["serve"]:
        return "sglang", rest[1:]
    raise NotImported(f"{program!r} is no engine that is known: llama-server, vllm, sglang")


def _named_model(words: list[str]) -> list[str]:
    """The model as an option, where it is the first word."""
    return ["--model", *words] if words and not words[0].startswith("-") else words


def _in_container(words: Sequence[str]) -> EngineCommand:
    """`docker run OPTIONS IMAGE ARGUMENTS`"""
    rest = list(words)
    if rest[:1] != ["run"]:
        raise NotImported("only `run` of a container's program is known")
    rest = rest[1:]
    found: dict[str, list[str]] = {}
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if not equals and name in _VALUED:
            value = rest.pop(0) if rest else ""
        found.setdefault(name, []).append(value)
    if not rest:
        raise NotImported("the container's command names no image")
    image, arguments = rest[0], rest[1:]
    engine = next((engine for word, engine in _IMAGES.items() if word in image.lower()), None)
    if engine is None:
        raise NotImported(f"image {image!r} is of no engine that is known: llama.cpp, vllm, sglang")
    if arguments and not arguments[0].startswith("-"):
        engine, arguments = _engine(PurePosixPath(arguments[0]).name, arguments[1:]) if engine != "vllm" else (
            engine, _named_model(arguments[2:] if arguments[:2] == ["vllm", "serve"] else arguments)
        )  # fmt: skip
    volumes = [volume.split(":") for volume in found.get("-v", []) + found.get("--volume", [])]
    settings = [each.partition("=") for each in found.get("-e", []) + found.get("--env", [])]
    return EngineCommand(
        engine,
        image,
        tuple(arguments),
        image,
        variables=tuple((name, value) for name, equals, value in settings if equals),
        volumes=tuple((parts[0], parts[1]) for parts in volumes if len(parts) > 1),
        gpus="--gpus" in found,
    )


def as_variables(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs.items()]
