"""The command `ams-pod`: `download` fetches a model's weights, `serve` answers for it, `adapters` fetches adapters."""

import sys
from collections.abc import Sequence

from ams_pod.output import drop_what_the_disk_refuses

_USAGE = """usage: ams-pod {download,serve,adapters} [--help] ...

  download   fetch a model's weights into the models folder
  serve      serve one model over HTTP
  adapters   fetch LoRA adapters beside a model that is served, as their list changes
"""


def main(argv: Sequence[str] | None = None) -> int:
    drop_what_the_disk_refuses()
    arguments = list(sys.argv[1:] if argv is None else argv)
    match arguments[:1]:
        case ["download"]:
            from ams_pod.download.main import run as download

            return download(arguments[1:])
        case ["serve"]:
            from ams_pod.serve.server import run as serve

            return serve(arguments[1:])
        case ["adapters"]:
            from ams_pod.download.watching import run as adapters

            return adapters(arguments[1:])
        case ["-h" | "--help"]:
            print(_USAGE, end="")
            return 0
    print(_USAGE, end="", file=sys.stderr)
    return 2
