"""The command `ams`. Imports are late: `--help` and a bad manifest answer at once."""

import argparse
import asyncio
import importlib.util
import os
import sys
from collections.abc import Collection, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from ams_common.engines.table import ROWS
from ams_common.options import OptionError, resolve_settings, unread, variables_of
from ams_common.resource.spec import ModelDeployment

from ams_cli import keys, local, machine, manifests
from ams_cli.arguments import command_line
from ams_cli.gateway_access import API_KEY, GatewayAccess, gateway_access
from ams_cli.key_file import StoreError
from ams_cli.processes.environment import PASSED_ON
from ams_cli.settings import (
    ClientSettings,
    FetchSettings,
    KeysSettings,
    UpSettings,
    keys_file,
    log_dir,
    models_dir,
    usage_file,
)

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ams_cli.gateway_client import GatewayClient
    from ams_cli.processes.launcher import Programs

S = TypeVar("S", bound=msgspec.Struct)

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_NEEDED = ("aiohttp", "uvloop", "prometheus_client", "torch", "transformers")


def main(argv: Sequence[str] | None = None, programs: "Programs | None" = None) -> int:
    """Run a command; the exit status: 0, 1 when it can't run here, 2 when what it was given is wrong.

    `programs` are what model processes run, by default `ams_pod`.
    """
    arguments = command_line().parse_args(argv)
    try:
        match arguments.command:
            case "up":
                return _up(arguments, programs)
            case "plan":
                return _plan(arguments)
            case "import":
                return _import(arguments)
            case "download":
                return _download(arguments, programs)
            case "status":
                return _status(arguments)
            case "keys":
                return _keys(arguments)
            case "usage":
                return _usage(arguments)
            case "top":
                return _top(arguments)
            case "why":
                return _why(arguments)
            case _:
                return _chat(arguments)
    except (OptionError, manifests.ManifestError) as error:
        return _say(str(error), _BAD_INPUT)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _settings(kind: type[S], arguments: argparse.Namespace, *, passed_on: Collection[str] = ()) -> S:
    """The settings of a command; names the AMS_* variables that no command `ams` reads, nor what this one starts."""
    read = variables_of(UpSettings, FetchSettings, ClientSettings, KeysSettings) | {API_KEY} | set(passed_on)
    if (line := unread(os.environ, read)) is not None:
        hint = "; for a model's process set it in spec.env of the manifest" if passed_on else ""
        _say(f"{line}{hint}", 0)
    given = vars(arguments)
    if paths := given.get("engine_path"):
        given = {**given, "engine_paths": ",".join(filter(None, (given.get("engine_paths"), *paths)))}
    return resolve_settings(kind, given, os.environ)


def _up(arguments: argparse.Namespace, programs: "Programs | None") -> int:
    settings = _settings(UpSettings, arguments, passed_on=PASSED_ON)
    read = _read(arguments)
    gpus = machine.gpu_count()
    _refuse_what_needs_a_cluster(read.models)
    notes = read.notes + [f"{each.metadata.name}: {note}" for each in read.models for note in local.notes(each, gpus)]
    if missing := _missing():
        return _say(missing, _FAILED)
    from ams_cli import engines
    from ams_cli.processes.launcher import PROGRAMS
    from ams_cli.up import Folders, UpError, run

    programs_of_engines = engines.find_programs(settings.engine_paths)
    folders = Folders(
        models=models_dir(settings, os.environ),
        logs=log_dir(settings, os.environ),
        keys=keys_file("", os.environ),
        usage=usage_file(settings, os.environ),
    )
    try:
        return run(settings, read.models, folders, notes, programs or PROGRAMS, programs_of_engines)
    except UpError as error:
        return _say(str(error), _FAILED)


def _plan(arguments: argparse.Namespace) -> int:
    settings = _settings(FetchSettings, arguments)
    read = _read(arguments)
    if missing := _missing():
        return _say(missing, _FAILED)
    from ams_cli import capacity, engines, plan, preview
    from ams_cli.tables import columns

    folder = models_dir(settings, os.environ)
    try:
        if arguments.kubernetes:
            where = plan.on_nodes(asyncio.run(capacity.nodes_of_cluster()))
            has = engines.Machine(dict.fromkeys(ROWS, ""), certain=False)
        else:
            here = capacity.this_machine()
            where = plan.on_machine(here)
            has = engines.Machine(engines.find_programs(settings.engine_paths), machine.gpu_count(), here.gpu_free)
    except capacity.CapacityError as error:
        return _say(str(error), _FAILED)
    disk = None if arguments.kubernetes else capacity.disk_free(folder)
    made = plan.make_plan(
        preview.look_all(read.models, folder, lambda each: engines.engine_of_weights(each, has)), where, disk, has
    )
    if arguments.output == "json":
        print(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        print(columns(plan.lines(made)))
        print()
        for line in plan.remarks(made, str(folder)):
            print(line)
    return _FAILED if made.disk_fits is False or any(row.fits is False for row in made.models) else 0


def _import(arguments: argparse.Namespace) -> int:
    from ams_cli.importing import command

    complete = command.run(arguments.file, arguments.product, arguments.output, os.environ)
    return 0 if complete else _FAILED


def _download(arguments: argparse.Namespace, programs: "Programs | None") -> int:
    settings = _settings(FetchSettings, arguments, passed_on=PASSED_ON)
    read = _read(arguments)
    if missing := _missing():
        return _say(missing, _FAILED)
    from ams_cli import engines
    from ams_cli.downloads import download_all
    from ams_cli.processes.launcher import PROGRAMS

    folder, logs = models_dir(settings, os.environ), log_dir(settings, os.environ)
    for flag, path in (("--models-dir", folder), ("--log-dir", logs)):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return _say(f"{flag} {path}: {error.strerror}", _FAILED)
    for note in read.notes:
        print(note)
    has = engines.Machine(engines.find_programs(settings.engine_paths), machine.gpu_count())
    worked = asyncio.run(
        download_all(read.models, folder, logs, programs or PROGRAMS, has, lambda text: print(text, flush=True))
    )
    return 0 if worked else _FAILED


def _status(arguments: argparse.Namespace) -> int:
    settings = _settings(ClientSettings, arguments)
    access = gateway_access(settings, os.environ)
    from ams_cli import gateway_client, status, watching

    def say(text: str) -> None:
        print(text, flush=True)

    async def report() -> None:
        if arguments.kubernetes:
            if arguments.watch:
                await watching.watch_cluster(arguments.namespace, arguments.model, say)
            else:
                say(await status.cluster_status(arguments.namespace, arguments.model))
            return
        async with gateway_client.at_url(settings.url, access) as gateway:
            if arguments.watch:
                await watching.watch_gateway(gateway, arguments.model, say)
            else:
                say(await status.gateway_status(gateway, arguments.model))

    return _run(report())


def _top(arguments: argparse.Namespace) -> int:
    settings = _settings(ClientSettings, arguments)
    access = gateway_access(settings, os.environ)
    from ams_cli import top

    has_screen = sys.stdout.isatty() and importlib.util.find_spec("rich") is not None and not arguments.once

    async def show() -> None:
        async with _gateway(arguments, settings, access) as gateway:
            if has_screen:
                await top.live(gateway, arguments.sort)
            else:
                print(await top.once(gateway, arguments.sort))

    return _run(show())


def _gateway(
    arguments: argparse.Namespace, settings: ClientSettings, access: GatewayAccess
) -> "AbstractAsyncContextManager[GatewayClient]":
    """The gateway at --url, or with -k a cluster's."""
    from ams_cli import gateway_client

    if arguments.kubernetes:
        return gateway_client.in_cluster(arguments.namespace, access)
    return gateway_client.at_url(settings.url, access)


def _run(work: "Coroutine[Any, Any, None]") -> int:
    """The exit status of what talks to a gateway or a cluster."""
    from ams_cli.gateway_client import GatewayError

    try:
        asyncio.run(work)
    except GatewayError as error:
        return _say(str(error), _FAILED)
    return 0


def _chat(arguments: argparse.Namespace) -> int:
    settings = _settings(ClientSettings, arguments)
    access = gateway_access(settings, os.environ)
    from ams_cli import chat

    try:
        attachments = [
            chat.attachment(kind, path) for kind in ("image", "audio", "video") for path in getattr(arguments, kind)
        ]
    except chat.ChatError as error:
        return _say(str(error), _BAD_INPUT)

    async def run() -> None:
        async with _gateway(arguments, settings, access) as gateway:
            conversation = chat.Conversation(gateway, arguments.model, arguments.system)
            if arguments.prompt is not None:
                await chat.once(conversation, arguments.prompt, attachments)
            elif not sys.stdin.isatty():
                await chat.once(conversation, sys.stdin.read(), attachments)
            else:
                import readline  # noqa: F401  # input() then has lines that can be edited

                await chat.talk(conversation, lambda: input("> "), attachments)

    return _run(run())


def _usage(arguments: argparse.Namespace) -> int:
    settings = _settings(ClientSettings, arguments)
    access = gateway_access(settings, os.environ)
    from ams_cli import usage

    async def report() -> None:
        async with _gateway(arguments, settings, access) as gateway:
            print(await usage.report(gateway, arguments.start, arguments.end, arguments.group, arguments.output))

    return _run(report())


def _why(arguments: argparse.Namespace) -> int:
    settings = _settings(ClientSettings, arguments)
    access = gateway_access(settings, os.environ)
    from ams_cli import gateway_client, why, why_cluster

    async def report() -> None:
        if arguments.kubernetes:
            found = await why_cluster.ask_cluster(arguments.name, arguments.namespace, access)
        else:
            async with gateway_client.at_url(settings.url, access) as gateway:
                found = await why.ask(gateway, arguments.name)
        print(why.as_json(found) if arguments.json else why.as_text(found, blocks=_shows_blocks()))

    return _run(report())


def _shows_blocks() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def _keys(arguments: argparse.Namespace) -> int:
    settings = _settings(KeysSettings, arguments)
    try:
        keys.run(arguments, settings, os.environ)
    except keys.KeysError as error:
        return _say(str(error), _BAD_INPUT)
    except StoreError as error:
        return _say(str(error), _FAILED)
    return 0


def _read(arguments: argparse.Namespace) -> manifests.Manifests:
    return manifests.load_manifests(arguments.filename or [str(manifests.QUICKSTART)])


def _missing() -> str | None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        return f"{', '.join(missing)}: not installed; run: pip install 'ai-model-server[local]'"
    return None


def _refuse_what_needs_a_cluster(models: Sequence[ModelDeployment]) -> None:
    refused = [f"{each.metadata.name}: {why}" for each in models for why in local.refusals(each)]
    if refused:
        raise manifests.ManifestError("\n".join(refused))


def _say(text: str, status: int) -> int:
    for line in text.splitlines():
        print(f"ams: {line}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
