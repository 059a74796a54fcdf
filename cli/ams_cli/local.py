"""What of a manifest works on one machine, and what only a cluster has. Pure."""

from ams_common.quantity import parse_quantity
from ams_common.resource.core import ResourceRequirements
from ams_common.resource.spec import ModelDeployment
from ams_common.source import ClaimSource, parse_source

_CLUSTER_ONLY = (
    ("nodeSelector", "node_selector"),
    ("tolerations", "tolerations"),
    ("affinity", "affinity"),
    ("runtimeClassName", "runtime_class_name"),
    ("priorityClassName", "priority_class_name"),
    ("imagePullSecrets", "image_pull_secrets"),
    ("serviceAccountName", "service_account_name"),
    ("podAnnotations", "pod_annotations"),
    ("podLabels", "pod_labels"),
    ("image", "image"),
    ("imagePullPolicy", "image_pull_policy"),
)


def refusals(resource: ModelDeployment) -> list[str]:
    """Why a model can't be served here: sentences that begin with the path."""
    adapters = resource.spec.adapters
    sources = [("spec.model.source", resource.spec.model.source, "the weights")]
    sources += [(f"spec.adapters[{number}].source", each.source, "it") for number, each in enumerate(adapters)]
    found = [
        f"{place}: pvc:// is a volume of a cluster; outside one use file:///path, or hf://owner/name to download {what}"
        for place, source, what in sources
        if isinstance(parse_source(source), ClaimSource)
    ]
    return found or over_nodes(resource)


def over_nodes(resource: ModelDeployment) -> list[str]:
    """A model that is larger than one machine."""
    nodes = resource.spec.engine.nodes
    if nodes <= 1:
        return []
    return [
        f"spec.engine.nodes: {nodes} takes a cluster with LeaderWorkerSet (kubectl apply); this is one machine, so "
        "leave it out for a model that fits here"
    ]


def notes(resource: ModelDeployment, gpus: int) -> list[str]:
    """What is different from a cluster, as sentences; `gpus` is how many this machine has."""
    spec = resource.spec
    found = []
    ignored = [name for name, field in _CLUSTER_ONLY if getattr(spec, field)]
    cache = spec.cache
    if cache.claim_name or cache.storage_class_name or cache.per_replica:
        ignored.append("cache")
    if spec.rollout.strategy != "auto":
        ignored.append("rollout.strategy")
    ignored += [f"env {variable.name} (valueFrom)" for variable in spec.env if variable.value_from is not None]
    engine = spec.engine
    ignored += [
        f"engine.{name}"
        for name, given in (("image", engine.image), ("port", engine.port), ("resources", engine.resources))
        if given
    ]
    ignored += [f"engine.env {each.name} (valueFrom)" for each in engine.env if each.value_from is not None]
    if ignored:
        found.append(f"ignored outside a cluster: {', '.join(ignored)}")
    if spec.model.token_secret_ref:
        name = spec.model.token_secret_ref.name
        found.append(f"Secret {name} is not read outside a cluster; the hub's token is HF_TOKEN")
    most = spec.autoscaling.max_replicas if spec.autoscaling else spec.replicas
    if most > 1:
        found.append(f"served by one process instead of up to {most} replicas")
    if spec.autoscaling is not None and spec.autoscaling.idle == "sleep":
        found.append("autoscaling.idle: an idle model stops outside a cluster, instead of sleeping")
    if (wanted := gpus_wanted(spec.resources)) > gpus:
        has = f"this machine has {gpus}" if gpus else "this machine has none, so the CPU serves it, slower"
        found.append(f"asks for {wanted} GPU{'s' if wanted > 1 else ''}; {has}")
    return found


def gpus_wanted(resources: ResourceRequirements) -> int:
    """How many GPUs of any vendor the limits name, as in `nvidia.com/gpu: 1`."""
    return sum(int(parse_quantity(count)) for name, count in resources.limits.items() if name.endswith("/gpu"))


def variables(resource: ModelDeployment) -> dict[str, str]:
    """The environment variables that the manifest gives the model's processes."""
    return {each.name: each.value or "" for each in resource.spec.env if each.value_from is None}
