"""Feeds a ClusterRegistry from an API server, for as long as the gateway runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

from ams_common import labels
from ams_kube.client import Client
from ams_kube.objects import ENDPOINT_SLICES, EndpointSlice
from ams_kube.reflector import Reflector
from ams_kube.views import RESOURCES, ResourceView

from ams_gateway.auth.key_secret import SECRETS, KeySecret
from ams_gateway.registry.cluster.registry import ClusterRegistry

logger = logging.getLogger("ams_gateway")


@asynccontextmanager
async def watched(
    namespaces: Sequence[str], *, confine_names: bool = False, secret: KeySecret | None = None
) -> AsyncIterator[ClusterRegistry]:
    """A registry that follows the cluster, all of it if `namespaces` is empty. NoCluster if none is configured.

    It is yielded when all models were listed once; it keeps what it knows while the API server is away. `secret` takes
    the Secret that it names, which isn't waited for: a gateway without its keys is alive, and not ready.
    """
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(await Client.connect("ams-gateway", connections=16))
        registry = ClusterRegistry(confine_names=confine_names)
        stack.push_async_callback(registry.close)
        reflectors: list[Reflector[ResourceView] | Reflector[EndpointSlice]] = []
        for namespace in namespaces or (None,):
            reflectors.append(
                Reflector(client, RESOURCES, registry.take_resource, registry.forget_resource, namespace=namespace)
            )
            # The label that the operator puts on its Services, which their slices inherit.
            reflectors.append(
                Reflector(
                    client,
                    ENDPOINT_SLICES,
                    registry.take_slice,
                    registry.forget_slice,
                    namespace=namespace,
                    labels=labels.MODEL,
                )
            )
        tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
        if secret is not None:
            tasks.append(asyncio.create_task(_follow(client, secret)))

        async def stop() -> None:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        stack.push_async_callback(stop)
        logger.info("reading models from %s", client.server)
        for reflector in reflectors:
            await reflector.synced.wait()
        yield registry


async def _follow(client: Client, secret: KeySecret) -> NoReturn:
    fields = f"metadata.name={secret.name}"  # the right to one name covers no other list
    watch = Reflector(client, SECRETS, secret.take, secret.forget, namespace=secret.namespace, fields=fields)
    running = asyncio.create_task(watch.run())
    try:
        await watch.synced.wait()
        secret.note_listed()
        await running
        raise AssertionError("a watch never ends")
    finally:
        running.cancel()
