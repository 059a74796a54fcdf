"""Feeds a ClusterRegistry from an API server, for as long as the gateway runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ams_common.names import API_VERSION, KIND, PLURAL
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_kube.reflector import Reflector

from ams_gateway.registry.cluster.objects import EndpointSlice, ModelDeployment
from ams_gateway.registry.cluster.registry import ClusterRegistry

logger = logging.getLogger("ams_gateway")

MODELS = Kind(API_VERSION, KIND, PLURAL, ModelDeployment)
SLICES = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", EndpointSlice)
MODEL_LABEL = "aimodelserver.io/model"


@asynccontextmanager
async def watched(namespaces: Sequence[str]) -> AsyncIterator[ClusterRegistry]:
    """A registry that follows the cluster, all of it if `namespaces` is empty. NoCluster if none is configured.

    It is given when everything was listed once; afterwards it keeps what it knows while the API server is away.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await Client.connect("ams-gateway", connections=16))
        registry = ClusterRegistry()
        stack.push_async_callback(registry.close)
        reflectors: list[Reflector[ModelDeployment] | Reflector[EndpointSlice]] = []
        for namespace in namespaces or (None,):
            reflectors.append(
                Reflector(client, MODELS, registry.take_resource, registry.forget_resource, namespace=namespace)
            )
            # The label that the operator puts on its Services, which their slices inherit.
            reflectors.append(
                Reflector(
                    client, SLICES, registry.take_slice, registry.forget_slice, namespace=namespace, labels=MODEL_LABEL
                )
            )
        tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]

        async def stop() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(stop)
        logger.info("reading models from %s", client.server)
        for reflector in reflectors:
            await reflector.synced.wait()
        yield registry
