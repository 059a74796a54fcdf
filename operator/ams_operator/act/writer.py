"""All writes of the operator: only while it leads, counted, and never past the Lease's deadline."""

import asyncio
from typing import Any

from ams_common import labels
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Status
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_kube.objects import MODELS, PODS, Pod

from ams_operator.act.election import Election
from ams_operator.act.events import EventPoster
from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.kinds import CHILDREN, Child
from ams_operator.decide.observed import Transition
from ams_operator.metrics import Metrics


class NotLeading(Exception):
    """Another operator leads, or this one can't be sure that it does."""


class Writer:
    def __init__(self, client: Client, election: Election, metrics: Metrics) -> None:
        self._client = client
        self._election = election
        self._metrics = metrics
        self._events = EventPoster(client)

    async def apply(self, object: ObjectBody, uid: str | None) -> Child:
        """Apply a child. With its `uid`, an object of that name that came since is left alone (Conflict)."""
        kind: Kind[Any] = CHILDREN[object["kind"]]
        metadata = object["metadata"]
        body = {**object, "metadata": {**metadata, "uid": uid}} if uid is not None else object
        async with self._lead(kind.name):
            applied: Child = await self._client.apply(
                kind, metadata["namespace"], metadata["name"], body, manager=labels.MANAGER
            )
        return applied

    async def create_pod(self, body: ObjectBody) -> Pod:
        async with self._lead(PODS.name):
            return await self._client.create(PODS, body["metadata"]["namespace"], body)

    async def delete_pod(self, pod: Pod) -> None:
        metadata = pod.metadata
        async with self._lead(PODS.name):
            await self._client.delete(PODS, metadata.namespace, metadata.name, uid=metadata.uid)

    async def delete(self, kind: str, child: Child) -> None:
        metadata = child.metadata
        async with self._lead(kind):
            await self._client.delete(CHILDREN[kind], metadata.namespace, metadata.name, uid=metadata.uid)

    async def status(self, resource: ModelDeployment, status: Status) -> ModelDeployment:
        """The uid in it keeps a resource that was made anew under this name from getting it (Conflict)."""
        metadata = resource.metadata
        body = {
            "metadata": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
            "status": status,
        }
        async with self._lead(MODELS.name):
            return await self._client.apply(
                MODELS, metadata.namespace, metadata.name, body, manager=labels.MANAGER, subresource="status"
            )

    async def event(self, resource: ModelDeployment, transition: Transition, now: float) -> None:
        async with self._lead("Event"):
            await self._events.post(resource, transition, now)

    def _lead(self, kind: str) -> asyncio.Timeout:
        seconds = self._election.seconds_left
        if seconds <= 0:
            raise NotLeading
        self._metrics.writes.labels(kind).inc()
        return asyncio.timeout(seconds)
