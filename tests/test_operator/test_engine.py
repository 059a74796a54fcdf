"""An engine of another make: which one is chosen and kept, and the pod in which it runs beside the server."""

from typing import Any

import msgspec
import pytest
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, MemoryOffers, ModelSize, size_of
from ams_common.progress import Failure
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Condition, EngineStatus, Status
from ams_kube.client import Client
from ams_kube.objects import Deployment, DeploymentSpec, Pod
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.preflight.report import HubReport, unreachable
from ams_operator.decide.status.pods import PodView, read_pod
from ams_operator.settings import OperatorSettings
from models import DEPLOYMENTS, create, model, pod_of, until_condition
from operator_process import OperatorProcess
from plan_objects import NOW, OURS, SETTINGS, as_applied, child, resource

GIB = 1 << 30
HUB = "hf://acme/tiny"
GGUF = "hf://acme/tiny?file=tiny-Q4_K_M.gguf"
GPU = {"limits": {"nvidia.com/gpu": 1, "memory": "16Gi"}}
ENGINES = msgspec.structs.replace(SETTINGS, vllm_image="vllm:1", llamacpp_image="llama:1")
AUTO = {"size": "auto"}
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "torch_dtype": "bfloat16"}


def reported(parameters: int = 400_000_000, **config: Any) -> HubReport:
    size: ModelSize = size_of({**CONFIG, **config}, 2 * parameters, parameters)
    return HubReport(architectures=("Qwen3ForCausalLM",), weights_bytes=2 * parameters, size=size, revision="a" * 40)


def decided(
    given: ModelDeployment, report: HubReport | None = None, settings: OperatorSettings = ENGINES, **observed: Any
) -> Decision:
    return plan(Observed(given, report=report or reported(), **observed), settings, NOW)


def pod(decision: Decision) -> dict[str, Any]:
    deployment = next(each for each in decision.apply if each["kind"] == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def containers(decision: Decision) -> dict[str, dict[str, Any]]:
    spec = pod(decision)
    return {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def told(decision: Decision, kind: str) -> Condition:
    return next(each for each in decision.status.conditions or () if each.type == kind)


def engine(decision: Decision) -> tuple[str | None, str | None]:
    assert decision.status.engine is not None
    return decision.status.engine.name, decision.status.engine.reason


def test_auto_takes_vllm_for_a_gpu_and_says_why() -> None:
    made = decided(resource(HUB, resources=GPU))
    assert engine(made) == ("vllm", "a GPU is asked for, and vLLM serves Qwen3ForCausalLM")
    assert list(containers(made)) == ["download", "serve", "engine"]


@pytest.mark.parametrize(
    ("given", "report", "settings", "reason"),
    [
        (resource(HUB), None, ENGINES, "no GPU is asked for"),
        (resource(HUB, resources=GPU), None, SETTINGS, "vLLM isn't at hand"),
        (
            resource(HUB, resources=GPU),
            reported(quantization_config={"quant_method": "bitsandbytes"}),
            ENGINES,
            "vLLM doesn't compute weights quantized by bitsandbytes",
        ),
        (
            resource("pvc://weights/a", resources=GPU),
            None,
            ENGINES,
            "the model's architecture isn't known before it is downloaded",
        ),
    ],
)
def test_auto_stays_with_the_builtin_engine_where_that_is_better(
    given: ModelDeployment, report: HubReport | None, settings: OperatorSettings, reason: str
) -> None:
    known = report if report is not None or given.spec.model.source.startswith("pvc") else reported()
    made = plan(Observed(given, report=known), settings, NOW)
    assert engine(made) == ("builtin", reason)
    assert list(containers(made)) == ["download", "serve"]
    assert variables(containers(made)["serve"]).get("AMS_ENGINE") is None
    assert [each["name"] for each in pod(made)["volumes"]] == ["models", "tmp"] + (
        ["source"] if given.spec.model.source.startswith("pvc") else []
    )


def test_weights_that_only_quantization_fits_are_the_builtin_engines() -> None:
    small = MemoryOffers((MemoryOffer("node a", DeviceMemory(gpus=(12 * GIB,), ram=64 * GIB)),))
    made = decided(resource(HUB, resources=GPU, cache=AUTO), reported(8_000_000_000), offers=small)
    assert engine(made)[0] == "builtin"
    assert made.status.quantization is not None
    assert made.status.quantization.chosen == "8bit"


def test_tensor_parallelism_counts_all_gpus_together() -> None:
    two = {"limits": {"nvidia.com/gpu": 2}}
    offers = MemoryOffers((MemoryOffer("node a", DeviceMemory(gpus=(12 * GIB, 12 * GIB), ram=1 * GIB)),))
    made = decided(resource(HUB, resources=two, cache=AUTO), reported(8_000_000_000), offers=offers)
    assert engine(made)[0] == "vllm"
    assert told(made, "PreflightPassed").status == "True"
    command = containers(made)["engine"]["command"]
    assert command[command.index("--tensor-parallel-size") + 1] == "2"
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in pod(made)["volumes"]


def test_what_was_chosen_stays_though_the_hub_is_away() -> None:
    first = decided(resource(HUB, resources=GPU))
    away = unreachable("no route")
    again = msgspec.structs.replace(resource(HUB, resources=GPU), status=first.status)
    kept = decided(again, away)
    assert engine(kept) == engine(first)
    assert containers(kept) == containers(first), "no pod starts anew"
    never = decided(resource(HUB, resources=GPU), away)
    assert engine(never) == ("builtin", "the model's architecture isn't known before it is downloaded")
    without = decided(again, away, SETTINGS)
    assert engine(without)[0] == "builtin", "its image is gone"
    other = resource("hf://acme/other", resources=GPU)
    assert engine(decided(msgspec.structs.replace(other, status=first.status), away))[0] == "builtin"


def test_an_engine_without_an_image_is_told_and_nothing_is_made() -> None:
    for name, words in (
        (
            "sglang",
            "sglang has no image; set spec.engine.image, or engines.sglang.image of the chart.",
        ),
        ("custom", "custom has no image; set spec.engine.image."),
    ):
        made = decided(resource(HUB, engine={"name": name}))
        assert made.apply == ()
        accepted = told(made, "Accepted")
        assert (accepted.status, accepted.reason) == ("False", "EngineUnavailable")
        assert accepted.message == f"spec.engine.name: {words}"
        assert decided(resource(HUB, engine={"name": name, "image": "own:1"})).apply


def test_what_an_engine_cant_do_is_told_and_nothing_is_made() -> None:
    made = decided(resource(HUB, engine={"name": "vllm"}, quantization="4bit", fallbacks=["cpu"]))
    accepted = told(made, "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "UnsupportedByEngine")
    assert "vLLM can't serve this" in accepted.message
    assert "spec.quantization: 4bit" in accepted.message
    assert "spec.fallbacks: " in accepted.message
    assert made.apply == ()
    waiting = plan(
        Observed(resource(HUB, engine={"name": "vllm"}, quantization="4bit"), preflight_pending=True), ENGINES, NOW
    )
    assert told(waiting, "Accepted").status == "True", "the hub may know more"
    vqa = HubReport(architectures=("BlipForQuestionAnswering",), weights_bytes=GIB)
    assert told(decided(resource(HUB, engine={"name": "vllm"}), vqa), "Accepted").reason == "UnsupportedByEngine"


def test_the_pod_of_an_engine_of_another_make() -> None:
    given = resource(
        GGUF,
        engine={"name": "llamacpp", "args": ["--mlock", "$(HOME)"], "env": [{"name": "A", "value": "$(B)"}]},
        resources={"limits": {"cpu": 2, "memory": "4Gi"}},
        limits={"concurrentRequests": 4, "contextTokens": 1024, "requestTimeoutSeconds": 60},
        env=[{"name": "HF_TOKEN", "value": "secret"}],
    )
    made = decided(given, HubReport(weights_bytes=GIB))
    found = containers(made)
    running = found["engine"]
    shell, option, script, name, *command = running["command"]
    assert (shell, option, name) == ("/bin/sh", "-c", "engine")
    assert 'exec "$$@"' in script, "the kubelet makes one dollar of two"
    assert "tee -a /run/ams/engine.log" in script
    assert command == [
        "llama-server", "--model", "/run/ams/model.gguf", "--alias", "tiny", "--host", "127.0.0.1", "--port", "8090",
        "--parallel", "4", "--ctx-size", "4096", "--gpu-layers", "0", "--threads", "2", "--jinja", "--no-webui",
        "--metrics", "--mlock", "$$(HOME)",
    ]  # fmt: skip
    assert running["image"] == "llama:1"
    assert running["resources"] == {"limits": {"cpu": 2, "memory": "4Gi"}}
    assert variables(running)["A"] == "$(B)", "the kubelet's own reference, as in core/v1"
    assert "HF_TOKEN" not in variables(running), "spec.env is for the product's own containers"
    assert variables(running)["HOME"] == "/cache"
    mounts = {each["mountPath"]: each for each in running["volumeMounts"]}
    assert mounts["/models"] == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert mounts["/cache"] == {"name": "models", "mountPath": "/cache", "subPath": ".engine-cache/llamacpp"}
    assert mounts["/run/ams"]["name"] == "run"
    assert running["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for probe, query in (("startupProbe", "?start"), ("livenessProbe", "")):
        assert running[probe]["httpGet"] == {"path": f"/internal/engine/alive{query}", "port": 8080}
        assert running[probe]["terminationGracePeriodSeconds"] == 5
    assert running["lifecycle"] == {"preStop": {"httpGet": {"path": "/internal/engine/drained", "port": 8080}}}
    assert "readinessProbe" not in running

    serve = found["serve"]
    assert serve["resources"] == {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    assert {each: value for each, value in variables(serve).items() if each.startswith("AMS_ENGINE")} == {
        "AMS_ENGINE": "llamacpp",
        "AMS_ENGINE_ADDRESS": "http://127.0.0.1:8090",
        "AMS_ENGINE_LOG": "/run/ams/engine.log",
    }
    download = variables(found["download"])
    assert (download["AMS_ENGINE"], download["AMS_LINK_DIR"]) == ("llamacpp", "/run/ams")
    for part in ("download", "serve"):
        assert {"name": "run", "mountPath": "/run/ams"} in found[part]["volumeMounts"]
    assert pod(made)["terminationGracePeriodSeconds"] == 3 + 60 + 10 + 15
    claim = next(each for each in made.apply if each["kind"] == "PersistentVolumeClaim")
    assert claim["spec"]["resources"] == {"requests": {"storage": "1Gi"}}


def test_a_gguf_file_that_stays_one_needs_no_room_for_a_conversion() -> None:
    def size(name: str) -> str:
        given = resource(GGUF, cache={"size": "auto"}, engine={"name": name})
        made = decided(given, HubReport(weights_bytes=10 * GIB))
        claim = next(each for each in made.apply if each["kind"] == "PersistentVolumeClaim")
        text: str = claim["spec"]["resources"]["requests"]["storage"]
        return text

    assert (size("builtin"), size("llamacpp")) == ("60Gi", "12Gi")


def test_resources_of_the_engine_are_its_own_and_the_others_are_the_servers() -> None:
    own = {"name": "vllm", "resources": {"limits": {"nvidia.com/gpu": 2}, "claims": [{"name": "fabric"}]}}
    given = resource(HUB, engine=own, resources={"limits": {"memory": "3Gi"}})
    made = decided(given)
    found = containers(made)
    assert found["engine"]["resources"] == {"limits": {"nvidia.com/gpu": 2}, "claims": [{"name": "fabric"}]}
    assert found["serve"]["resources"] == {"limits": {"memory": "3Gi"}}
    assert pod(made)["resourceClaims"] == [{"name": "fabric"}]


def test_a_custom_engine_is_started_as_its_image_says() -> None:
    own = {"name": "custom", "image": "own:1", "port": 9000, "args": ["--port={port}", "{model}"]}
    made = decided(resource(HUB, engine=own))
    running = containers(made)["engine"]
    assert "command" not in running
    assert running["args"] == ["--port=9000", "/run/ams/model"]
    assert variables(running)["PORT"] == "9000"
    assert running["securityContext"]["readOnlyRootFilesystem"] is False
    assert running["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "AMS_ENGINE_LOG" not in variables(containers(made)["serve"])


def test_weights_of_a_users_volume_and_a_cache_that_can_only_be_read() -> None:
    given = resource("pvc://shared/a", engine={"name": "vllm"}, cache={"size": "1Gi", "accessMode": "ReadOnlyMany"})
    made = plan(Observed(given), ENGINES, NOW)
    mounts = {each["mountPath"]: each for each in containers(made)["engine"]["volumeMounts"]}
    assert mounts["/source"] == {"name": "source", "mountPath": "/source", "readOnly": True}
    assert mounts["/cache"] == {"name": "engine-cache", "mountPath": "/cache"}
    assert {"name": "engine-cache", "emptyDir": {}} in pod(made)["volumes"]


def test_weights_are_fetched_ahead_without_an_engine() -> None:
    given = resource(HUB, engine={"name": "vllm"}, autoscaling={}, cache={"size": "1Gi", "prefetch": True})
    made = decided(given, replicas=0)
    assert list(containers(made)) == ["download", "serve"]


SLEEPY = {"minReplicas": 0, "idle": "sleep", "idleSeconds": 90}


def running(replicas: int) -> dict[str, Deployment]:
    made: Deployment = child(Deployment, owner=OURS)
    return {"Deployment": msgspec.structs.replace(made, spec=DeploymentSpec(replicas=replicas))}


def test_the_last_pod_of_an_engine_that_sleeps_stays() -> None:
    given = resource(HUB, engine={"name": "vllm"}, autoscaling=SLEEPY)

    def replicas(made: Decision) -> int:
        deployment = next(each for each in made.apply if each["kind"] == "Deployment")
        count: int = deployment["spec"]["replicas"]
        return count

    assert replicas(decided(given, replicas=0, children=running(1))) == 1
    awake = decided(given, replicas=1)
    assert variables(containers(awake)["serve"])["AMS_ENGINE_SLEEP_SECONDS"] == "90.0"
    assert "--enable-sleep-mode" in containers(awake)["engine"]["command"]
    assert replicas(decided(given, replicas=0, children=running(0))) == 0, "nothing starts before the first request"
    assert replicas(decided(resource(HUB, autoscaling=SLEEPY), replicas=0, children=running(1))) == 0, "builtin stops"
    suspended = resource(HUB, engine={"name": "vllm"}, autoscaling=SLEEPY, suspend=True)
    assert replicas(decided(suspended, replicas=0, children=running(1))) == 0


def test_images_of_server_and_engine_are_pulled_before_the_running_pod_ends() -> None:
    before = decided(resource(HUB, engine={"name": "vllm"}))
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "download", "ready": True, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [
                {"name": name, "ready": True, "state": {"running": {}}} for name in ("serve", "engine")
            ],
        },
    }
    children = {each["kind"]: as_applied(each) for each in before.apply}
    serving = (msgspec.convert(document, Pod),)
    new = resource(HUB, engine={"name": "vllm", "image": "vllm:2"}, image="ams-pod:2")
    made = decided(new, children=children, pods=serving)
    assert made.pull is not None
    assert [each["image"] for each in made.pull["spec"]["containers"]] == ["ams-pod:2", "vllm:2"]
    assert len({each["name"] for each in made.pull["spec"]["containers"]}) == 2
    assert "Deployment" not in [each["kind"] for each in made.apply]

    def pulled(*states: dict[str, Any]) -> Decision:
        assert made.pull is not None
        names = [each["name"] for each in made.pull["spec"]["containers"]]
        statuses = [{"name": name, "image": "i", "state": state} for name, state in zip(names, states, strict=True)]
        body = {
            **made.pull,
            "metadata": {**made.pull["metadata"], "uid": "x"},
            "status": {"containerStatuses": statuses},
        }
        return decided(new, children=children, pods=serving, pull=msgspec.convert(body, Pod))

    there, creating = {"terminated": {"exitCode": 0}}, {"waiting": {"reason": "ContainerCreating"}}
    missing = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    assert "Deployment" in [each["kind"] for each in pulled(there, there).apply]
    assert "Deployment" not in [each["kind"] for each in pulled(there, creating).apply]
    assert told(pulled(there, missing), "Progressing").reason == "Stalled"


def view(serve: dict[str, Any], engine: dict[str, Any]) -> PodView:
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "initContainerStatuses": [{"name": "download", "ready": True, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [{"name": "serve", **serve}, {"name": "engine", **engine}],
        },
    }
    return read_pod(msgspec.convert(document, Pod), None, [], NOW)


RUNS = {"state": {"running": {}}}


@pytest.mark.parametrize(
    ("engine", "reason", "words"),
    [
        (
            {"image": "vllm:9", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}},
            "ImagePullFailed",
            "The image vllm:9 can't be pulled: ErrImagePull: not found",
        ),
        (
            {
                "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "a\nValueError: no GPU\n"}},
            },
            "CrashLoop",
            "The engine ended (status 1) 4 times; its last line: ValueError: no GPU",
        ),
        (
            {
                "restartCount": 2,
                "state": {"running": {}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
            },
            "OutOfMemoryKilled",
            "The engine used more memory than its limit, was killed 3 times; raise the memory of spec.engine.resources"
            " (or spec.resources), or lower spec.limits.contextTokens or concurrentRequests.",
        ),
    ],
)
def test_what_is_wrong_with_an_engine_is_told_as_the_engines(engine: dict[str, Any], reason: str, words: str) -> None:
    problem = view(RUNS, engine).problem
    assert problem is not None
    assert (problem.reason, problem.message) == (reason, words)


def test_a_pod_serves_once_its_server_does_and_its_engine_runs() -> None:
    ready = {"ready": True, **RUNS}
    assert view(ready, ready).stage.value == "ready"
    assert view(ready, {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}).stage.value != "ready"
    assert view(RUNS, ready).stage.value == "loading"


def test_the_hub_says_no_and_the_engine_is_told_all_the_same() -> None:
    refused = HubReport(Failure("ModelNotFound", "There is no acme/tiny."))
    assert engine(decided(resource(HUB, engine={"name": "vllm"}), refused))[0] == "vllm"


def test_status_of_another_version_of_the_operator_is_read() -> None:
    given = msgspec.structs.replace(resource(HUB, resources=GPU), status=Status())
    assert engine(decided(given, unreachable("no route")))[0] == "builtin"


async def test_an_api_server_takes_the_pod_and_the_status(kube: Client, home: str, operator: OperatorProcess) -> None:
    body = model(engine={"name": "llamacpp", "image": "llama:test", "args": ["--mlock"]})
    await create(kube, home, "beside", body)
    made = await pod_of(kube, home, "beside")
    assert made.metadata.name
    template: Any = (await kube.get(DEPLOYMENTS, home, "ams-beside")).spec["template"]
    assert [each["name"] for each in template["spec"]["containers"]] == ["serve", "engine"]
    assert template["spec"]["containers"][1]["command"][-1] == "--mlock"
    resource = await until_condition(kube, home, "beside", "Accepted", "True", "Valid")
    assert resource.status is not None
    assert resource.status.engine == EngineStatus(name="llamacpp", reason="spec.engine.name asks for it")
