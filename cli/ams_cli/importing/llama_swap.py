"""llama-swap's configuration file; its keys are those of config-schema.json."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from ams_cli.importing import kubernetes, llamacpp_options, sglang_options, vllm_options
from ams_cli.importing.llama_swap_commands import EngineCommand, as_variables, read_command, without_comments
from ams_cli.importing.llama_swap_macros import expand, read_macros
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, ForeignError, Note, NotImported, Outcome, Refused
from ams_cli.importing.words import options

_ABOUT_FILE = {
    "apiKeys": "keys are made by `ams keys create`",
    "groups": "models make room for each other by memory: --memory-limit of `ams up`",
    "matrix": "models make room for each other by memory: --memory-limit of `ams up`",
    "routing": "models make room for each other by memory: --memory-limit of `ams up`",
    "peers": "other servers are not passed on to; a gateway serves its own models",
    "selectors": "a request names its model, or an alias of it",
    "profiles": "a request names its model, or an alias of it",
    "hooks": "a model whose autoscaling.minReplicas is 1, or that has none, starts with `ams up`",
    "startPort": "not needed: engines get free ports",
    "healthCheckTimeout": "not needed: a start ends when its process does",
    "logLevel": "not needed: --debug of `ams up`, and a log file for each model",
    "logRequests": "not needed: requests are always logged",
    "logToStdout": "not needed: a log file for each model",
    "logTimeFormat": "not needed: times are ISO 8601",
    "sendLoadingState": "not needed: streams say while they wait how far a start is",
    "includeAliasesInList": "not needed: aliases are told with the model",
    "unloadTimeout": "not needed: --grace-seconds of `ams up`",
}
_ABOUT_MODEL = {
    "name": "what people see is metadata.name",
    "description": "an annotation of yours can hold it",
    "filters": "requests are taken as they are",
    "checkEndpoint": "not needed: each engine's own is known",
    "proxy": "not needed: engines get free ports",
    "cmdStop": "not needed: an engine gets SIGTERM once its requests are done",
    "unlisted": "a key that may use the models that it names doesn't see others: `ams keys create --model`",
    "timeouts": "see limits.requestTimeoutSeconds",
    "metadata": "",
    "capabilities": "not needed: read from config.json",
    "sendLoadingState": "not needed: streams say while they wait how far a start is",
    "unloadTimeout": "not needed: --grace-seconds of `ams up`",
    "compat": "not needed",
}
_SHARING = ("--tensor-parallel-size", "-tp", "--tp-size", "--tp")
_ANY_PORT = "5800"  # of which nothing is kept
_NEVER_SECONDS = 86_400


def translate(document: Section, folder: str, environment: Mapping[str, str]) -> Outcome:
    """All models of a file.

    `folder` is where paths that aren't absolute begin, `environment` what `${env.NAME}` is read from.
    """
    outcome = Outcome()
    macros = read_macros(document.section("macros"), {})
    ttl = document.number("globalTTL") or 0
    models = document.section("models")
    for name in models.names():
        title = f"llama-swap model {name}"
        try:
            model = models.section(name)
            known = read_macros(model.section("macros"), {**macros, "MODEL_ID": name})
            outcome.drafts.append(
                _model(title, name, model, {**known, "PORT": _ANY_PORT}, ttl, PurePosixPath(folder), environment)
            )
        except (NotImported, ForeignError) as error:
            outcome.refused.append(Refused(title, str(error)))
    for name, text in _ABOUT_FILE.items():
        if name in document:
            document.ignore(name)
            outcome.notes.append(Note(name, text, lost=not text.startswith("not needed")))
    document.ignore(*(name for name in document.names() if name.startswith("x-")))
    outcome.notes += [
        Note(f"{path} ({value})" if value else path, "", lost=True)
        for path, value in document.left()
        if not path.startswith("models")
    ]
    return outcome


def _model(
    title: str,
    name: str,
    model: Section,
    macros: Mapping[str, str],
    global_ttl: int,
    folder: PurePosixPath,
    environment: Mapping[str, str],
) -> Draft:
    draft = Draft(title, name)
    written = model.text("cmd")
    command = read_command(expand(without_comments(written), macros, environment))
    at = model.at("cmd")
    draft.set("engine.name", command.engine)
    draft.set("engine.image", command.image)
    arguments = [command.host_path(word) for word in command.arguments]
    gpus = _gpus(draft, model, command, arguments)
    match command.engine:
        case "llamacpp":
            llamacpp_options.apply(draft, arguments, at, folder)
        case "vllm":
            vllm_options.apply(draft, _local_models(arguments, folder), at, gpus)
        case _:
            sglang_options.apply(draft, arguments, at, gpus)
    if draft.get("model.source") is None:
        raise NotImported(f"{at}: names no model of the hub and no file")
    for each in command.lost:
        draft.lose(f"{at} {each}", "how the program is started has no place here: see resources, env and engine.env")
    _in_a_volume(draft, command, at)
    if not command.image:
        draft.say(at, f"the program is found on PATH, or by --engine-path {command.engine}={command.program}")
    kubernetes.environment(draft, as_variables(_variables(draft, model, command)))
    draft.aliases += model.texts("aliases")
    if used := model.text("useModelName"):
        draft.aliases.append(used)
    _idle(draft, model, global_ttl)
    _limit(draft, model)
    for field, text in _ABOUT_MODEL.items():
        if field in model:
            model.ignore(field)
            say = draft.say if text.startswith("not needed") else draft.lose
            say(model.at(field), text)
    draft.lose_all(model.left())
    return draft


def _variables(draft: Draft, model: Section, command: EngineCommand) -> dict[str, str]:
    variables = dict(command.variables)
    for index, pair in enumerate(model.texts("env")):
        name, equals, value = pair.partition("=")
        if "${env." in value or not equals:
            draft.lose(f"{model.at('env')}[{index}] ({name})", f"set {name} in the environment of `ams up`")
        else:
            variables[name] = value
    return variables


def _gpus(draft: Draft, model: Section, command: EngineCommand, arguments: Sequence[str]) -> int:
    """How many GPUs it gets, as far as that is told: by devices, by the container, by how many share the weights."""
    pairs = dict(pair.partition("=")[::2] for pair in model.texts("env"))
    devices = {**dict(command.variables), **pairs}.get("CUDA_VISIBLE_DEVICES", "")
    shared = [
        int(option.value)
        for option in options(arguments)
        if option.name in _SHARING and re.fullmatch(r"[1-9][0-9]{0,2}", option.value)
    ]
    count = max(shared, default=0) if command.engine != "llamacpp" else 0
    if devices and devices != "-1":
        count = len(devices.split(","))
    elif command.gpus:
        count = command.gpus
    elif command.all_gpus:
        count = max(count, 1)
    if count:
        draft.set("resources.limits", {"nvidia.com/gpu": count})
    return count


def _in_a_volume(draft: Draft, command: EngineCommand, at: str) -> None:
    """Say of a file whose folder is in the image that it isn't on this machine."""
    source = draft.get("model.source")
    if (
        command.image
        and source.startswith("file://")
        and not any(source.removeprefix("file://").startswith(outside.rstrip("/")) for outside, _ in command.volumes)
    ):
        draft.lose(f"{at} ({source})", "no volume of the container holds it: it must lie there on this machine")


def _idle(draft: Draft, model: Section, global_ttl: int) -> None:
    """A model is started by its first request; without a time to live it stays."""
    ttl = model.number("ttl")
    ttl = global_ttl if ttl is None or ttl < 0 else ttl
    if ttl > 0:
        draft.spec["autoscaling"] = {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": ttl}
    else:
        draft.spec["autoscaling"] = {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": _NEVER_SECONDS}
        draft.say(
            model.at("ttl"),
            "never unloaded there; here it starts with its first request, and stops after a day without",
        )


def _limit(draft: Draft, model: Section) -> None:
    most = model.number("concurrencyLimit")
    if most is not None and most > 0:
        at_once = draft.get("limits.concurrentRequests") or 16
        vllm_options.set_requests(draft, min(at_once, most), model.at("concurrencyLimit"))
        draft.spec.setdefault("limits", {})["queuedRequests"] = max(0, most - at_once)


def _local_models(arguments: list[str], folder: PurePosixPath) -> list[str]:
    """vLLM's model as a source, where it is a folder of this machine."""
    result = list(arguments)
    for index, word in enumerate(result[:-1]):
        value = result[index + 1]
        if word == "--model" and value.startswith((".", "/", "~")):
            result[index + 1] = f"file://{folder / value}"
    return result
