"""`ams why -k`: through a cluster's gateways, and from its objects where those or the model aren't ready."""

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import aiohttp
from ams_common.labels import GROUP, MODEL, SERVICE_NAME
from ams_common.lifecycle import stage_of
from ams_common.names import resource_name
from ams_common.outside import InvalidJson, read_json
from ams_common.reasons import Reason
from ams_common.why.model import explain_model
from ams_common.why.scheduling import node_accounts
from ams_common.why.story import DECISIONS_PATH, Decision, ModelAccount, NodeAccount, OperatorDecisions, Why

from ams_cli.gateway_access import GatewayAccess
from ams_cli.gateway_client import GATEWAYS, GatewayClient, GatewayError, through_proxy
from ams_cli.why import NotKnown, ask, fetch

if TYPE_CHECKING:
    from ams_kube.client import Client
    from ams_kube.objects import Pod, Service
    from ams_kube.views import ResourceView

_OPERATORS = "app.kubernetes.io/part-of=ai-model-server,app.kubernetes.io/component=operator"
_OPERATOR_PORT = 9090
_MOST_EVENTS = 20
_NO_NODE = (Reason.UNSCHEDULABLE, Reason.INSUFFICIENT_GPU)
_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}").fullmatch


async def ask_cluster(name: str, namespace: str | None, access: GatewayAccess) -> Why:
    """As `why.ask`. GatewayError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError

    try:
        async with await Client.connect("ams") as client:
            return await _ask(client, name, namespace, access)
    except (NoCluster, KubeError) as error:
        raise GatewayError(str(error)) from None


async def _ask(client: "Client", name: str, namespace: str | None, access: GatewayAccess) -> Why:
    from ams_kube.views import RESOURCES

    wanted = resource_name(name.rpartition(".")[2] if "." in name else name)
    resources = [each for each in await client.list(RESOURCES, namespace) if _is_called(each, name, wanted)]
    gateways, why_none = await _gateways(client, access)
    if not resources and name:
        return await _request(gateways, name, why_none)
    if not name:
        if not gateways:
            raise GatewayError(why_none)
        return await ask(gateways[0], "")
    resource = resources[0]
    said: Why | None = None
    notes = [] if gateways else [why_none]
    for gateway in gateways[:1]:
        try:
            said = await fetch(gateway, {"model": name})
        except GatewayError as error:
            notes.append(f"the gateway didn't say more: {error}")
    if said is not None and said.model is not None and said.model.ready_replicas:
        return said
    account = await read_account(client, resource)
    causes = explain_model(account)
    return Why(about="model", name=name, sentence=causes[0].sentence, causes=causes, model=account, notes=notes)


async def _request(gateways: Sequence[GatewayClient], name: str, why_none: str) -> Why:
    """Each gateway has records of its own requests."""
    if not gateways:
        raise GatewayError(f"No ModelDeployment {name!r}, and no gateway to ask about a request: {why_none}")
    if not _ID(name):
        raise GatewayError(f"No ModelDeployment {name!r}.")
    refused: GatewayError | None = None
    from_a_pod: Why | None = None
    for gateway in gateways:
        try:
            found = await fetch(gateway, {"request": name})
        except NotKnown as error:
            refused = refused or error
        except GatewayError as error:
            refused = error
        else:
            if not found.notes:
                return found
            from_a_pod = found
    if from_a_pod is not None:
        return from_a_pod
    assert refused is not None  # each gateway answered or refused
    raise refused


async def _gateways(client: "Client", access: GatewayAccess) -> tuple[list[GatewayClient], str]:
    """A client for each gateway, or why there is none."""
    from ams_kube.objects import ENDPOINT_SLICES, SERVICES

    services: list[Service] = [
        each for each in await client.list(SERVICES, labels=GATEWAYS) if each.spec.cluster_ip != "None"
    ]
    found: list[GatewayClient] = []
    for service in services:
        namespace, name = service.metadata.namespace, service.metadata.name
        tls = any(port.app_protocol == "https" for port in service.spec.ports)
        for each in await client.list(ENDPOINT_SLICES, namespace, labels=f"{SERVICE_NAME}={name}"):
            port = next((port.port for port in each.ports or () if port.port), None)
            found += [
                through_proxy(client, namespace, f"pods/{'https:' if tls else ''}{target.name}:{port}", access)
                for endpoint in each.endpoints or ()
                if port and endpoint.conditions.ready is not False and (target := endpoint.target_ref) is not None
            ]
    where = "no gateway of AI Model Server takes requests" if services else "no gateway of AI Model Server is installed"
    return found, where


async def read_account(client: "Client", resource: "ResourceView") -> ModelAccount:
    """What the cluster's objects say of a model."""
    from ams_kube.objects import PODS

    metadata, status = resource.metadata, resource.status
    ready = next((each for each in status.conditions if each.type == "Ready"), None)
    pods = await client.list(PODS, metadata.namespace, labels=f"{MODEL}={metadata.name}")
    pods += await client.list(PODS, metadata.namespace, labels=f"{GROUP}={metadata.name},!{MODEL}")
    reason, message = (ready.reason, ready.message) if ready is not None else ("", status.message)
    return ModelAccount(
        name=metadata.name,
        phase=stage_of(status.phase),
        download=status.download,
        reason=reason or status.summary,
        message=message or status.message or ("" if status.phase else "No operator has looked at it yet."),
        replicas=status.replicas,
        ready_replicas=status.ready_replicas,
        nodes=await _nodes(client, resource, pods, reason),
        decisions=await _decisions(client, metadata.key),
        events=await _events(client, resource, pods),
    )


async def _nodes(client: "Client", resource: "ResourceView", pods: Sequence["Pod"], reason: str) -> list[NodeAccount]:
    """What each node lacks, where no node takes a pod. Empty where nodes, or all pods, may not be listed."""
    from ams_kube.errors import KubeError
    from ams_kube.objects import MODELS, NODES
    from ams_kube.scheduling import REQUESTING_PODS, asked, node_offers

    waiting = any(
        (condition := pod.condition("PodScheduled")) is not None and condition.status == "False" for pod in pods
    )
    if not waiting and reason not in _NO_NODE:
        return []
    metadata = resource.metadata
    try:
        spec = (await client.get(MODELS, metadata.namespace, metadata.name)).spec
        nodes = await client.list(NODES)
        others = await client.list(REQUESTING_PODS)
    except KubeError:
        return []
    return node_accounts(node_offers(nodes, others, spec), asked(spec))


async def _decisions(client: "Client", key: str) -> list[Decision]:
    """What the operator that leads decided; empty where it can't be asked."""
    from ams_kube.errors import KubeError
    from ams_kube.objects import PODS

    with suppress(KubeError, aiohttp.ClientError, InvalidJson):
        for pod in await client.list(PODS, labels=_OPERATORS):
            root = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}:{_OPERATOR_PORT}/proxy"
            with suppress(KubeError):
                answer = await client.request("GET", root + DECISIONS_PATH, {"model": key}, seconds=3.0)
                said = read_json(answer, OperatorDecisions)
                if said.leads:
                    return said.decisions
    return []


async def _events(client: "Client", resource: "ResourceView", pods: Sequence["Pod"]) -> list[str]:
    """Warnings about the resource and its pods, the newest first."""
    from ams_kube.errors import KubeError
    from ams_kube.objects import EVENT_NOTES

    names = {resource.metadata.name, f"ams-{resource.metadata.name}", *(pod.metadata.name for pod in pods)}
    try:
        events = await client.list(EVENT_NOTES, resource.metadata.namespace, fields="type=Warning")
    except KubeError:
        return []
    ours = [event for event in events if event.involved_object.name in names]
    ours.sort(key=lambda event: event.last_timestamp or event.event_time or "", reverse=True)
    return [
        f"{event.involved_object.kind} {event.involved_object.name}: {event.reason}: {event.message}"
        for event in ours[:_MOST_EVENTS]
    ]


def _is_called(resource: "ResourceView", name: str, wanted: str) -> bool:
    """By its name or an alias, or as `namespace.name`."""
    metadata = resource.metadata
    if "." in name and resource_name(name) == f"{metadata.namespace}.{metadata.name}":
        return True
    return resource_name(name) in (metadata.name, *map(resource_name, resource.spec.model.aliases)) or (
        "." not in name and wanted == metadata.name
    )
