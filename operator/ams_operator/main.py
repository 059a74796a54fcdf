"""`ams-operator`: brings ModelDeployments to life."""

import asyncio
import logging
import os
import signal
import sys

import uvloop
from ams_common.options import parse
from ams_common.outside import InvalidJson
from ams_kube.client import NoCluster

from ams_operator import logs
from ams_operator.act.election import LeadershipLost
from ams_operator.decide.children.policy import allowed_peers
from ams_operator.program import operate
from ams_operator.settings import OperatorSettings

log = logging.getLogger("ams_operator")


def main() -> None:
    """Run until SIGINT or SIGTERM. Exits with 2 on bad settings, 1 when it can't be sure to lead any more."""
    settings = parse(
        OperatorSettings, "ams-operator", sys.argv[1:], os.environ, "Apply a ModelDeployment, get a served model."
    )
    try:
        allowed_peers(settings)
    except InvalidJson as error:
        sys.exit(f"ams-operator: --network-policy-from {error}")
    logs.configure(settings.log_format, settings.debug)
    try:
        uvloop.run(_run(settings))
    except NoCluster as error:
        sys.exit(f"ams-operator: {error}")
    except LeadershipLost as error:
        log.error("%s: ending, so that another one can lead", error)
        _leave(1)
    except OSError as error:
        sys.exit(f"ams-operator: can't listen on {settings.host}:{settings.port}: {error.strerror or error}")
    _leave(0)


async def _run(settings: OperatorSettings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await operate(settings, stop, lambda port: log.info("metrics on port %d", port))
    log.info("stopped")


def _leave(status: int) -> None:
    """End at once: kopf's thread may still wait for an answer that nobody needs."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
