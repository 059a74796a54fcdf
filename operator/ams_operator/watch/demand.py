"""Listens to every gateway for the load of the models, by requests that are answered at once when one has to wait."""

import asyncio
import logging
import time
from collections.abc import Callable

import aiohttp
import msgspec
from ams_kube.client import Client
from ams_kube.objects import ENDPOINT_SLICES, EndpointSlice
from ams_kube.reflector import Reflector

log = logging.getLogger(__name__)

_WAIT_SECONDS = 1.0
_ANSWER_SECONDS = 5.0
_FRESH_SECONDS = 3.0
_SERVICE_LABEL = "kubernetes.io/service-name"


class ModelDemand(msgspec.Struct, frozen=True, gc=False):
    in_flight: int = 0
    held: int = 0
    idle_seconds: float | None = None


class Report(msgspec.Struct, frozen=True):
    """`GET /internal/demand` of one gateway; models by `namespace/name`."""

    version: int = 0
    models: dict[str, ModelDemand] = {}


class DemandReader:
    """`heard` is called after each report."""

    def __init__(self, client: Client, session: aiohttp.ClientSession, service: str, heard: Callable[[], None]) -> None:
        self._client = client
        self._session = session
        self._namespace, _, self._name = service.partition("/")
        self._heard = heard
        self._slices: dict[str, list[str]] = {}
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._reports: dict[str, tuple[float, Report]] = {}

    @property
    def complete(self) -> bool:
        """Every gateway was heard within the last seconds, and there is one."""
        now = time.monotonic()
        return bool(self._listeners) and all(
            address in self._reports and now - self._reports[address][0] < _FRESH_SECONDS for address in self._listeners
        )

    def of(self, key: str) -> ModelDemand:
        """What all gateways together tell of a model; idle since the last request at any of them."""
        found = [told for _, report in self._reports.values() if (told := report.models.get(key)) is not None]
        idle = [told.idle_seconds for told in found if told.idle_seconds is not None]
        return ModelDemand(
            sum(told.in_flight for told in found), sum(told.held for told in found), min(idle) if idle else None
        )

    def busy(self) -> set[str]:
        """Models with requests."""
        return {
            key
            for _, report in self._reports.values()
            for key, told in report.models.items()
            if told.in_flight or told.held
        }

    async def run(self) -> None:
        """Until cancelled."""
        reflector = Reflector(
            self._client,
            ENDPOINT_SLICES,
            self._take,
            self._forget,
            namespace=self._namespace,
            labels=f"{_SERVICE_LABEL}={self._name}",
        )
        try:
            await reflector.run()
        finally:
            for task in self._listeners.values():
                task.cancel()
            await asyncio.gather(*self._listeners.values(), return_exceptions=True)

    def _take(self, given: EndpointSlice) -> None:
        port = next((port.port for port in given.ports or () if port.port), None)
        hosts = [address for endpoint in given.endpoints or () for address in endpoint.addresses[:1]]
        self._slices[given.metadata.key] = [_url(host, port) for host in hosts] if port is not None else []
        self._follow()

    def _forget(self, key: str) -> None:
        self._slices.pop(key, None)
        self._follow()

    def _follow(self) -> None:
        """One listener for each gateway, whether it is ready or about to end: its requests count."""
        wanted = {url for urls in self._slices.values() for url in urls}
        for url in self._listeners.keys() - wanted:
            self._listeners.pop(url).cancel()
            self._reports.pop(url, None)
        for url in wanted - self._listeners.keys():
            self._listeners[url] = asyncio.create_task(self._listen(url))

    async def _listen(self, url: str) -> None:
        version, failing = 0, False
        while True:
            try:
                query = {"wait": str(_WAIT_SECONDS), "since": str(version)}
                async with asyncio.timeout(_ANSWER_SECONDS), self._session.get(url, params=query) as response:
                    response.raise_for_status()
                    report = msgspec.json.decode(await response.read(), type=Report)
            except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError) as error:
                if not failing:
                    log.warning("the gateway at %s tells no demand: %s", url, str(error) or type(error).__name__)
                failing = True
                await asyncio.sleep(_WAIT_SECONDS)
                continue
            if failing:
                log.info("the gateway at %s tells its demand again", url)
            again = report.version == version
            version, failing = report.version, False
            self._reports[url] = time.monotonic(), report
            self._heard()
            if not again:
                await asyncio.sleep(0.02)  # a gateway whose version changes each time must not keep us busy


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/internal/demand"
