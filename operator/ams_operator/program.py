"""The operator as a whole: watches fill the cache, the queue is worked on while this one leads."""

import asyncio
import logging
import os
import platform
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from ams_common.labels import MANAGED_SELECTOR
from ams_common.reasons import Reason
from ams_common.resource.status import conditions_of
from ams_common.why.story import OperatorDecisions
from ams_kube.client import Client
from ams_kube.freshness import Freshness, overdue
from ams_kube.kinds import Kind
from ams_kube.objects import LEADER_WORKER_SETS, MODELS, NODES, PODS, REPLICA_SETS, MetadataOnly, Pod
from ams_kube.reflector import Reflector

from ams_operator.act.election import Election, Terms
from ams_operator.act.first_key import FirstKey
from ams_operator.act.hub import HubClient
from ams_operator.act.hub_reports import HubReports, question_of
from ams_operator.act.reconcile import Reconciler
from ams_operator.act.writer import Writer
from ams_operator.decide.children.kinds import CHILDREN, Child, is_worker, model_key
from ams_operator.decisions import DecisionBook
from ams_operator.metrics import Figures, Metrics
from ams_operator.persistent import keep_running
from ams_operator.settings import OperatorSettings
from ams_operator.watch.cache import Cache
from ams_operator.watch.demand import DemandReader
from ams_operator.watch.groups import GroupWatch
from ams_operator.watch.models import ModelWatch
from ams_operator.watch.naming import NameBook
from ams_operator.watch.nodes import NodeWatch
from ams_operator.watch.progress import ProgressPoller
from ams_operator.watch.scaler import Scaler
from ams_operator.watch.serving import ServingPoller, targets
from ams_operator.watch.startups import StartupWatch
from ams_operator.watch.workqueue import WorkQueue
from ams_operator.web import serve_monitoring

log = logging.getLogger(__name__)

HUB = "https://huggingface.co"
_SHUTDOWN_SECONDS = 1.0
_TIDY_SECONDS = 300.0
_UNLISTED_SECONDS = 180.0  # bookmarks come, and lists are compared, each minute
_UNTRIED_SECONDS = 600.0


async def operate(
    settings: OperatorSettings, stop: asyncio.Event, listening: Callable[[int], None] | None = None
) -> None:
    """Until `stop`. LeadershipLost if it led and may not be sure of that any more; `listening` gets the port."""
    metrics = Metrics()
    async with (
        await Client.connect("ams-operator", connections=2 * settings.concurrent_writes + 16) as client,
        aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=30)) as hub_session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as pod_session,
    ):
        program = _Operator(settings, client, hub_session, pod_session, metrics)
        monitoring = serve_monitoring(
            settings.host, settings.port, metrics, program.unready, program.unhealthy, program.decisions
        )
        async with monitoring as port:
            if listening is not None:
                listening(port)
            await program.run(stop)


class _Operator:
    def __init__(
        self,
        settings: OperatorSettings,
        client: Client,
        hub_session: aiohttp.ClientSession,
        pod_session: aiohttp.ClientSession,
        metrics: Metrics,
    ) -> None:
        self._client = client
        identity = settings.identity or platform.node()
        self._election = Election(
            client,
            settings.namespace,
            settings.lease_name,
            identity,
            Terms(settings.lease_seconds, min(settings.renew_seconds, settings.lease_seconds * 0.8)),
            pod_uid=settings.pod_uid,
        )
        self._queue = queue = WorkQueue(at_once=settings.concurrent_writes)
        self._cache = Cache(lambda key, new_spec: queue.add(key, first=new_spec))
        self._poller = ProgressPoller(pod_session, settings.progress_port, self._pods_on_their_way, queue.add, metrics)
        self._serving = ServingPoller(pod_session, lambda: targets(self._cache), queue.add)
        self._nodes = NodeWatch(client, self._nodes_changed)
        self._reports = (
            HubReports(HubClient(hub_session, hub_endpoint(settings), settings.preflight_seconds), queue.add, metrics)
            if settings.preflight
            else None
        )
        self._decisions = DecisionBook()
        self._reader = self._scaler = None
        if settings.gateway_service:
            self._reader = DemandReader(client, pod_session, settings.gateway_service, self._demand_changed)
            self._scaler = Scaler(
                self._cache, self._reader, lambda key: queue.add(key, first=True), metrics, self._decisions
            )
        self._first_key = FirstKey(client, settings.keys_secret) if settings.keys_secret else None
        writer = Writer(client, self._election, metrics)
        self._reconcile = Reconciler(
            client,
            self._cache,
            writer,
            self._reports,
            lambda: self._nodes.nodes,
            lambda: self._groups.availability,
            settings,
            metrics,
            self._poller.of,
            self._serving.of,
            self._by_load,
            NameBook(self._cache, queue.add, confined=settings.confine_names),
            self._busy,
            queue.add,
            self._decisions,
        )
        namespaces = [name for name in settings.namespaces.split(",") if name]
        self._models = ModelWatch(client, self._cache, namespaces)
        everywhere: list[str | None] = [*namespaces] or [None]
        self._groups = GroupWatch(client, self._cache, everywhere, self._groups_changed)
        own = [kind for kind in CHILDREN.values() if kind is not LEADER_WORKER_SETS]
        self._reflectors = [
            self._reflector(client, kind, namespace) for kind in (*own, REPLICA_SETS, PODS) for namespace in everywhere
        ]
        self._waking: dict[str, Pod] = {}
        self._startups = StartupWatch(metrics, lambda: self._election.leads)
        metrics.figures = self._figures

    def unready(self) -> str | None:
        """Why it doesn't see the cluster as it is; nothing is planned before every kind was listed once."""
        if not (self._models.synced.is_set() and self._nodes.known.is_set() and self._groups.known.is_set()):
            return "the cluster isn't known yet"
        if not all(each.synced.is_set() for each in self._reflectors):
            return "the cluster isn't known yet"
        late = overdue([(kind, each.unlisted_seconds) for kind, each in self._watched()], _UNLISTED_SECONDS)
        return f"not listed: {late}" if late else None

    def unhealthy(self) -> str | None:
        """Which watch is stuck. An API server, or a kind, that is away is no reason: starting anew doesn't bring it."""
        late = overdue([(kind, each.untried_seconds) for kind, each in self._watched()], _UNTRIED_SECONDS)
        return f"not asked for: {late}" if late else None

    def decisions(self, key: str) -> OperatorDecisions:
        """What was decided about a model lately, while this one led."""
        return OperatorDecisions(model=key, leads=self._election.leads, decisions=self._decisions.of(key))

    def _watched(self) -> list[tuple[str, Freshness]]:
        nodes = self._nodes.freshness
        return [
            (MODELS.name, self._models.freshness),
            *([(NODES.name, nodes)] if nodes is not None else []),
            *((each.kind, each.freshness) for each in self._reflectors),
            *self._groups.freshness(),
        ]

    async def run(self, stop: asyncio.Event) -> None:
        watches: list[Coroutine[Any, Any, None]] = [
            self._models.run(),
            keep_running("the watch of nodes", self._nodes.run),
            keep_running("the watch of LeaderWorkerSets", self._groups.run),
            *(keep_running("a watch", each.run) for each in self._reflectors),
        ]
        tasks = [asyncio.create_task(watch) for watch in watches]
        lead = asyncio.create_task(self._lead())
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, lead, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
        finally:
            self._models.stop()
            if self._election.leads:
                await self._queue.stop(_SHUTDOWN_SECONDS)
            else:
                await self._queue.stop(0.0)
            for task in (*tasks, lead, stopping):
                task.cancel()
            await asyncio.gather(*tasks, lead, stopping, return_exceptions=True)
            if self._reports is not None:
                await self._reports.close()
            await self._election.release()

    async def _lead(self) -> None:
        await self._models.synced.wait()
        await self._nodes.known.wait()
        await self._groups.known.wait()
        for each in self._reflectors:
            await each.synced.wait()
        log.info("the cluster is known: %d ModelDeployments", len(self._cache.keys()))
        elected = asyncio.Event()
        jobs: list[Coroutine[Any, Any, None]] = [self._election.run(elected.set), self._work(elected)]
        await _first_failure(jobs)

    async def _work(self, elected: asyncio.Event) -> None:
        await elected.wait()
        self._queue.start(self._reconcile)
        jobs: list[Coroutine[Any, Any, None]] = [
            keep_running("asking pods for their progress", self._poller.run),
            keep_running("asking pods that serve", self._serving.run),
            keep_running("forgetting what the hub said", self._tidy),
        ]
        if self._reader is not None:
            jobs.append(keep_running("reading the demand of gateways", self._reader.run))
        if self._first_key is not None:
            jobs.append(keep_running("making the first API key", self._first_key.run))
        await _first_failure(jobs)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            if self._reports is not None:
                asked = (question_of(resource) for resource in self._cache.resources())
                self._reports.forget_others({question for question in asked if question is not None})

    def _reflector(self, client: Client, kind: Kind[Any], namespace: str | None) -> Reflector[Any]:
        if kind is PODS:
            return Reflector(
                client, PODS, self._take_pod, self._forget_pod, namespace=namespace, labels=MANAGED_SELECTOR
            )

        if kind is REPLICA_SETS:
            return Reflector(
                client,
                REPLICA_SETS,
                self._take_replica_set,
                self._cache.forget_replica_set,
                namespace=namespace,
                labels=MANAGED_SELECTOR,
            )

        def take(child: Child) -> None:
            self._cache.take_child(kind.name, child)
            self._poller.look()

        def forget(key: str) -> None:
            self._cache.forget_child(kind.name, key)

        return Reflector(client, kind, take, forget, namespace=namespace, labels=MANAGED_SELECTOR)

    def _take_replica_set(self, replica_set: MetadataOnly) -> None:
        self._cache.take_replica_set(replica_set)
        self._poller.look()

    def _take_pod(self, pod: Pod) -> None:
        if self._poller.address(pod) is not None:
            self._waking[pod.metadata.key] = pod
            self._poller.look()
        else:
            self._waking.pop(pod.metadata.key, None)
        if not is_worker(pod.metadata):
            self._startups.take(pod)
        self._cache.take_pod(pod)

    def _forget_pod(self, key: str) -> None:
        self._waking.pop(key, None)
        self._startups.forget(key)
        self._cache.forget_pod(key)

    def _pods_on_their_way(self) -> list[Pod]:
        """Those of the models' own workloads; of others nothing is asked, whatever their labels say."""
        return [
            pod
            for key in {model_key(pod.metadata) for pod in self._waking.values()}
            for pod in (*self._cache.get(key).own_pods(), *self._cache.get(key).own_workers())
            if pod.metadata.key in self._waking
        ]

    def _nodes_changed(self) -> None:
        """A model that fitted no node before may fit one now."""
        for resource in self._cache.resources():
            condition = conditions_of(resource.status).get("PreflightPassed")
            if condition is not None and condition.reason == Reason.DOES_NOT_FIT_MEMORY:
                self._queue.add(resource.metadata.key)

    def _groups_changed(self) -> None:
        """A model over several nodes can be made now, or can't any more."""
        for resource in self._cache.resources():
            if resource.spec.engine.nodes > 1:
                self._queue.add(resource.metadata.key)

    def _demand_changed(self) -> None:
        if self._scaler is not None:
            self._scaler.update()

    def _by_load(self, key: str) -> int | None:
        return self._scaler.replicas(key) if self._scaler is not None else None

    def _busy(self) -> set[str]:
        """Models with requests."""
        return self._reader.busy() if self._reader is not None else set()

    def _figures(self) -> Figures:
        def desired(key: str) -> int | None:
            workload = self._cache.get(key).workload
            return workload.asked if workload is not None else None

        def restarts(key: str) -> int:
            known = self._cache.get(key)
            pods = [*known.own_pods(), *known.own_workers()]
            return sum(
                each.restart_count
                for pod in pods
                for each in (*pod.status.init_container_statuses, *pod.status.container_statuses)
            )

        reader, leads = self._reader, self._election.leads
        return Figures(
            self._cache.resources(),
            desired,
            self._queue.depth if leads else 0,  # one that waits for the Lease works on nothing, and isn't behind
            self._queue.age_seconds if leads else 0.0,
            leads,
            self._client.requests,
            downloads=self._poller.downloads(),
            restarts=restarts,
            demand=reader.of if reader is not None else None,
            demand_complete=reader is not None and reader.complete,
        )


def hub_endpoint(settings: OperatorSettings) -> str:
    return settings.hub_endpoint or os.environ.get("HF_ENDPOINT") or HUB


async def _first_failure(jobs: list[Coroutine[Any, Any, None]]) -> None:
    """Run all; when one ends, so do the others, and its exception is raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
