"""The LeaderWorkerSet that runs the replicas of a model over several nodes: each is a group of pods, one a node.

The leader is as any other pod of a model, and answers requests; its engine is joined by those of the workers.
"""

from ams_common import labels
from ams_common.engines.row import EngineRow
from ams_common.resource.spec import ModelDeployment
from ams_common.source import Source
from ams_kube.objects import LEADER_WORKER_SETS

from ams_operator.decide.children.common import ObjectBody, child_metadata, digest, spec_digest
from ams_operator.decide.children.deployment import Strategy
from ams_operator.decide.children.pod import pod_template, worker_template
from ams_operator.decide.children.volume import Volume
from ams_operator.decide.engine import Engine
from ams_operator.settings import OperatorSettings


def leader_worker_set(
    resource: ModelDeployment,
    source: Source,
    volume: Volume,
    settings: OperatorSettings,
    engine: Engine,
    row: EngineRow,
    *,
    replicas: int,
    strategy: Strategy,
    prefetch: bool = False,
) -> ObjectBody:
    """With `prefetch` a group is its leader alone, which downloads."""
    template: ObjectBody = {
        "size": 1 if prefetch else resource.spec.engine.nodes,
        # An engine that lost one of its nodes is lost. A download that is tried again isn't: see the annotation.
        "restartPolicy": "RecreateGroupOnPodRestart",
        "leaderTemplate": pod_template(resource, source, volume, settings, engine, prefetch=prefetch),
        "workerTemplate": worker_template(resource, source, volume, settings, engine, row),
    }
    annotations = {
        labels.AFTER_START: "true",
        **({labels.PREFETCH: "true"} if prefetch else {}),
        labels.TEMPLATE: digest(template),
        labels.SPEC: spec_digest(resource, engine, prefetch=prefetch),
    }
    return {
        "apiVersion": LEADER_WORKER_SETS.api_version,
        "kind": LEADER_WORKER_SETS.name,
        "metadata": child_metadata(resource, annotations=annotations),
        "spec": {
            "replicas": replicas,
            "startupPolicy": "LeaderCreated",  # a leader is ready when all nodes have joined, and never before
            "rolloutStrategy": {"type": "RollingUpdate", "rollingUpdateConfiguration": _STRATEGIES[strategy]},
            # A service of each group, which knows its leader before that is ready. The shared one would have the name
            # of the model's own Service, where only leaders that are ready have an address.
            "networkConfig": {"subdomainPolicy": "UniquePerReplica"},
            "leaderWorkerTemplate": template,
        },
    }


# One group after another, or one more for as long as the rollout takes.
_STRATEGIES: dict[Strategy, ObjectBody] = {
    "Surge": {"maxUnavailable": 0, "maxSurge": 1},
    "Recreate": {"maxUnavailable": 1, "maxSurge": 0},
}
