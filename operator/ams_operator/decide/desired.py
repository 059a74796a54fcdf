"""The objects that a resource asks for, each with the hash by which it is known whether it was applied."""

from collections.abc import Mapping

from ams_common import labels
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import LockStatus
from ams_common.source import Source
from ams_kube.managed_fields import ManagedFields, entry_of, owns_all

from ams_operator.decide.children.account import account
from ams_operator.decide.children.adapters import adapter_list
from ams_operator.decide.children.common import ObjectBody, digest
from ams_operator.decide.children.deployment import Strategy, deployment
from ams_operator.decide.children.group import leader_worker_set
from ams_operator.decide.children.kinds import Child
from ams_operator.decide.children.policy import policy
from ams_operator.decide.children.service import service
from ams_operator.decide.children.volume import claim, models_volume
from ams_operator.decide.engine import BUILTIN, Engine
from ams_operator.decide.workload import without_template
from ams_operator.settings import OperatorSettings


def desired(
    resource: ModelDeployment,
    source: Source,
    settings: OperatorSettings,
    *,
    replicas: int,
    strategy: Strategy,
    prefetch: bool,
    volume_size: int,
    weights: str | None,
    lock: LockStatus | None,
    engine: Engine = BUILTIN,
) -> dict[str, ObjectBody]:
    """By kind, in the order in which they are applied. `weights` and `lock` as in `children.volume.claim`."""
    volume = models_volume(resource, source, volume_size)
    row = engine.row if resource.spec.engine.nodes > 1 else None
    workload = (
        deployment(resource, source, volume, settings, engine, replicas=replicas, strategy=strategy, prefetch=prefetch)
        if row is None
        else leader_worker_set(
            resource, source, volume, settings, engine, row, replicas=replicas, strategy=strategy, prefetch=prefetch
        )
    )
    built = [
        account(resource),
        service(resource),
        policy(resource, settings),
        claim(resource, volume_size, weights, lock) if volume.claim else None,
        adapter_list(resource, engine),
        workload,
    ]
    return {object["kind"]: hashed(object) for object in built if object is not None}


def outdated(body: ObjectBody, present: Child | None, accepted: ManagedFields | None) -> bool:
    """Whether an object has to be applied: it is absent, was applied differently, or somebody changed it since.

    `accepted` is what we owned right after our own last apply, which is all that there is to own.
    """
    if present is None or present.metadata.annotations.get(labels.APPLIED) != applied_hash(body):
        return True
    if present.metadata.deletion_timestamp is not None:
        return False
    entry = entry_of(present.metadata.managed_fields, labels.MANAGER)
    return entry is None or (entry != accepted and not owns_all(entry, body))


def hashed(object: ObjectBody) -> ObjectBody:
    """With its hash. A template counts by the annotation that tells of it, so that it may be left as it is."""
    annotations: Mapping[str, str] = object["metadata"].get("annotations", {})
    counted = object
    if labels.TEMPLATE in annotations:
        counted = {**object, "spec": without_template(object)}
    return {
        **object,
        "metadata": {**object["metadata"], "annotations": {**annotations, labels.APPLIED: digest(counted)}},
    }


def applied_hash(object: ObjectBody) -> str:
    """The hash in a body of `desired`."""
    applied: str = object["metadata"]["annotations"][labels.APPLIED]
    return applied
