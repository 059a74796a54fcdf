"""The command `ams`. Imports are late: `--help` and a bad manifest answer at once."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ams_common.options import OptionError, add_flags, resolve
from ams_common.resource.spec import ModelDeployment

from ams_cli import local, machine, manifests
from ams_cli.settings import UpSettings, log_dir, models_dir

if TYPE_CHECKING:
    from ams_cli.processes.launcher import Programs

_FAILED, _BAD_INPUT, _INTERRUPTED = 1, 2, 130
_NEEDED = ("aiohttp", "uvloop", "prometheus_client", "torch", "transformers")


def main(argv: Sequence[str] | None = None, programs: "Programs | None" = None) -> int:
    """Run a command; the exit status: 0, 1 when it can't run here, 2 when what it was given is wrong.

    `programs` are what model processes run, by default `ams_pod`.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _up(arguments, programs)
    except (OptionError, manifests.ManifestError) as error:
        return _say(str(error), _BAD_INPUT)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ams", description="Models served behind one HTTP API.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="serve models on this machine, from the same manifests as on a cluster",
        description="Serve models on this machine until Ctrl-C: a gateway in front, and a process for each model that "
        "starts at its first request. Without -f it serves a small model that needs neither GPU nor account.",
    )
    up.add_argument(
        "-f",
        "--filename",
        action="append",
        metavar="MANIFEST",
        help="file or folder of ModelDeployments, - for the standard input; may be given several times",
    )
    add_flags(up, UpSettings)
    return parser


def _up(arguments: argparse.Namespace, programs: "Programs | None") -> int:
    settings = resolve(UpSettings, vars(arguments), os.environ)
    read = manifests.load(arguments.filename or [str(manifests.QUICKSTART)])
    gpus = machine.gpu_count()
    _refuse_what_needs_a_cluster(read.models)
    notes = read.notes + [f"{each.metadata.name}: {note}" for each in read.models for note in local.notes(each, gpus)]
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        return _say(f"{', '.join(missing)}: not installed; run: pip install 'ai-model-server[local]'", _FAILED)
    from ams_cli.processes.launcher import PROGRAMS
    from ams_cli.up import Folders, UpError, run

    folders = Folders(models_dir(settings, os.environ), log_dir(settings, os.environ))
    try:
        return run(settings, read.models, folders, notes, programs or PROGRAMS)
    except UpError as error:
        return _say(str(error), _FAILED)


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
