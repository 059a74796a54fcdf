"""Reads every gateway's demand report, by requests that are answered at once when a model is waited for."""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
from ams_common.demand import DemandReport, ModelDemand
from ams_common.labels import SERVICE_NAME
from ams_kube.client import Client
from ams_kube.objects import ENDPOINT_SLICES, EndpointSlice
from ams_kube.reflector import Reflector

from ams_operator.answers import get_json

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_FRESH_SECONDS = 3.0
_LARGEST_BYTES = 4 << 20  # some ten thousand models


class DemandReader:
    """`service` is the gateways' namespace/name; `changed` is called after each report."""

    def __init__(
        self, client: Client, session: aiohttp.ClientSession, service: str, changed: Callable[[], None]
    ) -> None:
        self._client = client
        self._session = session
        self._namespace, _, self._name = service.partition("/")
        self._changed = changed
        self._slices: dict[str, list[str]] = {}
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._reports: dict[str, tuple[float, DemandReport]] = {}

    @property
    def complete(self) -> bool:
        """Every gateway reported within the last seconds, and there is one."""
        now = time.monotonic()
        return bool(self._listeners) and all(
            address in self._reports and now - self._reports[address][0] < _FRESH_SECONDS for address in self._listeners
        )

    def of(self, key: str) -> ModelDemand:
        """The demand of a model at all gateways together; idle since the last request at any of them."""
        reported = [demand for _, report in self._reports.values() if (demand := report.models.get(key)) is not None]
        idle = [demand.idle_seconds for demand in reported if demand.idle_seconds is not None]
        return ModelDemand(
            sum(demand.in_flight for demand in reported),
            sum(demand.held for demand in reported),
            min(idle) if idle else None,
        )

    def busy(self) -> set[str]:
        """Models with requests."""
        return {
            key
            for _, report in self._reports.values()
            for key, demand in report.models.items()
            if demand.in_flight or demand.held
        }

    async def run(self) -> None:
        """Until cancelled."""
        reflector = Reflector(
            self._client,
            ENDPOINT_SLICES,
            self._take,
            self._forget,
            namespace=self._namespace,
            labels=f"{SERVICE_NAME}={self._name}",
        )
        try:
            await reflector.run()
        finally:
            for task in self._listeners.values():
                task.cancel()
            await asyncio.gather(*self._listeners.values(), return_exceptions=True)

    def _take(self, slice: EndpointSlice) -> None:
        port = next((port.port for port in slice.ports or () if port.port), None)
        hosts = [address for endpoint in slice.endpoints or () for address in endpoint.addresses[:1]]
        self._slices[slice.metadata.key] = [_url(host, port) for host in hosts] if port is not None else []
        self._follow()

    def _forget(self, key: str) -> None:
        self._slices.pop(key, None)
        self._follow()

    def _follow(self) -> None:
        """One listener for each gateway, whether it is ready or about to end: its requests count."""
        urls_now = {url for urls in self._slices.values() for url in urls}
        for url in self._listeners.keys() - urls_now:
            self._listeners.pop(url).cancel()
            self._reports.pop(url, None)
        for url in urls_now - self._listeners.keys():
            self._listeners[url] = asyncio.create_task(self._listen(url))

    async def _listen(self, url: str) -> None:
        version, failing = 0, False
        while True:
            try:
                query = {"wait": str(_WAIT_SECONDS), "since": str(version)}
                async with asyncio.timeout(_ANSWER_SECONDS):
                    report = await get_json(self._session, url, DemandReport, most_bytes=_LARGEST_BYTES, query=query)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                if not failing:
                    log.warning(
                        "the gateway at %s does not report its demand: %s", url, str(error) or type(error).__name__
                    )
                failing = True
                await asyncio.sleep(_WAIT_SECONDS)
                continue
            if failing:
                log.info("the gateway at %s reports its demand again", url)
            again = report.version == version
            version, failing = report.version, False
            self._reports[url] = time.monotonic(), report
            self._changed()
            if not again:
                await asyncio.sleep(0.02)  # a gateway whose version changes each time must not keep us busy


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/internal/demand"
