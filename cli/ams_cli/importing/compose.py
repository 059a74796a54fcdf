"""Services of Docker Compose that run a known server; fields as in the Compose specification."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeGuard

from ams_cli.importing.containers import Surroundings, serve
from ams_cli.importing.credentials import is_secret
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, ForeignError, Note, NotImported, Outcome, Refused
from ams_cli.importing.scaling import set_replicas
from ams_cli.importing.server_variables import known_values
from ams_cli.importing.servers import Server, server_of
from ams_cli.importing.unserved import refuse
from ams_cli.importing.volumes import Mount
from ams_cli.importing.words import options

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<sign>:?[-?+])(?P<rest>[^{}]*))?\})"
)
_LEFT = re.compile(r"\$\{(\w+)\}")
_NOT_NEEDED = (
    "image", "container_name", "ports", "expose", "networks", "restart", "healthcheck", "ipc", "depends_on", "logging",
    "labels", "profiles", "ulimits", "stdin_open", "tty", "hostname", "pull_policy", "platform", "shm_size",
    "stop_grace_period", "init", "annotations", "links", "stop_signal",
)  # fmt: skip
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "HF_API_TOKEN")
_OF_MODELS = ("MODEL_ID", "LLAMA_ARG_MODEL", "LLAMA_ARG_HF_REPO")
_DEVICES = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_WRITE_OUT = "import what `docker compose config` writes, without its secrets"
_LOST = {
    "env_file": f"files of variables aren't read: {_WRITE_OUT}",
    "extends": f"other services aren't read: {_WRITE_OUT}",
    "devices": "GPUs are asked for in resources.limits, as nvidia.com/gpu or amd.com/gpu",
    "build": "what an image is built of isn't read",
}
_CACHE = re.compile(r"cache|huggingface|/hub\b|^/data$|^/dev/shm$")
_MOST_CHARACTERS = 1 << 17
_ALL = -1  # GPUs that there are

Reader = Callable[[str], str]
"""Writes out the variables of a text."""


def is_compose(document: Any) -> TypeGuard[dict[str, Any]]:
    services = document.get("services") if isinstance(document, dict) and document.get("kind") is None else None
    if not isinstance(services, dict):
        return False
    return any(isinstance(each, dict) and ({"image", "build", "command"} & each.keys()) for each in services.values())


def translate(document: Section, folder: str, environment: Mapping[str, str]) -> Outcome:
    """All services of a file that run a known server. `folder` is where paths that aren't absolute begin."""
    outcome = Outcome()
    services = document.section("services")
    others = []
    for name in services.names():
        title = f"compose service {name}"
        try:
            draft = _service(title, name, services.section(name), PurePosixPath(folder), environment)
            if draft is None:
                others.append(name)
            else:
                outcome.drafts.append(draft)
        except (NotImported, ForeignError) as error:
            outcome.refused.append(Refused(title, str(error)))
    if others:
        outcome.notes.append(Note(services.path, f"passed over {', '.join(others)}: no server that is known"))
    if "models" in document:
        outcome.notes.append(
            Note("models", "models of Docker's registry can't be a source: name them as hf://owner/name", lost=True)
        )
    if "include" in document:
        outcome.notes.append(Note("include", f"other files aren't read: {_WRITE_OUT}", lost=True))
    return outcome


def _service(
    title: str, name: str, service: Section, folder: PurePosixPath, environment: Mapping[str, str]
) -> Draft | None:
    draft = Draft(title, name)
    read = partial(interpolated, environment=environment)
    image = read(service.text("image"))
    variables = list(_variables(draft, service, read))
    entrypoint, command = _words(service, "entrypoint", read), _words(service, "command", read)
    if not image and not entrypoint and not command:
        return None
    known = {key: each for key, each in known_values(variables).items() if not _LEFT.search(each)}
    try:
        server = server_of(image, entrypoint, command, known)
    except NotImported as error:
        unknown = next((found for word in (*entrypoint, *command) if (found := _LEFT.search(word))), None)
        raise NotImported(_untold(service.path, unknown[1]) if unknown else str(error)) from None
    if server is None or ("build" in service and not command and not entrypoint and not variables):
        return None
    refuse(server, variables)
    at = service.at("command")
    server = _without_unknown(draft, server, at)
    mounts = list(_mounts(service, folder, read, environment.get("HOME", "")))
    shards = _shards(server)
    count = _gpus(service, variables, read)
    count = max(shards, 1) if count == _ALL else max(count, shards) if count else 0
    shards = serve(draft, server, Surroundings(at, variables, mounts, count, 1, image))
    count = max(count, shards) if count else 0
    draft.set("resources.limits", {**({"nvidia.com/gpu": count} if count else {}), **_limits(draft, service, read)})
    if not count and server.engine in ("vllm", "sglang") and "cpu" not in image.lower():
        draft.lose(
            service.at("deploy"), "no GPU is asked for: without nvidia.com/gpu in resources.limits there is none"
        )
    for mount in mounts:
        _told_mount(draft, mount, f"{service.at('volumes')} ({mount.inside})")
    scale = service.section("deploy").number("replicas")
    scale = service.number("scale") if scale is None else scale
    set_replicas(draft, 1 if scale is None else scale)
    service.section("deploy").ignore("restart_policy", "mode", "labels", "placement", "update_config")
    service.section("deploy").section("resources").ignore("limits", "reservations")
    service.ignore(*_NOT_NEEDED)
    for field, text in _LOST.items():
        if field in service:
            service.ignore(field)
            draft.lose(service.at(field), text)
    draft.lose_all(service.left())
    return draft


def interpolated(text: str, environment: Mapping[str, str]) -> str:
    """Compose's variables with what the environment or their default says; others stay, as ${NAME}.

    Nothing that is secret is taken from the environment.
    """

    def value(found: re.Match[str]) -> str:
        if found["dollar"]:
            return "$"
        name, sign = found["name"] or found["braced"], found["sign"] or ""
        if (told := environment.get(name)) and not is_secret(name, told):
            return told
        return found["rest"] if sign.endswith("-") else f"${{{name}}}"

    for _ in range(4):  # defaults may hold variables
        before = text
        text = _VARIABLE.sub(value, text) if len(text) <= _MOST_CHARACTERS else text
        if text == before or "${" not in text:
            break
    return text


def _untold(where: str, name: str) -> str:
    return f"{where}: the value of {name} isn't told: set it in the environment, or {_WRITE_OUT}"


def _words(service: Section, name: str, read: Reader) -> list[str]:
    """A command as a list, or as a text that is split as a shell does."""
    value = service.any(name)
    if isinstance(value, list):
        return [read(word) for word in service.texts(name)]
    text = read(service.text(name))
    if len(text) > _MOST_CHARACTERS:
        raise NotImported(f"{service.at(name)}: more than {_MOST_CHARACTERS:,} characters")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise NotImported(f"{service.at(name)}: can't be split into words: {error}") from None


def _variables(draft: Draft, service: Section, read: Reader) -> Iterator[dict[str, str]]:
    """A map of variables, or a list of NAME=value; a value that isn't told is said."""
    given = service.any("environment")
    if isinstance(given, list):
        pairs = [
            (name, value if equals else None)
            for name, equals, value in (w.partition("=") for w in service.texts("environment"))
        ]
    else:
        pairs = [(str(name), each) for name, each in service.mapping("environment").items()]
    for name, value in pairs:
        written = f"${{{name}}}" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        text = read(written)
        if (unknown := _LEFT.search(text)) is None or name in _OF_MODELS:
            yield {"name": name, "value": text}
        elif name in _TOKENS:
            draft.say(f"{service.at('environment')} ({name})", "HF_TOKEN in the environment of `ams up`")
        else:
            draft.lose(_untold(f"{service.at('environment')} ({name})", unknown[1]))


def _without_unknown(draft: Draft, server: Server, at: str) -> Server:
    """The words without options whose value isn't told; of the model that is a reason to refuse."""
    kept: list[str] = []
    for option in options(server.arguments):
        unknown = next((found for word in option.words if (found := _LEFT.search(word))), None)
        if unknown is None or option.name in ("--model", "--model-path", "--model-id", "-m", "-hf"):
            kept += option.words
        else:
            draft.lose(_untold(f"{at} {option.name}".rstrip(), unknown[1]))
    return Server(server.engine, tuple(kept), server.variables, server.by)


def _mounts(service: Section, folder: PurePosixPath, read: Reader, home: str) -> Iterator[Mount]:
    for volume in service.items("volumes"):
        if isinstance(volume, dict):
            outside, inside = (read(str(volume.get(key) or "")) for key in ("source", "target"))
        else:
            outside, _, rest = read(str(volume)).partition(":")
            inside = rest.partition(":")[0]
        if not inside:
            continue
        if outside.startswith("~/") and home.startswith("/"):
            outside = home.rstrip("/") + outside[1:]
        if outside.startswith(("/", ".")) and not _LEFT.search(outside):
            yield Mount(inside, "host", str(folder / outside))
        else:
            yield Mount(inside, "volume", f"the volume {outside or 'without a name'} of Docker")


def _told_mount(draft: Draft, mount: Mount, at: str) -> None:
    source = str(draft.get("model.source"))
    if mount.kind == "host" and source.startswith(f"file://{mount.outside}"):
        return
    if _CACHE.search(mount.inside):
        draft.say(at, "not needed: weights are kept in a folder of the server's own")
    else:
        draft.lose(at, "nothing is mounted into the engine's container")


def _gpus(service: Section, variables: list[dict[str, str]], read: Reader) -> int:
    """How many GPUs a service gets; _ALL for all there are, 0 for none."""
    devices = {each["name"]: each["value"] for each in variables}
    reserved = service.section("deploy").section("resources").section("reservations")
    count = 0
    for device in reserved.sections("devices"):
        if device.text("driver") not in ("", "nvidia") or not {"gpu", "nvidia"} & set(device.texts("capabilities")):
            continue
        ids, number = device.items("device_ids"), read(device.text("count"))
        count = len(ids) if ids else int(number) if re.fullmatch(r"[1-9][0-9]{0,2}", number) else _ALL
    gpus = service.any("gpus")
    if gpus or (service.text("runtime") == "nvidia" and not count):
        count = int(str(gpus)) if re.fullmatch(r"[1-9][0-9]{0,2}", str(gpus)) else _ALL
    service.ignore("runtime", "gpus")
    listed = next(
        (devices[name] for name in _DEVICES if devices.get(name, "all") not in ("all", "", "-1", "void", "none")), ""
    )
    return len(listed.split(",")) if count == _ALL and listed else count


def _shards(server: Server) -> int:
    sizes = ("--tensor-parallel-size", "-tp", "--tp", "--tp-size")
    found = [option.value for option in options(server.arguments) if option.name in sizes]
    return next((int(each) for each in found if re.fullmatch(r"[1-9][0-9]{0,2}", each)), 0)


def _limits(draft: Draft, service: Section, read: Reader) -> dict[str, Any]:
    """Memory and processors; Docker's units are of 1024."""
    limits = service.section("deploy").section("resources").section("limits")
    memory = read(limits.text("memory") or service.text("mem_limit"))
    processors = read(limits.text("cpus") or service.text("cpus"))
    found: dict[str, Any] = {}
    if (size := _SIZE.fullmatch(memory)) is not None:
        unit = size[2].upper()
        found["memory"] = f"{size[1]}{unit}i" if unit and unit != "K" else f"{size[1]}{'Ki' if unit else ''}"
    elif memory:
        draft.lose(f"{service.at('mem_limit')} ({memory})", "not a size that is told")
    if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", processors):
        found["cpu"] = processors
    return found
