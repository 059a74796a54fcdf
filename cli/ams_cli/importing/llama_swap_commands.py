"""The commands of a llama-swap file: which engine one starts, by which program or image, and with which arguments."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ams_cli.importing.results import NotImported
from ams_cli.importing.shell import split, started

_CONTAINERS = ("docker", "podman", "nerdctl")
_IMAGES = {
    "llama.cpp": "llamacpp",
    "llama-cpp": "llamacpp",
    "llama-server": "llamacpp",
    "vllm": "vllm",
    "sglang": "sglang",
}
_VALUED = (
    "--name", "-p", "--publish", "-v", "--volume", "-e", "--env", "--gpus", "--network", "--ipc", "--shm-size",
    "--runtime", "--device", "-u", "--user", "-w", "--workdir", "-m", "--memory", "--cpus", "--entrypoint", "--mount",
    "--label", "-l", "--env-file", "--group-add", "--security-opt", "--ulimit", "--hostname", "--cap-add", "--pull",
    "--restart", "--net", "--platform", "--cpuset-cpus", "--cpuset-mems", "--cpu-shares", "--memory-swap", "--pid",
    "--tmpfs", "--cap-drop", "--add-host", "--dns", "--log-driver", "--log-opt", "--volumes-from", "--userns", "--uts",
    "--expose", "--stop-timeout", "--stop-signal", "--cgroupns", "--cgroup-parent", "--device-cgroup-rule", "--sysctl",
    "--health-cmd", "--health-interval", "--oom-score-adj", "--pids-limit", "--annotation", "-h", "--ip", "--link",
    "--cidfile",
)  # fmt: skip
_OF_THE_CONTAINER = (
    "--name", "-p", "--publish", "-v", "--volume", "--mount", "-e", "--env", "--gpus", "--network", "--net", "--ipc",
    "--shm-size", "--runtime", "--label", "-l", "--pull", "--restart", "--hostname", "-h", "--entrypoint", "--rm", "-i",
    "-t", "-it", "-ti", "-d", "--detach", "--init", "--interactive", "--tty", "-P", "--platform", "--log-driver",
    "--log-opt", "--stop-timeout", "--stop-signal", "--replace", "--expose",
)  # fmt: skip
"""Options that are read, or that say nothing of the engine."""
_WINDOWS = re.compile(r"""(?:^|[\s"'=])[A-Za-z]:\\""")


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """An engine and its arguments. `volumes` are the folders of this machine by those of its container.

    `gpus` is how many a container gets, 0 where that isn't told; `all_gpus`, that it gets those there are. `lost` are
    options of the container that have no place here.
    """

    engine: str
    program: str
    arguments: tuple[str, ...]
    image: str = ""
    variables: tuple[tuple[str, str], ...] = ()
    volumes: tuple[tuple[str, str], ...] = ()
    gpus: int = 0
    all_gpus: bool = False
    lost: tuple[str, ...] = ()

    def host_path(self, word: str) -> str:
        """A path in the container as this machine knows it. NotImported where only Docker knows it."""
        for outside, inside in self.volumes:
            if word == inside or word.startswith(inside.rstrip("/") + "/"):
                if not outside.startswith(("/", ".", "~")):
                    raise NotImported(f"{word} is in the volume {outside!r} of Docker: name a folder of this machine")
                return outside.rstrip("/") + word[len(inside.rstrip("/")) :]
        return word


def without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))


def read_command(text: str) -> EngineCommand:
    """NotImported says why it starts no engine that is known."""
    if _WINDOWS.search(text):
        raise NotImported("cmd has paths of Windows: write them as the machine that serves has them")
    lines = [line.rstrip().removesuffix("\\") for line in without_comments(text).splitlines()]
    runs = started(split("\n".join(lines)))
    program = PurePosixPath(runs.program).name
    if program in _CONTAINERS:
        return _in_container(runs.arguments, runs.by)
    engine, arguments = _engine(program, runs.arguments)
    return EngineCommand(engine, runs.program, tuple(arguments), variables=runs.variables, lost=runs.by)


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


def _in_container(words: Sequence[str], by: Sequence[str]) -> EngineCommand:
    """`docker run OPTIONS IMAGE ARGUMENTS`"""
    rest = list(words)
    if rest[:1] == ["container"]:
        rest = rest[1:]
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
    image, arguments = rest[0], [*found.get("--entrypoint", []), *rest[1:]]
    engine, arguments = _of_image(image, arguments)
    settings = [each.partition("=") for each in found.get("-e", []) + found.get("--env", [])]
    gpus = [_gpu_count(each) for each in found.get("--gpus", [])]
    return EngineCommand(
        engine,
        image,
        tuple(arguments),
        image,
        variables=tuple((name, value) for name, equals, value in settings if equals),
        volumes=tuple(_volumes(found)),
        gpus=sum(gpus),
        all_gpus="--gpus" in found and not sum(gpus),
        lost=(
            *by,
            *(f"--env {name}" for name, equals, _ in settings if not equals),
            *(name for name in found if name not in _OF_THE_CONTAINER),
        ),
    )


def _of_image(image: str, arguments: list[str]) -> tuple[str, list[str]]:
    """The engine of an image, and its arguments. A program that they name tells more than the image's name."""
    engine = next((engine for word, engine in _IMAGES.items() if word in image.lower()), None)
    if arguments and not arguments[0].startswith("-") and (engine != "vllm" or not _is_model(arguments[0])):
        runs = started(arguments)
        return _engine(PurePosixPath(runs.program).name, runs.arguments)
    if engine is None:
        raise NotImported(f"image {image!r} is of no engine that is known: llama.cpp, vllm, sglang")
    return engine, _named_model(arguments) if engine == "vllm" else arguments


def _is_model(word: str) -> bool:
    """Whether the first word of vLLM's image is a model: an owner's name and its own, or a folder."""
    program = PurePosixPath(word).name
    return "/" in word and not re.match(r"(?:vllm|python|sh$|bash$|env$|exec$)", program)


def _gpu_count(text: str) -> int:
    """How many `--gpus` gives: 2, or device=0,1; 0 for all."""
    plain = text.replace('"', "").replace("'", "")
    if (devices := re.search(r"device=([^ ]+)", plain)) is not None:
        return len([each for each in devices[1].split(",") if each])
    number = plain.removeprefix("count=")
    return int(number) if re.fullmatch(r"[0-9]{1,3}", number) else 0


def _volumes(found: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    for volume in found.get("-v", []) + found.get("--volume", []):
        outside, colon, rest = volume.partition(":")
        if colon:
            yield outside, rest.partition(":")[0]
    for mount in found.get("--mount", []):
        fields = {name: value for name, _, value in (part.partition("=") for part in mount.split(","))}
        outside = fields.get("source", fields.get("src", ""))
        inside = fields.get("target", fields.get("destination", fields.get("dst", "")))
        if outside and inside:
            yield outside, inside


def as_variables(pairs: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in pairs.items()]
