"""The journey of a cluster's user: install, apply, ask; then everything that happens to models afterwards."""

import concurrent.futures
import itertools
import json
import os
import signal
import threading
import time
import urllib.request
from typing import Any

import pytest
from test_cluster.conftest import RELEASE, ROOT, SECRET, Installed

PARIS = {"prompt": "What is the capital of France?", "temperature": 0, "max_new_tokens": 20}
AWAY_SECONDS = 30  # longer than a leader may go without renewing its lease
HELLO = {"prompt": "hello", "temperature": 0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def quickstart(installed: Installed) -> Installed:
    installed.kubectl("delete", "mdep", "smollm2", "--ignore-not-found")
    installed.kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
    return installed


def test_helm_test_passes(installed: Installed) -> None:
    assert "Phase:          Succeeded" in installed.helm("test", RELEASE)


def test_a_model_at_zero_is_ready_and_answers_through_service_and_ingress(quickstart: Installed) -> None:
    quickstart.wait_ready("smollm2", 240)  # its weights are fetched ahead
    assert quickstart.get("mdep", "smollm2")["status"].get("readyReplicas", 0) == 0
    status, answer = quickstart.post("/generate/smollm2", PARIS, timeout=180)
    assert (status, "Paris" in answer["response"]) == (200, True), answer
    if (ingress := quickstart.cluster.ingress()) is not None:
        end = time.monotonic() + 30
        while True:  # the controller may have to hear of the Ingress first
            try:
                status, answer = quickstart.post("/generate/smollm2", PARIS, base=ingress)
                break
            except (OSError, json.JSONDecodeError):
                assert time.monotonic() < end
                time.sleep(0.5)
        assert "Paris" in answer["response"]


def test_status_tells_what_serves(quickstart: Installed) -> None:
    quickstart.post("/generate/smollm2", HELLO, timeout=180)
    quickstart.wait_for_reason("smollm2", "Available", "Serving")
    status = quickstart.get("mdep", "smollm2")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert status["endpoint"].endswith("/generate/smollm2")
    with urllib.request.urlopen(f"{quickstart.gateway}/admin/model_status") as answer:
        told = json.load(answer)["model_configs"]["smollm2"]
    assert (told["state"], told["ready_replicas"], told["path_exists"]) == ("ready", 1, True)
    with urllib.request.urlopen(f"{quickstart.gateway}/admin/memory_status") as answer:
        assert [pod["model"] for pod in json.load(answer)["pods"]] == ["smollm2"]


def test_an_idle_model_goes_to_zero_and_a_held_request_brings_it_back(installed: Installed) -> None:
    installed.apply(
        "sleepy",
        "hf://acme/tiny",
        autoscaling={"minReplicas": 0, "maxReplicas": 1, "idleSeconds": 3},
        cache={"size": "1Gi"},
    )
    installed.wait_ready("sleepy")
    request = urllib.request.Request(
        f"{installed.gateway}/generate/sleepy",
        json.dumps({**HELLO, "stream": True}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=180) as stream:
        text = stream.read().decode()
    assert "event: progress" in text
    assert text.endswith("data: [DONE]\n\n") or "data: [DONE]" in text
    installed.wait_for_reason("sleepy", "Available", "ScaledToZero", 90)
    assert installed.condition("sleepy", "Ready")["status"] == "True"
    assert installed.post("/generate/sleepy", HELLO, timeout=180)[0] == 200
    installed.kubectl("delete", "mdep", "sleepy", "--wait=false")


def test_a_rolling_change_loses_no_request(installed: Installed) -> None:
    """20 requests a second while the pods are replaced; each pod has its own volume, so that two can run at once."""
    installed.apply("roller", "hf://acme/tiny", cache={"perReplica": True, "size": "1Gi"})
    installed.wait_ready("roller")
    before = installed.get("deployment", "ams-roller")["metadata"]["generation"]
    stop = threading.Event()
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(installed.post("/generate/roller", HELLO, timeout=120)[0])
        except OSError as error:
            results.append(error)

    with concurrent.futures.ThreadPoolExecutor(64) as pool:

        def load() -> None:
            start = time.monotonic()
            for number in itertools.count():
                if stop.wait(max(0.0, start + number / 20 - time.monotonic())):
                    return
                pool.submit(ask)

        loader = threading.Thread(target=load)
        loader.start()
        try:
            installed.kubectl(
                "patch", "mdep", "roller", "--type=merge", "-p", '{"spec":{"limits":{"maxNewTokens":99}}}'
            )
            end = time.monotonic() + 30
            while installed.get("deployment", "ams-roller")["metadata"]["generation"] == before:
                assert time.monotonic() < end, "the Deployment was never changed"
                time.sleep(0.2)
            installed.kubectl("rollout", "status", "deployment/ams-roller", "--timeout=180s", timeout=200)
            time.sleep(5)
        finally:
            stop.set()
            loader.join()
    assert len(results) > 100
    assert [each for each in results if each != 200] == []
    installed.kubectl("delete", "mdep", "roller", "--wait=false")


def test_a_killed_pod_comes_back_and_deleted_children_too(installed: Installed) -> None:
    installed.apply("phoenix", "hf://acme/tiny", cache={"size": "1Gi"})
    installed.wait_ready("phoenix")
    uid = installed.get("service", "ams-phoenix")["metadata"]["uid"]
    installed.kubectl("delete", "service", "ams-phoenix")
    end = time.monotonic() + 20
    while True:
        found = [each for each in installed.get("services")["items"] if each["metadata"]["name"] == "ams-phoenix"]
        if found and found[0]["metadata"]["uid"] != uid:
            break
        assert time.monotonic() < end, "the Service never came back"
        time.sleep(0.2)
    installed.kubectl(
        "delete", "pod", "-l", "aimodelserver.io/model=phoenix", "--grace-period=0", "--force", check=False
    )
    assert installed.post("/generate/phoenix", HELLO, timeout=180)[0] == 200
    installed.kubectl("delete", "mdep", "phoenix")
    end = time.monotonic() + 60
    while any(
        each["metadata"]["name"] == "ams-phoenix"
        for kind in ("deployments", "services", "persistentvolumeclaims")
        for each in installed.get(kind)["items"]
    ):
        assert time.monotonic() < end, "children outlived their resource"
        time.sleep(0.5)


@pytest.mark.parametrize(
    ("name", "source", "spec", "kind", "reason", "words"),
    [
        ("absent", "hf://acme/absent", {}, "PreflightPassed", "ModelNotFound", "acme/absent"),
        ("revision", "hf://acme/tiny@v9", {}, "PreflightPassed", "RevisionNotFound", "v9"),
        (
            "no-image",
            "hf://acme/tiny",
            {"image": "nowhere.invalid/x:1"},
            "Available",
            "ImagePullFailed",
            "nowhere.invalid",
        ),
        (
            "no-gpu",
            "hf://acme/tiny",
            {"resources": {"limits": {"nvidia.com/gpu": 1}}},
            "Available",
            "InsufficientGPU",
            "nvidia.com/gpu",
        ),
        (
            "picky",
            "hf://acme/tiny",
            {"nodeSelector": {"disk": "golden"}},
            "Available",
            "Unschedulable",
            "node",
        ),
        (
            "no-secret",
            "hf://acme/gated",
            {"model": {"source": "hf://acme/gated", "tokenSecretRef": {"name": "absent"}}},
            "Accepted",
            "SecretNotFound",
            "absent",
        ),
        (
            "no-class",
            "hf://acme/tiny",
            {"cache": {"storageClassName": "golden"}},
            "WeightsReady",
            "VolumePending",
            "golden",
        ),
        (
            "unfit",
            "hf://acme/tiny",
            {
                "cache": {"size": "1Gi"},
                "limits": {"maxNewTokens": 8},
                "rollout": {"goldenPrompts": [{"prompt": "2+2", "contains": "never said"}]},
            },
            "Progressing",
            "GoldenPromptFailed",
            "which doesn't contain 'never said'",
        ),
        ("asleep", "hf://acme/tiny", {"suspend": True}, "Available", "Suspended", "suspend"),
    ],
)
def test_why_a_model_is_not_ready_is_told_in_words(
    installed: Installed, name: str, source: str, spec: dict[str, Any], kind: str, reason: str, words: str
) -> None:
    installed.apply(name, source, **spec)
    try:
        told = installed.wait_for_reason(name, kind, reason, 120)
        assert words in told["message"]
        described = installed.kubectl("describe", "mdep", name)
        assert reason in described
    finally:
        installed.kubectl("delete", "mdep", name, "--wait=false")


def test_a_gated_model_needs_a_token_and_no_token_is_written_anywhere(installed: Installed) -> None:
    installed.kubectl("create", "secret", "generic", "bad", f"--from-literal=token={SECRET}")
    installed.kubectl("create", "secret", "generic", "good", "--from-literal=token=good-token")
    try:
        model = {"source": "hf://acme/gated", "tokenSecretRef": {"name": "bad"}}
        installed.apply("gated", "hf://acme/gated", model=model, cache={"size": "1Gi"})
        end = time.monotonic() + 120
        while (told := installed.condition("gated", "Ready")).get("reason") not in ("GatedModel", "BadToken"):
            assert time.monotonic() < end, told
            time.sleep(0.5)
        written = installed.kubectl("get", "mdep,deploy,pods,events,pvc,svc,cm", "-o", "yaml", timeout=60)
        logs = "".join(
            installed.kubectl("logs", "-l", labels, "--all-containers", "--tail=-1", check=False)
            for labels in ("app.kubernetes.io/part-of=ai-model-server", "aimodelserver.io/model=gated")
        )
        assert SECRET not in written
        assert SECRET not in logs
    finally:
        installed.kubectl("delete", "mdep", "gated", "--wait=false")
        installed.kubectl("delete", "secret", "good", "bad")


def test_a_users_own_object_of_a_childs_name_stays(installed: Installed) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ams-taken"},
        "spec": {"ports": [{"port": 1234}], "selector": {"mine": "yes"}},
    }
    installed.kubectl("apply", "-f", "-", given=json.dumps(service))
    before = installed.get("service", "ams-taken")
    installed.apply("taken", "hf://acme/tiny", cache={"size": "1Gi"})
    assert "ams-taken" in installed.wait_for_reason("taken", "Accepted", "NameTaken")["message"]
    installed.kubectl("delete", "mdep", "taken")
    time.sleep(2)
    after = installed.get("service", "ams-taken")
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    installed.kubectl("delete", "service", "ams-taken")


def test_killed_operators_lose_nothing(installed: Installed) -> None:
    installed.kubectl(
        "delete", "pods", "-l", "app.kubernetes.io/component=operator", "--grace-period=0", "--force", check=False
    )
    installed.apply("after", "hf://acme/tiny", cache={"size": "1Gi"})
    installed.wait_ready("after", 180)
    started = time.monotonic()
    installed.kubectl("delete", "mdep", "after")
    assert time.monotonic() - started < 30
    leases = installed.get("leases")["items"]
    assert [
        lease["spec"]["holderIdentity"]
        for lease in leases
        if lease["metadata"]["name"] == f"{RELEASE}-ai-model-server-operator"
    ]


def test_a_gateway_that_stops_answers_what_runs(quickstart: Installed) -> None:
    quickstart.post("/generate/smollm2", HELLO, timeout=180)
    long = {"prompt": "Tell a long story.", "max_new_tokens": 120, "temperature": 0, "ignore_eos": True}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        running = [pool.submit(quickstart.post, "/generate/smollm2", long, 180) for _ in range(4)]
        time.sleep(0.5)
        quickstart.kubectl("rollout", "restart", f"deployment/{RELEASE}-ai-model-server-gateway")
        quickstart.kubectl("rollout", "status", f"deployment/{RELEASE}-ai-model-server-gateway", "--timeout=120s")
        assert [request.result()[0] for request in running] == [200] * 4


def until_no_ended_gateway_is_asked(product: Installed) -> None:
    """The node's proxy hears of gateways that have ended a moment late, and can't once the API server is away."""
    in_a_row, end = 0, time.monotonic() + 60
    while in_a_row < 30:  # it chooses one at random for each connection
        try:
            with urllib.request.urlopen(f"{product.gateway}/health", timeout=1):
                in_a_row += 1
        except OSError:
            in_a_row = 0
            assert time.monotonic() < end


def test_requests_go_on_while_the_api_server_is_away(quickstart: Installed) -> None:
    process = quickstart.cluster.api_server()
    if process is None:
        pytest.skip("this cluster's API server can't be stopped")
    quickstart.post("/generate/smollm2", HELLO, timeout=180)
    until_no_ended_gateway_is_asked(quickstart)
    os.kill(process, signal.SIGSTOP)
    try:
        end = time.monotonic() + AWAY_SECONDS
        codes = []
        while time.monotonic() < end:
            codes.append(quickstart.post("/generate/smollm2", HELLO, timeout=60)[0])
    finally:
        os.kill(process, signal.SIGCONT)
    assert set(codes) == {200}
    quickstart.kubectl("delete", "service", "ams-smollm2", timeout=60)
    end = time.monotonic() + 40  # the lease of the leader, which ended, has to run out
    while "ams-smollm2" not in {each["metadata"]["name"] for each in quickstart.get("services")["items"]}:
        assert time.monotonic() < end, "no operator made the Service again"
        time.sleep(0.5)


def test_plain_manifests_are_taken_by_the_api_server(installed: Installed) -> None:
    """What `make manifests` writes."""
    chart = str(ROOT / "charts" / "ai-model-server")
    rendered = installed.helm("template", RELEASE, chart, "--kube-version", "1.33", "--no-hooks")
    given = ("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-")
    assert "deployment.apps/ams-ai-model-server-gateway serverside-applied" in installed.kubectl(*given, given=rendered)
