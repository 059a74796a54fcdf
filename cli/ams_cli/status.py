"""`ams status`: the models of a running `ams up`, or of a cluster."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from ams_common.admin import ModelStatuses, PodModel
from ams_common.names import resource_name, route_name

from ams_cli.gateway_client import GatewayClient, GatewayError, get_json
from ams_cli.tables import columns

if TYPE_CHECKING:
    from ams_common.resource.status import EngineStatus
    from ams_kube.views import ResourceView


async def gateway_status(gateway: GatewayClient, name: str | None) -> str:
    """A table of all models, or everything that is known of one. GatewayError."""
    models = (await get_json(gateway, "/admin/model_status", ModelStatuses)).model_configs
    if name is not None:
        key = route_name(resource_name(name))
        if key not in models:
            raise GatewayError(f"no model {name!r}; available: {', '.join(models) or 'none'}")
        fields = msgspec.to_builtins(models[key])
        del fields["pods"]
        shown = [(f"{field}:", _text(value)) for field, value in fields.items() if value not in (None, "", [])]
        told = [(f"pod {pod.pod}:", _pod_facts(pod)) for pod in models[key].pods]
        return columns(shown + told + [line for pod in models[key].pods for line in _adapters(pod)])
    rows = [("MODEL", "STATE", "READY", "MODALITIES", "MESSAGE")]
    for key, model in models.items():
        modalities = ",".join(model.modalities or ()) or "?"
        rows.append((key, model.state.value, f"{model.ready_replicas}/{model.replicas}", modalities, model.message))
    return columns(rows)


async def cluster_status(namespace: str | None, name: str | None) -> str:
    """The same from the resources of a cluster; `namespace` None means all. GatewayError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.views import RESOURCES

    try:
        async with await Client.connect("ams") as client:
            resources = await client.list(RESOURCES, namespace)
    except (NoCluster, KubeError) as error:
        raise GatewayError(str(error)) from None
    if name is None:
        return resources_table(resources)
    chosen = [resource for resource in resources if resource.metadata.name == name]
    if not chosen:
        raise GatewayError(f"no ModelDeployment {name!r}")
    return "\n\n".join(resource_details(resource) for resource in chosen)


def resources_table(resources: Sequence["ResourceView"]) -> str:
    rows = [("NAMESPACE", "MODEL", "STATE", "READY", "FAMILY", "QUANTIZATION", "MESSAGE")]
    for resource in sorted(resources, key=lambda each: (each.metadata.namespace, each.metadata.name)):
        status = resource.status
        rows.append(
            (
                resource.metadata.namespace,
                resource.metadata.name,
                status.summary or status.phase or "not reconciled by an operator yet",
                f"{status.ready_replicas}/{status.replicas}",
                status.model.family or "?",
                status.quantization.chosen or "",
                status.message,
            )
        )
    return columns(rows) if len(rows) > 1 else "No ModelDeployments found."


def resource_details(resource: "ResourceView") -> str:
    status = resource.status
    facts = [
        ("Model:", f"{resource.metadata.namespace}/{resource.metadata.name}"),
        ("State:", f"{status.summary or status.phase or 'not reconciled by an operator yet'}"),
        ("Message:", status.message),
        ("Endpoint:", status.endpoint),
        ("Family:", status.model.family or ""),
        ("Parameters:", status.model.parameters or ""),
        ("Revision:", status.model.revision or ""),
        ("Engine:", _engine(status.engine)),
        ("Quantization:", " – ".join(filter(None, (status.quantization.chosen, status.quantization.reason)))),
    ]
    text = columns([fact for fact in facts if fact[1]])
    if status.adapters:
        table = [("ADAPTER", "STATE", "PODS", "MESSAGE")]
        table += [(each.name, each.state, str(each.ready_replicas), each.message or "") for each in status.adapters]
        text += "\n\n" + columns(table)
    if status.conditions:
        rows = [("CONDITION", "STATUS", "REASON", "MESSAGE")]
        rows += [(each.type, each.status, each.reason, each.message) for each in status.conditions]
        text += "\n\n" + columns(rows)
    return text


def _engine(engine: "EngineStatus") -> str:
    named = " ".join(filter(None, (engine.name, engine.version)))
    return " – ".join(filter(None, (named, engine.reason)))


def _pod_facts(pod: PodModel) -> str:
    facts = [pod.architecture, pod.precision, pod.quantization if pod.quantization != "none" else None, pod.device]
    if pod.engine is not None:
        facts.append(pod.engine)
    if pod.context_tokens is not None:
        facts.append(f"{pod.context_tokens} tokens of context")
    return ", ".join(fact for fact in facts if fact)


def _adapters(pod: PodModel) -> list[tuple[str, str]]:
    """Those that the pod loads while it runs, a line each."""
    return [
        (f"adapter {each.name}:", f"{each.state}: {each.message}" if each.message else each.state)
        for each in pod.adapters or ()
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
