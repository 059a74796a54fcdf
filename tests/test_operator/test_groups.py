"""A replica over several nodes: the LeaderWorkerSet that it becomes, and what is told of it. Pure."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_cli.manifests import load_manifests
from ams_common import labels
from ams_common.fit import DeviceMemory
from ams_common.lifecycle import Phase
from ams_common.memory_offers import MemoryOffer, MemoryOffers, size_of
from ams_common.progress import Download, Progress
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Condition
from ams_kube.objects import Deployment, DeploymentSpec, LeaderWorkerSet, MetadataOnly, Pod
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import movement, plan
from ams_operator.decide.preflight.report import HubReport
from ams_operator.decide.workload import workload_of
from ams_operator.settings import OperatorSettings
from ams_operator.watch.cache import Cache
from plan_objects import NOW, OURS, SETTINGS, as_applied, child, resource

GIB = 1 << 30
EXAMPLE = Path(__file__).parents[2] / "examples" / "cluster" / "large-model.yaml"
HUB = "hf://acme/giant"
GPUS = {"limits": {"nvidia.com/gpu": 8, "memory": "512Gi"}}
SHARED = {"size": "auto", "accessMode": "ReadWriteMany"}
ENGINES = msgspec.structs.replace(SETTINGS, vllm_image="vllm:1", sglang_image="sglang:1")
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "torch_dtype": "bfloat16"}
PEERS = '[{"podSelector":{"matchLabels":{"app":"gateway"}}}]'
RUNNING = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
DOWNLOADED = {"name": "download", "ready": True, "state": {"terminated": {"exitCode": 0}}}
SERVES = [{"name": each, "ready": True, "state": RUNNING} for each in ("serve", "engine")]


def giant(**spec: Any) -> ModelDeployment:
    engine = {"name": "vllm", "nodes": 2, **spec.pop("engine", {})}
    return resource(HUB, engine=engine, resources=spec.pop("resources", GPUS), cache=spec.pop("cache", SHARED), **spec)


def reported(parameters: int = 400_000_000_000) -> HubReport:
    size = size_of(CONFIG, 2 * parameters, parameters)
    return HubReport(architectures=("Qwen3MoeForCausalLM",), weights_bytes=2 * parameters, size=size, revision="a" * 40)


def decided(given: ModelDeployment, settings: OperatorSettings = ENGINES, **observed: Any) -> Decision:
    return plan(Observed(given, report=reported(), **observed), settings, NOW)


def made(decision: Decision, kind: str = "LeaderWorkerSet") -> dict[str, Any]:
    return next(each for each in decision.apply if each["kind"] == kind)


def template(decision: Decision) -> dict[str, Any]:
    given: dict[str, Any] = made(decision)["spec"]["leaderWorkerTemplate"]
    return given


def containers(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in (*pod["spec"]["initContainers"], *pod["spec"]["containers"])}


def told(decision: Decision, kind: str) -> Condition:
    return next(each for each in decision.status.conditions or () if each.type == kind)


def test_a_replica_over_nodes_is_a_group_and_no_deployment() -> None:
    decision = decided(giant(autoscaling={"minReplicas": 2, "maxReplicas": 3}))
    assert "Deployment" not in [each["kind"] for each in decision.apply]
    group = made(decision)
    assert group["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert group["metadata"]["name"] == "ams-tiny"
    assert [each["uid"] for each in group["metadata"]["ownerReferences"]] == ["u-1"]
    assert group["metadata"]["annotations"][labels.AFTER_START] == "true", "a download that is tried again ends nothing"
    spec = group["spec"]
    assert spec["replicas"] == 2
    assert spec["startupPolicy"] == "LeaderCreated"
    assert spec["networkConfig"] == {"subdomainPolicy": "UniquePerReplica"}
    assert spec["rolloutStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
    }
    assert (spec["leaderWorkerTemplate"]["size"], spec["leaderWorkerTemplate"]["restartPolicy"]) == (
        2,
        "RecreateGroupOnPodRestart",
    )
    surge = made(decided(giant(rollout={"strategy": "Surge"})))["spec"]["rolloutStrategy"]
    assert surge["rollingUpdateConfiguration"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_engines_meet_at_the_leader() -> None:
    given = template(decided(giant(engine={"nodes": 3, "args": ["--seed", "$(HOME)"]})))
    leader, worker = containers(given["leaderTemplate"]), containers(given["workerTemplate"])
    assert list(leader) == ["download", "serve", "engine"]
    assert list(worker) == ["download", "engine"]
    shared = ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "3", "--nnodes", "3"]
    meet = ["--master-addr", "$(LWS_LEADER_ADDRESS)"]
    assert leader["engine"]["command"][:2] == ["/bin/sh", "-c"]
    assert leader["engine"]["command"][-12:] == [*shared, "--node-rank", "0", *meet, "--seed", "$$(HOME)"]
    assert worker["engine"]["command"][:3] == ["vllm", "serve", "/run/ams/model"]
    joined = [*shared, "--node-rank", "$(LWS_WORKER_INDEX)", *meet, "--headless", "--seed", "$$(HOME)"]
    assert worker["engine"]["command"][-13:] == joined
    for each in (leader["engine"], worker["engine"]):
        assert {"name": "VLLM_HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in each["env"]
        assert each["resources"] == GPUS
        assert {"name": "shm", "mountPath": "/dev/shm"} in each["volumeMounts"]
    assert "startupProbe" in leader["engine"]
    assert not {"startupProbe", "livenessProbe", "readinessProbe", "lifecycle"} & worker["engine"].keys(), (
        "it is no server"
    )


def test_sglang_joins_by_its_own_arguments() -> None:
    given = template(decided(giant(engine={"name": "sglang"})))
    leader, worker = containers(given["leaderTemplate"])["engine"], containers(given["workerTemplate"])["engine"]
    assert leader["command"][-8:] == [
        "--tp-size", "16", "--nnodes", "2", "--node-rank", "0", "--dist-init-addr", "$(LWS_LEADER_ADDRESS):20000",
    ]  # fmt: skip
    assert worker["command"][-4:] == [
        "--node-rank", "$(LWS_WORKER_INDEX)", "--dist-init-addr", "$(LWS_LEADER_ADDRESS):20000",
    ]  # fmt: skip
    assert "SGLANG_HOST_IP" in [each["name"] for each in worker["env"]]


def test_pods_on_other_nodes_are_none_that_answer() -> None:
    decision = decided(giant(podLabels={labels.MODEL: "tiny", "team": "search"}))
    given = template(decision)
    leader, worker = (given[each]["metadata"]["labels"] for each in ("leaderTemplate", "workerTemplate"))
    selected = made(decision, "Service")["spec"]["selector"]
    assert leader.items() >= selected.items()
    assert labels.MODEL not in worker, "whatever the user's own labels say"
    assert not worker.items() >= selected.items()
    assert worker["team"] == "search"
    assert leader[labels.GROUP] == worker[labels.GROUP] == "tiny"
    assert decision.status.selector == f"{labels.MODEL}=tiny"


def test_both_are_as_restricted_as_any_pod_of_a_model() -> None:
    given = template(
        decided(giant(nodeSelector={"pool": "gpu"}, priorityClassName="high", imagePullSecrets=[{"name": "pull"}]))
    )
    leader, worker = given["leaderTemplate"]["spec"], given["workerTemplate"]["spec"]
    for name in ("serviceAccountName", "automountServiceAccountToken", "securityContext", "nodeSelector", "volumes",
                 "priorityClassName", "imagePullSecrets", "enableServiceLinks"):  # fmt: skip
        assert leader[name] == worker[name], name
    assert worker["automountServiceAccountToken"] is False
    for each in containers(given["workerTemplate"]).values():
        assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert each["securityContext"]["readOnlyRootFilesystem"] is True
    assert worker["terminationGracePeriodSeconds"] < leader["terminationGracePeriodSeconds"]


def test_only_a_models_own_pods_reach_its_engines() -> None:
    closed = msgspec.structs.replace(ENGINES, network_policy_from=PEERS)
    decision = decided(giant(), closed)
    policy = made(decision, "NetworkPolicy")["spec"]
    own = {labels.GROUP: "tiny", labels.MANAGED_BY: labels.MANAGER}
    assert policy["podSelector"] == {"matchLabels": own}
    peers, members = policy["ingress"]
    assert [each["port"] for each in peers["ports"]] == [8080, 8081]
    assert members == {"from": [{"podSelector": {"matchLabels": own}}]}
    for each in ("leaderTemplate", "workerTemplate"):
        assert template(decision)[each]["metadata"]["labels"].items() >= own.items()
    alone = made(decided(giant(engine={"nodes": 1}), closed), "NetworkPolicy")["spec"]
    assert len(alone["ingress"]) == 1


def test_on_one_node_nothing_is_as_it_was_not_before() -> None:
    decision = decided(giant(engine={"nodes": 1}))
    pod = made(decision, "Deployment")["spec"]["template"]
    assert labels.GROUP not in pod["metadata"]["labels"]
    engine = containers(pod)["engine"]
    assert "--nnodes" not in engine["command"]
    assert "VLLM_HOST_IP" not in [each["name"] for each in engine["env"]]


def test_the_example_is_such_a_model() -> None:
    [given] = load_manifests([str(EXAMPLE)]).models
    metadata = {"namespace": "models", "uid": "u-1", "generation": 1}
    given = msgspec.structs.replace(given, metadata=msgspec.structs.replace(given.metadata, **metadata))
    decision = plan(Observed(given), ENGINES, NOW)
    assert told(decision, "Accepted").status == "True"
    engine = containers(template(decision)["workerTemplate"])["engine"]
    assert "--headless" in engine["command"]
    assert engine["command"][engine["command"].index("--tensor-parallel-size") + 1] == "8"


@pytest.mark.parametrize(
    ("availability", "words"),
    [
        ("absent", "which this cluster doesn't have. Install it (https://lws.sigs.k8s.io/docs/installation/)"),
        ("forbidden", "the operator may not list leaderworkersets or statefulsets"),
    ],
)
def test_where_there_is_no_such_set_it_is_told(availability: Any, words: str) -> None:
    decision = decided(giant(), leader_worker_sets=availability)
    accepted = told(decision, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "LeaderWorkerSetUnavailable")
    assert accepted.message.startswith("spec.engine.nodes: 2 needs LeaderWorkerSet (leaderworkerset.x-k8s.io/v1), ")
    assert words in accepted.message
    assert decision.apply == ()
    assert [each.reason for each in decision.transitions if each.type == "Warning"] == ["LeaderWorkerSetUnavailable"]
    assert decided(giant(engine={"nodes": 1}), leader_worker_sets=availability).apply


def test_what_cant_be_over_nodes_is_refused() -> None:
    without = told(decided(giant(resources={"limits": {"memory": "8Gi"}})), "Accepted")
    assert without.reason == "UnsupportedByEngine"
    assert "spec.engine.nodes: several nodes share a model by their GPUs" in without.message
    unchecked = msgspec.structs.replace(giant().spec, engine=msgspec.structs.replace(giant().spec.engine, name="auto"))
    ours = plan(Observed(msgspec.structs.replace(giant(), spec=unchecked)), SETTINGS, NOW)
    assert told(ours, "Accepted").reason == "UnsupportedByEngine"
    assert ours.apply == ()


def test_memory_is_that_of_all_nodes() -> None:
    def place(nodes: int) -> MemoryOffers:
        return MemoryOffers((MemoryOffer(f"{nodes} nodes", DeviceMemory((80 * GIB,) * 8 * nodes, 512 * GIB)),))

    small = plan(Observed(giant(), report=reported(), offers=place(1)), ENGINES, NOW)
    assert told(small, "PreflightPassed").reason == "DoesNotFitMemory"
    large = plan(Observed(giant(), report=reported(), offers=place(2)), ENGINES, NOW)
    assert told(large, "PreflightPassed").status == "True"


# what is told of one that runs


def a_set(asked: int = 1, replicas: int = 1, updated: int = 1, ready: int = 1, **status: Any) -> LeaderWorkerSet:
    group = made(decided(giant(replicas=asked)))
    present: LeaderWorkerSet = as_applied(group)
    counts = {"replicas": replicas, "updatedReplicas": updated, "readyReplicas": ready, "observedGeneration": 1}
    given = msgspec.convert({"metadata": {}, "status": counts | status}, LeaderWorkerSet)
    return msgspec.structs.replace(present, status=given.status)


def leader(*statuses: dict[str, Any], group: int = 0) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": f"ams-tiny-{group}", "namespace": "models", "uid": f"leader-{group}"},
            "spec": {"nodeName": "a"},
            "status": {"initContainerStatuses": [DOWNLOADED], "containerStatuses": list(statuses)},
        },
        Pod,
    )


def worker(conditions: Any = (), download: Any = None, **engine: Any) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"name": "ams-tiny-0-1", "namespace": "models", "uid": "worker"},
            "status": {
                "conditions": list(conditions),
                "initContainerStatuses": [download] if download else [],
                "containerStatuses": [{"name": "engine", **engine}] if engine else [],
            },
        },
        Pod,
    )


def observed(present: LeaderWorkerSet, *pods: Pod, workers: tuple[Pod, ...] = (), **more: Any) -> Observed:
    given = more.pop("given", giant())
    return Observed(given, children={"LeaderWorkerSet": present}, pods=pods, workers=workers, report=reported(), **more)


def seen(*arguments: Any, **more: Any) -> Decision:
    return plan(observed(*arguments, **more), ENGINES, NOW)


LOADING = [{"name": "serve", "state": RUNNING}, {"name": "engine", "state": RUNNING}]


def test_a_group_that_answers_is_a_replica_that_is_ready() -> None:
    decision = seen(a_set(), leader(*SERVES), workers=(worker(download=DOWNLOADED, ready=True, state=RUNNING),))
    assert (decision.status.replicas, decision.status.ready_replicas) == (1, 1)
    assert told(decision, "Ready").status == "True"
    assert told(decision, "Progressing").reason == "Complete"
    assert not [each for each in decision.apply if each["kind"] == "LeaderWorkerSet"], "nothing is written again"


def test_counts_of_versions_that_tell_no_generation_are_believed() -> None:
    assert workload_of(a_set(observedGeneration=None)).complete  # type: ignore[union-attr]
    stale = msgspec.structs.replace(a_set(), metadata=msgspec.structs.replace(a_set().metadata, generation=2))
    assert not workload_of(stale).complete  # type: ignore[union-attr]
    assert not workload_of(a_set(asked=2)).complete  # type: ignore[union-attr]


def test_a_group_that_is_replaced_is_a_rollout() -> None:
    rolling = seen(
        a_set(asked=2, replicas=2, updated=1, ready=1),
        leader(*SERVES),
        given=giant(replicas=2),
    )
    assert told(rolling, "Progressing").reason == "RollingOut"
    assert told(rolling, "Progressing").message.startswith("1 of 2 pods are of the new version.")


UNSCHEDULED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    "lastTransitionTime": "2025-12-31T23:59:00Z",
}


@pytest.mark.parametrize(
    ("pod", "condition", "reason", "words"),
    [
        (worker([UNSCHEDULED]), "Available", "InsufficientGPU", "Pod ams-tiny-0-1: No node has nvidia.com/gpu free"),
        (
            worker(
                download=DOWNLOADED,
                image="vllm:1",
                state={"waiting": {"reason": "ImagePullBackOff", "message": "denied"}},
            ),
            "Available",
            "ImagePullFailed",
            "Pod ams-tiny-0-1: The image vllm:1 can't be pulled",
        ),
        (
            worker(
                download=DOWNLOADED,
                restartCount=3,
                state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
                lastState={"terminated": {"exitCode": 1, "message": "NCCL error"}},
            ),
            "Available",
            "CrashLoop",
            "Pod ams-tiny-0-1: The engine ended (status 1) 4 times; its last line: NCCL error",
        ),
        (
            worker(
                download={
                    "name": "download",
                    "restartCount": 1,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"exitCode": 1, "message": '{"reason":"DiskFull","message":"Full."}'}},
                }
            ),
            "WeightsReady",
            "DiskFull",
            "Pod ams-tiny-0-1: Full.",
        ),
    ],
)
def test_what_keeps_a_node_from_joining_is_what_keeps_the_model(
    pod: Pod, condition: str, reason: str, words: str
) -> None:
    decision = seen(a_set(ready=0), leader(*LOADING), workers=(pod,))
    said = told(decision, condition)
    assert (said.status, said.reason) == ("False", reason)
    assert said.message.startswith(words)
    assert told(decision, "Ready").reason == reason
    serving = seen(a_set(), leader(*SERVES), workers=(pod,))
    assert told(serving, "Ready").status == "True", "another group's trouble keeps nobody from an answer"


def test_a_node_that_was_asked_for_just_now_is_no_news_yet() -> None:
    late = {**UNSCHEDULED, "lastTransitionTime": "2025-12-31T23:59:57Z"}
    decision = seen(a_set(ready=0), leader(*LOADING), workers=(worker([late]),))
    assert told(decision, "Available").reason == "Starting"
    assert decision.deadline_in == pytest.approx(7.0)


def test_what_moves_on_other_nodes_is_movement() -> None:
    before = observed(a_set(ready=0), leader(*LOADING), workers=(worker([UNSCHEDULED]),))
    after = observed(
        a_set(ready=0), leader(*LOADING), workers=(worker(download=DOWNLOADED, ready=True, state=RUNNING),)
    )
    assert movement(before, NOW) != movement(after, NOW)
    assert movement(before, NOW) == movement(before, NOW + 1)

    def fetched(count: int) -> Observed:
        progress = {"worker": Progress(Phase.DOWNLOADING, download=Download(count, 100))}
        return observed(a_set(ready=0), leader(*LOADING), workers=(worker(),), progress=progress)

    assert movement(fetched(1), NOW) != movement(fetched(2), NOW), "as where each node has a volume of its own"


def test_a_server_that_waits_is_left_to_its_set() -> None:
    """Which begins the whole group anew when a container of it has."""
    ended = {"exitCode": 1, "startedAt": "2025-12-31T00:00:00Z"}
    waits = {
        "name": "serve",
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 1m20s restarting failed"}},
        "lastState": {"terminated": ended},
    }
    pod = leader(waits, {"name": "engine", "ready": True, "state": RUNNING})
    unready = {"type": "Ready", "status": "False", "lastTransitionTime": "2025-12-31T01:00:00Z"}
    pod = msgspec.convert(
        msgspec.to_builtins(pod) | {"status": {**msgspec.to_builtins(pod)["status"], "conditions": [unready]}}, Pod
    )
    assert seen(a_set(ready=0), pod).replace is None


def test_a_change_from_one_node_to_several_replaces_the_workload() -> None:
    old = child(Deployment, owner=OURS)
    old = msgspec.structs.replace(old, spec=DeploymentSpec(replicas=1))
    decision = plan(Observed(giant(), children={"Deployment": old}, report=reported()), ENGINES, NOW)
    assert "LeaderWorkerSet" in [each["kind"] for each in decision.apply]
    assert decision.remove == ("Deployment",)
    back = plan(
        Observed(giant(engine={"nodes": 1}), children={"LeaderWorkerSet": a_set()}, report=reported()), ENGINES, NOW
    )
    assert "Deployment" in [each["kind"] for each in back.apply]
    assert back.remove == ("LeaderWorkerSet",)
    refused = plan(
        Observed(giant(), children={"Deployment": old}, report=reported(), leader_worker_sets="absent"), ENGINES, NOW
    )
    assert (refused.apply, refused.remove) == ((), ()), "what serves goes on while the other can't be made"


def test_replicas_are_kept_from_one_kind_to_the_other_while_the_load_is_not_known() -> None:
    scaled = giant(autoscaling={"maxReplicas": 4})
    old = msgspec.structs.replace(child(Deployment, owner=OURS), spec=DeploymentSpec(replicas=3))
    decision = plan(Observed(scaled, children={"Deployment": old}, report=reported()), ENGINES, NOW)
    assert made(decision)["spec"]["replicas"] == 3
    assert made(decided(scaled, replicas=0))["spec"]["replicas"] == 0, "a group may be scaled to zero"


def test_weights_are_fetched_ahead_by_a_leader_alone() -> None:
    ahead = giant(autoscaling={}, cache={**SHARED, "prefetch": True})
    group = made(decided(ahead, replicas=0))
    assert group["spec"]["replicas"] == 1
    assert group["metadata"]["annotations"][labels.PREFETCH] == "true"
    given = group["spec"]["leaderWorkerTemplate"]
    assert given["size"] == 1
    assert list(containers(given["leaderTemplate"])) == ["download", "serve"]


def test_running_groups_wait_for_their_turn_with_the_template_that_they_have() -> None:
    newer = msgspec.structs.replace(ENGINES, pod_image="ams-pod:2")
    waits = plan(observed(a_set(), leader(*SERVES)), newer, NOW)
    assert waits.renewal == "waits"
    assert [each for each in waits.apply if each["kind"] == "LeaderWorkerSet"] == []
    assert told(waits, "Progressing").reason == "Outdated"
    scaled = plan(observed(a_set(), leader(*SERVES), given=giant(replicas=2)), newer, NOW)
    assert "leaderWorkerTemplate" not in made(scaled)["spec"], "which the API server's own is put into"
    granted = plan(observed(a_set(), leader(*SERVES), has_turn=True, pull_refused="ams-pod:2"), newer, NOW)
    assert containers(template(granted)["leaderTemplate"])["serve"]["image"] == "ams-pod:2"


def test_an_image_is_pulled_on_the_leaders_node_before_the_group_ends() -> None:
    newer = giant(engine={"image": "vllm:2"})
    decision = seen(a_set(), leader(*SERVES), given=newer)
    assert decision.pull is not None
    assert decision.pull["spec"]["nodeName"] == "a"
    assert [each["image"] for each in decision.pull["spec"]["containers"]] == ["vllm:2"]
    assert not [each for each in decision.apply if each["kind"] == "LeaderWorkerSet"]
    assert decision.remove == ()


# the cache


def owned(kind: str, uid: str) -> list[dict[str, Any]]:
    return [{"kind": kind, "uid": uid, "name": "x", "controller": True}]


def stateful_set(name: str, uid: str, kind: str, owner: str) -> MetadataOnly:
    metadata = {"name": name, "namespace": "models", "uid": uid, "labels": {labels.SET_NAME: "ams-tiny"}}
    return msgspec.convert({"metadata": {**metadata, "ownerReferences": owned(kind, owner)}}, MetadataOnly)


def pod(name: str, owner: str, **given: str) -> Pod:
    metadata = {"name": name, "namespace": "models", "uid": f"uid-{name}", "labels": given}
    return msgspec.convert({"metadata": {**metadata, "ownerReferences": owned("StatefulSet", owner)}}, Pod)


ANSWERS = {labels.MODEL: "tiny", labels.GROUP: "tiny"}
JOINS = {labels.GROUP: "tiny"}


def test_pods_of_a_group_are_told_by_who_controls_them() -> None:
    changed: list[str] = []
    cache = Cache(lambda key, new: changed.append(key))
    cache.take_resource(giant())
    present = a_set()
    metadata = {"uid": "set", "labels": {labels.MODEL: "tiny"}}
    owned_set = msgspec.structs.replace(present, metadata=msgspec.structs.replace(present.metadata, **metadata))
    cache.take_child("LeaderWorkerSet", owned_set)
    cache.take_stateful_set(stateful_set("ams-tiny", "leaders", "LeaderWorkerSet", "set"))
    cache.take_pod(pod("ams-tiny-0", "leaders", **ANSWERS))
    cache.take_stateful_set(stateful_set("ams-tiny-0", "workers", "Pod", "uid-ams-tiny-0"))
    cache.take_pod(pod("ams-tiny-0-1", "workers", **JOINS))
    cache.take_stateful_set(stateful_set("ams-tiny-9", "others", "Pod", "uid-of-another"))
    cache.take_pod(pod("ams-tiny-9-1", "others", **JOINS))
    cache.take_pod(pod("ams-tiny-stranger", "unknown", **ANSWERS))
    known = cache.get("models/tiny")
    assert [each.metadata.name for each in known.own_pods()] == ["ams-tiny-0"]
    assert [each.metadata.name for each in known.own_workers()] == ["ams-tiny-0-1"]
    assert known.workload is not None
    assert known.workload.kind == "LeaderWorkerSet"
    cache.forget_pod("models/ams-tiny-0-1")
    assert known.own_workers() == []
    cache.take_pod(pod("ams-tiny-0-1", "workers", **JOINS))
    cache.forget_stateful_set("models/ams-tiny-0")
    assert known.own_workers() == []
    cache.forget_stateful_set("models/ams-tiny")
    assert known.own_pods() == []
    assert set(changed) == {"models/tiny"}


def test_a_stateful_set_of_somebody_elses_group_is_nobodys() -> None:
    cache = Cache(lambda key, new: None)
    metadata = {"name": "llm", "namespace": "models", "uid": "u", "labels": {labels.SET_NAME: "llm"}}
    cache.take_stateful_set(msgspec.convert({"metadata": metadata}, MetadataOnly))
    cache.forget_stateful_set("models/llm")
    assert cache.keys() == []
