"""Engines of other makes on this machine: where their programs are, which one serves a model, how it is started.

Pure but for `find_programs`.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from ams_common.engines.choose import ARCHITECTURE_UNKNOWN, EngineChoice, EngineFacts, choose_engine
from ams_common.engines.choose import refusals as refused_by
from ams_common.engines.names import EngineName
from ams_common.engines.table import ROWS
from ams_common.engines.wishes import ModelFacts, gpu_count, is_gguf_source, wishes_of
from ams_common.engines.wishes import engine_resources as resources_of
from ams_common.options import OptionError
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import ModelDeployment

from ams_cli import weights
from ams_cli.preview import Preview, of_folder, of_source

Programs = Mapping[EngineName, str]
"""The program of each engine that this machine has."""

_HEADROOM = 1.1  # of the weights, for what computes with them
_INSTALL = {
    "vllm": "pip install vllm, in an environment of its own",
    "sglang": "pip install sglang, in an environment of its own",
    "llamacpp": "brew install llama.cpp, or a release of github.com/ggml-org/llama.cpp",
    "custom": "it is whatever you say it is",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """What engines are chosen by: programs, GPUs and their free bytes where the driver tells.

    `certain` is False for a cluster, of which it isn't known here whether it names an engine's image.
    """

    programs: Programs
    gpus: int = 0
    gpu_free: tuple[int, ...] = ()
    certain: bool = True


def find_programs(given: str, which: Callable[[str], str | None] = shutil.which) -> dict[EngineName, str]:
    """Those that `given` names, as in `vllm=/opt/vllm/bin/vllm,llamacpp=llama-server`, and those found on PATH.

    OptionError for a name that is no engine's, or a path that is no program.
    """
    found: dict[EngineName, str] = {}
    for name, row in ROWS.items():
        if row.program and (path := which(row.program)) is not None:
            found[name] = path
    for item in filter(None, (each.strip() for each in given.split(","))):
        engine, equals, path = item.partition("=")
        named = next((name for name in ROWS if name == engine), None)
        if named is None or not equals:
            raise OptionError(f"--engine-path={item!r}: expected NAME=PATH, of one of {', '.join(ROWS)}")
        if (program := which(path)) is None:
            raise OptionError(f"--engine-path={item!r}: there is no such program, or it may not be executed")
        found[named] = program
    return found


def choose(preview: Preview, machine: Machine) -> EngineChoice:
    """Which engine serves the model, by all that is known of it now."""
    resource = preview.resource
    gpu = gpu_count(resources_of(resource.spec)) > 0 and (machine.gpus > 0 or not machine.certain)
    architectures = preview.config.get("architectures")
    quantized = preview.config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    weights, free = preview.weights_bytes, machine.gpu_free
    choice = choose_engine(
        resource,
        EngineFacts(
            architectures=tuple(map(str, architectures)) if isinstance(architectures, list) else None,
            gpu=gpu,
            at_hand=frozenset(machine.programs),
            quantized_by=str(method) if method else None,
            fits_gpu=None if weights is None or not free else weights * _HEADROOM <= sum(free),
            model=facts_of(preview),
        ),
    )
    if choice.name != "builtin" and resource.spec.engine.name == "auto" and not machine.certain:
        return EngineChoice(choice.name, f"{choice.reason}, if the installation names its image")
    if choice.name == "builtin" and choice.reason == "no GPU is asked for" and gpu_count(resources_of(resource.spec)):
        return EngineChoice(choice.name, "a GPU is asked for, and this machine has none")
    return choice


def engine_of_weights(resource: ModelDeployment, machine: Machine) -> EngineName:
    """Which engine the weights are downloaded for: what decides between those that differ is the file's name."""
    name = choose(of_source(resource), machine).name
    if name == "builtin" and resource.spec.adapters and not is_gguf_source(resource.spec.model.source):
        return "vllm"  # what auto chooses once the architecture is known, if it chooses one that applies adapters
    return name


def on_disk(resource: ModelDeployment, models_dir: Path, machine: Machine) -> Preview:
    """What is known of a model without asking anybody: its weights, once they are there."""
    folder = weights.folder(resource, models_dir, engine_of_weights(resource, machine))
    return of_source(resource) if folder is None else of_folder(resource, folder)


def facts_of(preview: Preview) -> ModelFacts:
    """What rows are told of a model. Weights that aren't known yet count as none: they are asked again later."""
    return ModelFacts(
        family=preview.family.name if preview.family is not None else None, weights_bytes=preview.weights_bytes or 0
    )


def refusals(preview: Preview, choice: EngineChoice, machine: Machine) -> list[str]:
    """Why the engine can't serve the model here, as sentences that begin with the field's path; none: it can."""
    row = ROWS.get(choice.name)
    if row is None and choice.reason == ARCHITECTURE_UNKNOWN:
        return []  # another one may be chosen then
    if row is None:
        return refused_by(preview.resource, choice, facts_of(preview))
    if machine.certain and choice.name not in machine.programs:
        looked = f"no program {row.program} on PATH" if row.program else "no program of it is named"
        return [
            f"spec.engine.name: {choice.name} is asked for, and there is {looked}: install it "
            f"({_INSTALL[choice.name]}), or say where it is by --engine-path {choice.name}=/path/to/program"
        ]
    return row.refusals(preview.resource, facts_of(preview))


def with_engine(
    settings: ServeSettings,
    preview: Preview,
    choice: EngineChoice,
    machine: Machine,
    log: str,
    links: str = "",
    lora_rank: str = "",
) -> ServeSettings:
    """The pod's settings, with the engine that it is to start. `log` is the file of what the engine writes, `links` the
    folder of links to adapters, `lora_rank` the highest of their ranks."""
    row = ROWS.get(choice.name)
    if row is None:
        return settings
    resource = preview.resource
    gpus = min(gpu_count(resources_of(resource.spec)), machine.gpus)
    wishes = wishes_of(
        resource,
        model="{model}",
        host="127.0.0.1",
        port="{port}",
        facts=facts_of(preview),
        gpus=gpus,
        links=links,
        lora_rank=lora_rank,
    )
    words = row.full_command(wishes)
    program = machine.programs[choice.name]
    command = [program, *words[1:]] if row.program else [program, *words]
    variables = row.variables(wishes) | {
        each.name: each.value or "" for each in resource.spec.engine.env if each.value_from is None
    }
    return msgspec.structs.replace(
        settings,
        engine=choice.name,
        engine_command=msgspec.json.encode(command).decode(),
        engine_variables=msgspec.json.encode(variables).decode(),
        engine_log=log,
    )
