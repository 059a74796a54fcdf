"""`ams status`: the models of a running `ams up`, or of a cluster."""

from collections.abc import Sequence
from typing import Any

import msgspec
from ams_common.names import API_VERSION, KIND, PLURAL

from ams_cli.gateway_client import GatewayClient, GatewayError, get_json
from ams_cli.tables import columns


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""


class _Found(msgspec.Struct, frozen=True):
    family: str | None = None
    revision: str | None = None
    parameters: str | None = None


class _Quantization(msgspec.Struct, frozen=True):
    chosen: str | None = None
    reason: str | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    summary: str = ""
    message: str = ""
    replicas: int = 0
    ready_replicas: int = 0
    endpoint: str = ""
    model: _Found = _Found()
    quantization: _Quantization = _Quantization()
    conditions: list[_Condition] = []


class Resource(msgspec.Struct, frozen=True):
    """What of a ModelDeployment is shown."""

    metadata: _Metadata
    status: _Status = _Status()


async def gateway_status(gateway: GatewayClient, name: str | None) -> str:
    """A table of all models, or everything that is known of one. GatewayError."""
    answer = await get_json(gateway, "/admin/model_status")
    models: dict[str, dict[str, Any]] = answer.get("model_configs", {})
    if name is not None:
        wanted = name.replace("-", "_").lower()
        if wanted not in models:
            raise GatewayError(f"no model {name!r}; available: {', '.join(models) or 'none'}")
        shown = {key: value for key, value in models[wanted].items() if value not in (None, "", [])}
        return columns([(f"{key}:", _text(value)) for key, value in shown.items()])
    rows = [("MODEL", "STATE", "READY", "MODALITIES", "MESSAGE")]
    for key, model in models.items():
        ready = f"{model.get('ready_replicas', 0)}/{model.get('replicas', 0)}"
        modalities = ",".join(model.get("modalities") or []) or "?"
        rows.append((key, str(model.get("state", "?")), ready, modalities, str(model.get("message") or "")))
    return columns(rows)


async def cluster_status(namespace: str | None, name: str | None) -> str:
    """The same from the resources of a cluster; `namespace` None means all. GatewayError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.kinds import Kind

    try:
        async with await Client.connect("ams") as client:
            kind = Kind(API_VERSION, KIND, PLURAL, Resource)
            found = await client.list(kind, namespace)
    except (NoCluster, KubeError) as error:
        raise GatewayError(str(error)) from None
    if name is None:
        return table(found)
    chosen = [resource for resource in found if resource.metadata.name == name]
    if not chosen:
        raise GatewayError(f"no ModelDeployment {name!r}")
    return "\n\n".join(details(resource) for resource in chosen)


def table(resources: Sequence[Resource]) -> str:
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


def details(resource: Resource) -> str:
    status = resource.status
    facts = [
        ("Model:", f"{resource.metadata.namespace}/{resource.metadata.name}"),
        ("State:", f"{status.summary or status.phase or 'not reconciled by an operator yet'}"),
        ("Message:", status.message),
        ("Endpoint:", status.endpoint),
        ("Family:", status.model.family or ""),
        ("Parameters:", status.model.parameters or ""),
        ("Revision:", status.model.revision or ""),
        ("Quantization:", " – ".join(filter(None, (status.quantization.chosen, status.quantization.reason)))),
    ]
    text = columns([fact for fact in facts if fact[1]])
    if status.conditions:
        rows = [("CONDITION", "STATUS", "REASON", "MESSAGE")]
        rows += [(each.type, each.status, each.reason, each.message) for each in status.conditions]
        text += "\n\n" + columns(rows)
    return text


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
