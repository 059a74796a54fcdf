"""The command line of `ams`: its commands, their options, and what `--help` says of them."""

import argparse

from ams_common.options import add_flags

from ams_cli import keys
from ams_cli.importing.products import PRODUCTS
from ams_cli.settings import ClientSettings, FetchSettings, UpSettings


def command_line() -> argparse.ArgumentParser:
    """Of all commands."""
    parser = argparse.ArgumentParser(prog="ams", description="Models served behind one HTTP API.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser(
        "up",
        help="serve models on this machine, from the same manifests as on a cluster",
        description="Serve models on this machine until Ctrl-C: a gateway in front, and a process for each model that "
        "starts at its first request. Without -f it serves a small model that needs neither GPU nor account.",
    )
    _add_manifests(up)
    _add_engines(up)
    add_flags(up, UpSettings)
    plan = commands.add_parser(
        "plan",
        help="what models need: download, disk, memory in each quantization, and whether they fit",
        description="Asks the hub for sizes and downloads nothing. Says what fits this machine, or with -k the nodes "
        "of a cluster. Exit status 1 if a model can't be served.",
    )
    _add_manifests(plan)
    _add_cluster(plan)
    _add_engines(plan)
    plan.add_argument("-o", "--output", choices=("table", "json"), default="table", help="format of the output")
    add_flags(plan, FetchSettings)
    importing = commands.add_parser(
        "import",
        help="ModelDeployments from plain manifests around an engine, compose files, and other products",
        description="Reads workloads of Kubernetes and services of Docker Compose that run vLLM and its like, values "
        "of the charts of vLLM's production stack and of llm-d, models of KubeAI, KServe and KAITO, and configurations "
        "of llama-swap, and writes ModelDeployments, with a comment for each thing without a counterpart. Exit status "
        "1 if a model couldn't be imported; the others are all the same.",
    )
    importing.add_argument("file", nargs="+", metavar="FILE", help="file or folder, - for standard input")
    importing.add_argument(
        "--from", dest="product", choices=("auto", *PRODUCTS), default="auto", help="read only what is of this product"
    )
    importing.add_argument("-o", "--output", default="", metavar="FILE", help="write to this file")
    download = commands.add_parser(
        "download",
        help="download the weights of models ahead of their first request",
        description="Downloads the weights to where `ams up` finds them. Complete ones are skipped, partial ones are "
        "resumed. Exit status 1 if one failed; the others are downloaded all the same.",
    )
    _add_manifests(download)
    _add_engines(download)
    add_flags(download, FetchSettings)
    status = commands.add_parser(
        "status",
        help="models and their state, of a running `ams up` or of a cluster",
        description="Asks the gateway at --url, or with -k the ModelDeployments of the cluster that kubectl would ask.",
    )
    status.add_argument("model", nargs="?", help="show everything about this model")
    status.add_argument("-w", "--watch", action="store_true", help="go on with a line for each change, until Ctrl-C")
    _add_cluster(status)
    add_flags(status, ClientSettings)
    chat = commands.add_parser(
        "chat",
        help="talk to a model in the terminal",
        description="A conversation with a model, through the gateway at --url or with -k through a cluster's.",
    )
    chat.add_argument("model", help="name or alias of a model")
    chat.add_argument("-p", "--prompt", help="ask one question, print the answer and exit")
    chat.add_argument("--system", default="", help="system prompt")
    for kind in ("image", "audio", "video"):
        chat.add_argument(f"--{kind}", action="append", default=[], metavar="FILE", help="attach to the first question")
    _add_cluster(chat)
    add_flags(chat, ClientSettings)
    top = commands.add_parser(
        "top",
        help="models live: state, requests, tokens a second, memory, errors",
        description="Follows the models of the gateway at --url, or with -k of a cluster's, until q or Ctrl-C. Where "
        "the output isn't a terminal it prints one table. Requests are those of the gateway that answers.",
    )
    top.add_argument(
        "--sort", choices=("name", "tokens", "requests", "memory"), default="name", help="first comes most"
    )
    top.add_argument("--once", action="store_true", help="print one table and exit")
    _add_cluster(top)
    add_flags(top, ClientSettings)
    keys.add_parser(commands)
    why = commands.add_parser(
        "why",
        help="what delayed a request or made it fail, or why a model isn't ready",
        description="Asks the gateway at --url, or with -k a cluster's gateways and its objects, with a key that has "
        "the scope admin. A request's id is in the header X-Request-Id of its answer, in its error, and in the log.",
    )
    why.add_argument("name", nargs="?", default="", help="id of a request, or name of a model; default: all models")
    why.add_argument("--json", action="store_true", help="everything that is known, as JSON")
    _add_cluster(why)
    add_flags(why, ClientSettings)
    usage = commands.add_parser(
        "usage",
        help="what each key has used: requests, tokens, compute time",
        description="Asks the gateway at --url, or with -k a cluster's, with a key that has the scope admin. This "
        "month by key, unless options say otherwise.",
    )
    usage.add_argument("--from", dest="start", default="", metavar="TIME", help="2026-11-26 or 2026-11-26T06:00:00Z")
    usage.add_argument("--to", dest="end", default="", metavar="TIME", help="the end; a date includes its day")
    usage.add_argument(
        "--group", default="", metavar="NAMES", help="key, model, outcome, and one of hour, day, month; by commas"
    )
    usage.add_argument("-o", "--output", choices=("table", "json", "csv"), default="table", help="format of the output")
    _add_cluster(usage)
    add_flags(usage, ClientSettings)
    return parser


def _add_manifests(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-f",
        "--filename",
        action="append",
        metavar="MANIFEST",
        help="file or folder of ModelDeployments, - for standard input; repeatable",
    )


def _add_engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engine-path",
        action="append",
        metavar="NAME=PATH",
        help="program of an engine that isn't on PATH, as in vllm=/opt/vllm/bin/vllm; repeatable",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-k", "--kubernetes", action="store_true", help="use the cluster of kubectl's current context")
    parser.add_argument("-n", "--namespace", help="with -k: only this namespace")
