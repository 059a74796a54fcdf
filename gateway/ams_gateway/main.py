"""`ams-gateway`: the gateway as a process of its own."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack

import uvloop
from ams_common.json_lines import JsonLines
from ams_common.options import OptionError, add_flags, resolve_settings, say_unread, variables_of
from ams_kube.client import NoCluster
from ams_tracing.tracer import check_tracing

from ams_gateway.app import Gateway
from ams_gateway.auth.door import Door, open_door
from ams_gateway.auth.key_secret import KeySecret
from ams_gateway.auth.keys import Keys
from ams_gateway.collector import collecting_rarely
from ams_gateway.front.log import RequestLog, write_lines, write_stdout
from ams_gateway.processes.plan import VARIABLE, Part, check_processes, part_of, settings_of
from ams_gateway.processes.supervisor import supervise
from ams_gateway.redis_link import open_link
from ams_gateway.registry.cluster.watching import watched
from ams_gateway.registry.static import InvalidBackend, StaticRegistry, parse_backends
from ams_gateway.server import listen
from ams_gateway.settings import GatewaySettings, check_folder
from ams_gateway.tls import load_certificate

logger = logging.getLogger("ams_gateway")


def main() -> None:
    """Serve until SIGINT or SIGTERM. Exits with 2 on bad settings, 1 when it can't listen."""
    parser = argparse.ArgumentParser(prog="ams-gateway", description="One HTTP API in front of model pods.")
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME=ADDRESS",
        help="a model's pod, as in smollm2=http://127.0.0.1:8080; repeatable [AMS_BACKEND, separated by commas]",
    )
    add_flags(parser, GatewaySettings)
    flags = vars(parser.parse_args())
    try:
        backends = parse_backends(flags["backend"] or filter(None, os.environ.get("AMS_BACKEND", "").split(",")))
        settings = resolve_settings(GatewaySettings, flags, os.environ)
        _log_to_stderr(settings)
        check_folder(settings)
        keys = _keys_of_secret(settings)
        open_link(settings.redis_url, settings.redis_password)
        door = open_door(settings, keys=keys)
        load_certificate(settings)
        check_tracing(settings.otlp_endpoint)
        check_processes(settings)
        part = part_of(os.environ.get(VARIABLE, ""))
    except (OptionError, InvalidBackend) as error:
        parser.error(str(error))
    say_unread(
        "ams-gateway", os.environ, variables_of(GatewaySettings) | {"AMS_BACKEND", VARIABLE}, settings.log_format
    )
    if settings.kubernetes and backends:
        parser.error("--kubernetes finds its models in the cluster: leave --backend (or AMS_BACKEND) out")
    port = settings.port
    try:
        if settings.processes > 1 and part is None:
            port = settings.metrics_port
            sys.exit(asyncio.run(supervise(settings)))
        if part is not None:
            settings = settings_of(settings, part)
        uvloop.run(
            _run_in_cluster(settings, door, part) if settings.kubernetes else _run(backends, settings, door, part)
        )
    except NoCluster as error:
        sys.exit(f"ams-gateway: {error}")
    except OSError as error:
        sys.exit(f"ams-gateway: can't listen on {settings.host}:{port}: {error.strerror or error}")


def _log_to_stderr(settings: GatewaySettings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    console = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if settings.log_format == "json" else console)
    logging.basicConfig(level=logging.DEBUG if settings.debug else logging.INFO, handlers=[handler])


def _keys_of_secret(settings: GatewaySettings) -> Keys | None:
    """Keys that a watch of the Secret is to fill; None if the settings name none. OptionError for a wrong name."""
    if not settings.keys_secret:
        return None
    if settings.keys_secret.count("/") != 1 or not all(settings.keys_secret.split("/")):
        raise OptionError(f"--keys-secret={settings.keys_secret!r}: expected namespace/name")
    if not settings.kubernetes:
        raise OptionError("--keys-secret needs --kubernetes; --keys-file is for keys in a file")
    if settings.keys_file:
        raise OptionError("--keys-secret and --keys-file: keys come from one place only")
    return Keys(configured=True)


async def _run_in_cluster(settings: GatewaySettings, door: Door, part: Part | None) -> None:
    """Listen when the models are known: a gateway that starts without an API server isn't ready."""
    stop = _stop_signal(part)
    namespaces = [name.strip() for name in settings.namespaces.split(",") if name.strip()]
    async with AsyncExitStack() as stack:
        entering = asyncio.ensure_future(
            stack.enter_async_context(
                watched(namespaces, confine_names=settings.confine_names, secret=_secret(settings, door.keys))
            )
        )
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((entering, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            await asyncio.wait((entering,))
            return
        stopping.cancel()
        gateway = Gateway(await entering, settings, request_log=_log_of(settings), door=door)
        async with listen(gateway, monitoring_socket=_socket(part)) as listening, collecting_rarely():
            logger.info("listening on %s for %s", listening.url, settings.namespaces or "all namespaces")
            await stop.wait()
            logger.info("stopping: running requests get %g seconds", settings.grace_seconds)


def _secret(settings: GatewaySettings, keys: Keys) -> KeySecret | None:
    return KeySecret(keys, *settings.keys_secret.split("/")) if settings.keys_secret else None


async def _run(backends: dict[str, list[str]], settings: GatewaySettings, door: Door, part: Part | None) -> None:
    stop = _stop_signal(part)
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(StaticRegistry(backends))
        gateway = Gateway(registry, settings, request_log=_log_of(settings), door=door)
        listening = await stack.enter_async_context(listen(gateway, monitoring_socket=_socket(part)))
        await stack.enter_async_context(collecting_rarely())
        logger.info("listening on %s for %s", listening.url, ", ".join(backends) or "no model")
        await stop.wait()
        logger.info("stopping: running requests get %g seconds", settings.grace_seconds)


def _log_of(settings: GatewaySettings) -> RequestLog:
    return RequestLog(write_lines if settings.processes > 1 else write_stdout, settings.log_format)


def _socket(part: Part | None) -> str:
    return "" if part is None else part.socket


def _stop_signal(part: Part | None) -> asyncio.Event:
    """Set by SIGINT and SIGTERM, and in one of several processes when the first one is gone."""
    stop = asyncio.Event()
    if part is not None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)  # nothing is ever written to it
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
