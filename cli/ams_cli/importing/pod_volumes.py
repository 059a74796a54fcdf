"""The volumes that a pod mounts into a container, and what becomes of them."""

from collections.abc import Iterator, Sequence

from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft
from ams_cli.importing.volumes import Kind, Mount

_SHARED_MEMORY = "/dev/shm"


def mounts_of(name: str, pod: Section, spec: Section, container: Section) -> Iterator[Mount]:
    volumes: dict[str, tuple[Kind, str]] = {}
    for volume in pod.sections("volumes"):
        volumes[volume.text("name")] = _outside(volume)
    for claim in spec.sections("volumeClaimTemplates"):
        claim_name = claim.section("metadata").text("name")
        volumes[claim_name] = "claim", f"{claim_name}-{name}-0"
    for mount in container.sections("volumeMounts"):
        kind, outside = volumes.get(mount.text("name"), ("other", mount.text("name")))
        yield Mount(mount.text("mountPath"), kind, outside, mount.text("subPath"))


def _outside(volume: Section) -> tuple[Kind, str]:
    name = volume.text("name")
    if "persistentVolumeClaim" in volume:
        return "claim", volume.section("persistentVolumeClaim").text("claimName")
    if "hostPath" in volume:
        return "host", volume.section("hostPath").text("path")
    if "emptyDir" in volume:
        return "scratch", f"the empty folder {name}"
    return "other", f"the volume {name}"


def tell(draft: Draft, mounts: Sequence[Mount], container: Section) -> None:
    source = str(draft.get("model.source"))
    of_weights = source.startswith("pvc://") or source.startswith("file://")
    for mount in mounts:
        at = f"{container.at('volumeMounts')} ({mount.inside})"
        if mount.kind == "claim" and source.startswith(f"pvc://{mount.outside}"):
            if draft.get("model.source").startswith(f"pvc://{mount.outside}") and mount.outside.endswith("-0"):
                draft.say(at, f"the claim {mount.outside} is the first pod's; all replicas read it here")
        elif mount.kind == "host" and source.startswith("file://") and of_weights:
            draft.lose(
                at,
                f"a folder of a node ({mount.outside}): `ams up` on that machine serves it; in a cluster copy it onto "
                "a volume, as pvc://claim/path",
            )
        elif mount.kind == "claim":
            draft.say(
                at, f"not needed: weights are kept on a volume of the model's own, not in {mount.outside}: spec.cache"
            )
        elif mount.inside.rstrip("/") == _SHARED_MEMORY or mount.kind == "scratch":
            draft.say(at, "not needed: pods have shared memory, a folder for the weights, and /tmp")
        else:
            draft.lose(f"{at} ({mount.outside})", "no volumes are mounted into the engine's container")
