"""The Deployment that runs the model's pods."""

from typing import Literal

from ams_common import labels
from ams_common.resource.spec import ModelDeployment
from ams_common.source import Source

from ams_operator.decide.children.common import ObjectBody, child_metadata, digest, selector, spec_digest
from ams_operator.decide.children.pod import pod_template
from ams_operator.decide.children.volume import Volume
from ams_operator.decide.engine import Engine
from ams_operator.settings import OperatorSettings

# The cluster sees no progress in a download. The operator does, and tells much earlier that nothing moves.
_DEADLINE_SECONDS = 86400

Strategy = Literal["Surge", "Recreate"]


def deployment(
    resource: ModelDeployment,
    source: Source,
    volume: Volume,
    settings: OperatorSettings,
    engine: Engine,
    *,
    replicas: int,
    strategy: Strategy,
    prefetch: bool = False,
) -> ObjectBody:
    template = pod_template(resource, source, volume, settings, engine, prefetch=prefetch)
    annotations = {
        **({labels.PREFETCH: "true"} if prefetch else {}),
        labels.TEMPLATE: digest(template),
        labels.SPEC: spec_digest(resource, engine, prefetch=prefetch),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(resource, annotations=annotations),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector(resource)},
            "strategy": _STRATEGIES[strategy],
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": _DEADLINE_SECONDS,
            "template": template,
        },
    }


_STRATEGIES: dict[Strategy, ObjectBody] = {
    "Surge": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    "Recreate": {"type": "Recreate"},
}


def can_share(resource: ModelDeployment) -> bool:
    """Whether an old and a new pod can have the cache at the same time."""
    cache = resource.spec.cache
    return cache.per_replica or cache.access_mode != "ReadWriteOnce"
