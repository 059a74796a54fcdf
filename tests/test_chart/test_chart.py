"""The chart renders what its values promise; each documented value changes what it says."""

import json
from typing import Any

import pytest
import yaml
from ams_common.crd import definition
from ams_common.labels import KEYS_SECRET
from ams_common.values_schema import renewed
from ams_operator.decide.children.kinds import CHILDREN
from test_chart.chart import CHART, KUBE_VERSION, helm, helm_template, needs_helm, render

pytestmark = needs_helm

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def container(objects: dict[tuple[str, str], dict[str, Any]], part: str) -> dict[str, Any]:
    return objects["Deployment", part]["spec"]["template"]["spec"]["containers"][0]


def environment(objects: dict[tuple[str, str], dict[str, Any]], part: str) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container(objects, part)["env"]}


def test_helm_lint_finds_nothing() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", "--kube-version", KUBE_VERSION, str(CHART)).stdout


def test_the_crd_of_the_chart_is_the_generated_one_and_survives_uninstall() -> None:
    crd = render()["CustomResourceDefinition", "modeldeployments.aimodelserver.io"]
    assert crd["metadata"].pop("annotations")["helm.sh/resource-policy"] == "keep"
    generated = definition()
    generated["metadata"].pop("annotations", None)
    assert crd == generated, "run: make crds"
    assert ("CustomResourceDefinition", "modeldeployments.aimodelserver.io") not in render({"crds": {"install": False}})


def test_every_pod_meets_the_restricted_standard() -> None:
    objects = render({"models": {"m": {"model": {"source": "hf://a/b"}}}})
    pods = [each["spec"] for (kind, _), each in objects.items() if kind == "Pod"]
    pods += [each["spec"]["template"]["spec"] for (kind, _), each in objects.items() if kind in ("Deployment", "Job")]
    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each in pod["containers"]:
            security = each["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_users_may_be_the_clusters_choice() -> None:
    objects = render({"podSecurity": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}})
    for part in ("operator", "gateway"):
        security = objects["Deployment", part]["spec"]["template"]["spec"]["securityContext"]
        assert security == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_an_operator_of_two_has_a_budget_and_is_spread() -> None:
    objects = render()
    assert objects["PodDisruptionBudget", "operator"]["spec"]["minAvailable"] == 1
    [spread] = objects["Deployment", "operator"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert ("PodDisruptionBudget", "operator") not in render({"operator": {"replicas": 1}})


def secret_rules(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What is said of Secrets, by the role's kind and name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for (kind, name), each in objects.items():
        for rule in each["rules"] if kind in ("Role", "ClusterRole") else []:
            assert "*" not in rule["resources"] + rule["verbs"]
            if "secrets" in rule["resources"]:
                found.setdefault(f"{kind}/{name}", []).append(rule)
    return found


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["a", "b"]}])
def test_the_secret_with_the_keys_is_the_only_one_that_may_be_read(values: dict[str, Any]) -> None:
    name = "ams-ai-model-server-keys"
    assert secret_rules(render(values)) == {
        "Role/operator-own": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        ],
        "Role/gateway-keys": [
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get", "list", "watch"]}
        ],
    }
    objects = render(values)
    assert objects["RoleBinding", "gateway-keys"]["subjects"] == [
        {"kind": "ServiceAccount", "name": "ams-ai-model-server-gateway", "namespace": "ams"}
    ]


ISSUER = {"issuer": "https://login.example.com", "audience": "ai", "rules": [{"claims": {"groups": "ml-*"}}]}


@pytest.mark.parametrize(
    ("auth", "keys", "made", "anonymous"),
    [
        ({}, "ams-ai-model-server-keys", True, False),
        ({"existingSecret": "mine"}, "mine", False, False),
        ({"existingSecret": "mine", "anonymous": True}, "mine", False, True),
        ({"anonymous": True}, None, False, True),
        ({"jwt": [ISSUER]}, "ams-ai-model-server-keys", True, False),
        ({"jwt": [ISSUER], "createFirstKey": False}, None, False, False),
    ],
)
def test_who_gets_in(auth: dict[str, Any], keys: str | None, made: bool, anonymous: bool) -> None:
    objects = render({"gateway": {"auth": auth}})
    gateway, operator = environment(objects, "gateway"), environment(objects, "operator")
    assert gateway.get("AMS_KEYS_SECRET") == (f"ams/{keys}" if keys else None)
    assert gateway.get("AMS_ALLOW_ANONYMOUS") == ("true" if anonymous else None)
    assert operator.get("AMS_KEYS_SECRET") == (f"ams/{keys}" if made else None)
    annotations = objects["Service", "gateway"]["metadata"].get("annotations", {})
    assert annotations.get(KEYS_SECRET) == keys
    rules = secret_rules(objects)
    assert ("Role/operator-own" in rules) == made
    assert [rule["resourceNames"] for rule in rules.get("Role/gateway-keys", [])] == ([[keys]] if keys else [])
    [test] = [each for (kind, _), each in objects.items() if kind == "Pod"]
    assert ("env" in test["spec"]["containers"][0]) == made
    compile(test["spec"]["containers"][0]["command"][2], "test", "exec")


def test_nobody_gets_in_is_a_mistake() -> None:
    said = helm_template({"gateway": {"auth": {"createFirstKey": False}}}, check=False).stderr
    assert "nobody could use the gateways" in said


def test_values_of_an_older_chart_are_told() -> None:
    """As --reuse-values gives them; null takes a default away."""
    said = helm_template({"gateway": {"tls": None}}, check=False).stderr
    assert "gateway.tls is missing" in said
    assert "--reset-then-reuse-values" in said


def test_issuers_of_tokens_are_mounted() -> None:
    objects = render({"gateway": {"auth": {"jwt": [ISSUER]}}})
    assert json.loads(objects["ConfigMap", "gateway-jwt"]["data"]["jwt.json"]) == {"issuers": [ISSUER]}
    assert environment(objects, "gateway")["AMS_JWT_FILE"] == "/jwt/jwt.json"
    assert {"name": "jwt", "mountPath": "/jwt", "readOnly": True} in container(objects, "gateway")["volumeMounts"]


def test_tls() -> None:
    plain = render()
    assert [port.get("appProtocol") for port in plain["Service", "gateway"]["spec"]["ports"]] == [None]
    objects = render({"gateway": {"tls": {"secretName": "cert"}, "service": {"port": 443}}})
    given = environment(objects, "gateway")
    assert (given["AMS_TLS_CERT"], given["AMS_TLS_KEY"]) == ("/tls/tls.crt", "/tls/tls.key")
    assert objects["Service", "gateway"]["spec"]["ports"][0]["appProtocol"] == "https"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container(objects, "gateway")[probe]["httpGet"]
        assert (asked["port"], asked["scheme"]) == ("http", "HTTPS")
    assert environment(objects, "operator")["AMS_GATEWAY_URL"] == "https://ams-ai-model-server-gateway.ams.svc"
    volumes = objects["Deployment", "gateway"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "tls", "secret": {"secretName": "cert", "defaultMode": 0o440}} in volumes


def test_a_kubelet_has_no_client_certificate_to_show() -> None:
    objects = render({"gateway": {"tls": {"secretName": "cert", "clientCASecret": "clients"}}})
    assert environment(objects, "gateway")["AMS_TLS_CLIENT_CA"] == "/tls-clients/ca.crt"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container(objects, "gateway")[probe]["httpGet"]
        assert (asked["port"], asked.get("scheme")) == ("metrics", None)
    said = helm_template({"gateway": {"tls": {"clientCASecret": "clients"}}}, check=False).stderr
    assert "needs gateway.tls.secretName" in said


def test_traces() -> None:
    assert "AMS_OTLP_ENDPOINT" not in {**environment(render(), "gateway"), **environment(render(), "operator")}
    objects = render({"tracing": {"endpoint": "http://collector:4318", "sampleRatio": 0.1}})
    for part in ("gateway", "operator"):
        assert environment(objects, part)["AMS_OTLP_ENDPOINT"] == "http://collector:4318"
    assert environment(objects, "gateway")["AMS_TRACE_SAMPLE_RATIO"] == "0.1"


def test_redis_and_the_ledger() -> None:
    assert "AMS_REDIS_URL" not in environment(render(), "gateway")
    objects = render({"gateway": {"redis": {"url": "redis://redis:6379/0", "existingSecret": "pass"}}})
    assert environment(objects, "gateway")["AMS_REDIS_URL"] == "redis://redis:6379/0"
    [password] = [each for each in container(objects, "gateway")["env"] if each["name"] == "AMS_REDIS_PASSWORD"]
    assert password["valueFrom"] == {"secretKeyRef": {"name": "pass", "key": "password"}}
    assert environment(objects, "gateway")["AMS_USAGE_FILE"] == "/usage/usage.db"
    alone = render({"gateway": {"replicas": 1, "usage": {"existingClaim": "ledger", "days": 30}}})
    assert environment(alone, "gateway")["AMS_USAGE_DAYS"] == "30"
    deployment = alone["Deployment", "gateway"]["spec"]
    assert deployment["strategy"] == {"type": "Recreate"}
    claims = {each["name"]: each.get("persistentVolumeClaim") for each in deployment["template"]["spec"]["volumes"]}
    assert claims["usage"] == {"claimName": "ledger"}
    said = helm_template({"gateway": {"usage": {"existingClaim": "ledger"}}}, check=False).stderr
    assert "is for one gateway" in said


def test_several_processes_of_a_gateway_need_a_redis() -> None:
    assert "AMS_PROCESSES" not in environment(render(), "gateway")
    objects = render({"gateway": {"processes": 4, "redis": {"url": "redis://redis:6379/0"}}})
    assert environment(objects, "gateway")["AMS_PROCESSES"] == "4"
    assert container(objects, "gateway")["livenessProbe"]["httpGet"]["port"] == "metrics"
    assert "needs gateway.redis.url" in helm_template({"gateway": {"processes": 4}}, check=False).stderr


def test_namespaces_narrow_the_rights_and_what_is_watched() -> None:
    objects = render({"watchNamespaces": ["a", "b"]})
    for part in ("operator", "gateway"):
        assert ("ClusterRole", part) not in objects
        for namespace in ("a", "b"):
            assert objects["Role", f"{namespace}/{part}"]["rules"] == render()["ClusterRole", part]["rules"]
            subject = objects["RoleBinding", f"{namespace}/{part}"]["subjects"][0]
            assert subject == {"kind": "ServiceAccount", "name": f"ams-ai-model-server-{part}", "namespace": "ams"}
        assert environment(objects, part)["AMS_NAMESPACES"] == "a,b"


def test_the_operator_may_make_sets_of_groups_and_read_whose_their_pods_are() -> None:
    rules = render()["ClusterRole", "operator"]["rules"]
    [sets] = [rule for rule in rules if rule["apiGroups"] == ["leaderworkerset.x-k8s.io"]]
    assert sets["resources"] == ["leaderworkersets"]
    assert sets["verbs"] == ["get", "list", "watch", "create", "patch", "delete"]
    [between] = [rule for rule in rules if "statefulsets" in rule["resources"]]
    assert (between["apiGroups"], between["verbs"]) == (["apps"], ["get", "list", "watch"])


def test_the_operator_may_look_after_every_kind_of_child() -> None:
    """Its watches list all of them, whichever a model has: one that it may not list keeps it from beginning."""
    rules = render()["ClusterRole", "operator"]["rules"]
    for kind in CHILDREN.values():
        group = kind.api_version.rpartition("/")[0]
        [rule] = [each for each in rules if kind.plural in each["resources"] and each["apiGroups"] == [group]]
        assert rule["verbs"] == ["get", "list", "watch", "create", "patch", "delete"], kind.name


def test_the_operator_may_read_nodes_unless_that_is_switched_off() -> None:
    for values in ({}, {"watchNamespaces": ["a"]}):
        objects = render(values)
        rule = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]}
        assert objects["ClusterRole", "operator-nodes"]["rules"] == [rule]
        binding = objects["ClusterRoleBinding", "operator-nodes"]
        assert binding["subjects"] == objects["RoleBinding", "operator-own"]["subjects"]
        assert binding["roleRef"]["name"] == objects["ClusterRole", "operator-nodes"]["metadata"]["name"]
    assert ("ClusterRole", "operator-nodes") not in render({"rbac": {"nodes": False}})


@pytest.mark.parametrize(
    ("values", "part", "variable", "expected"),
    [
        ({"gateway": {"holdSeconds": 7}}, "gateway", "AMS_HOLD_SECONDS", "7"),
        ({"gateway": {"holdLimit": 8}}, "gateway", "AMS_HOLD_LIMIT", "8"),
        ({"gateway": {"maxBodyBytes": 1048576}}, "gateway", "AMS_MAX_BODY_BYTES", "1048576"),
        ({"gateway": {"bodyTimeoutSeconds": 9}}, "gateway", "AMS_BODY_TIMEOUT_SECONDS", "9"),
        ({"gateway": {"bodyTotalSeconds": 70}}, "gateway", "AMS_BODY_TOTAL_SECONDS", "70"),
        ({"gateway": {"bodyMinBytesPerSecond": 8}}, "gateway", "AMS_BODY_MIN_BYTES_PER_SECOND", "8"),
        ({"gateway": {"bodyMemoryBytes": 10485760}}, "gateway", "AMS_BODY_MEMORY_BYTES", "10485760"),
        ({"gateway": {"spoolBytes": 2147483648}}, "gateway", "AMS_SPOOL_BYTES", "2147483648"),
        ({"gateway": {"storedResponses": {"bytes": 0}}}, "gateway", "AMS_STORED_RESPONSES_BYTES", "0"),
        ({"gateway": {"storedResponses": {"seconds": 60}}}, "gateway", "AMS_STORED_RESPONSES_SECONDS", "60"),
        (
            {"gateway": {"allowedHosts": ["api.example.com", "*.b.org"]}},
            "gateway",
            "AMS_ALLOWED_HOSTS",
            "api.example.com,*.b.org,ams-ai-model-server-gateway,ams-ai-model-server-gateway.ams,"
            "ams-ai-model-server-gateway.ams.svc,ams-ai-model-server-gateway.ams.svc.cluster.local",
        ),
        (
            {"gateway": {"allowedOrigins": ["https://a.example", "http://b:8080"]}},
            "gateway",
            "AMS_ALLOWED_ORIGINS",
            "https://a.example,http://b:8080",
        ),
        ({"gateway": {"adminPaths": True}}, "gateway", "AMS_ADMIN_PATHS", "true"),
        ({"gateway": {"graceSeconds": 90}}, "gateway", "AMS_GRACE_SECONDS", "90"),
        ({"gateway": {"exposePod": True}}, "gateway", "AMS_EXPOSE_POD", "true"),
        ({"gateway": {"logFormat": "console"}}, "gateway", "AMS_LOG_FORMAT", "console"),
        ({"gateway": {"debug": True}}, "gateway", "AMS_DEBUG", "true"),
        ({"gateway": {"env": [{"name": "X", "value": "yes please"}]}}, "gateway", "X", "yes please"),
        ({"operator": {"logFormat": "console"}}, "operator", "AMS_LOG_FORMAT", "console"),
        ({"operator": {"podLogFormat": "json"}}, "operator", "AMS_POD_LOG_FORMAT", "json"),
        ({"operator": {"debug": True}}, "operator", "AMS_DEBUG", "true"),
        ({"operator": {"env": [{"name": "X", "value": "yes please"}]}}, "operator", "X", "yes please"),
        ({"podImage": {"repository": "r", "tag": "t"}}, "operator", "AMS_POD_IMAGE", "r:t"),
        ({"engines": {"vllm": {"image": "v:1"}}}, "operator", "AMS_VLLM_IMAGE", "v:1"),
        ({"engines": {"sglang": {"image": "s:1"}}}, "operator", "AMS_SGLANG_IMAGE", "s:1"),
        ({"engines": {"llamacpp": {"image": "l:1"}}}, "operator", "AMS_LLAMACPP_IMAGE", "l:1"),
        ({"engines": {"pullPolicy": "Never"}}, "operator", "AMS_ENGINE_IMAGE_PULL_POLICY", "Never"),
        ({"podImage": {"pullPolicy": "Never"}}, "operator", "AMS_POD_IMAGE_PULL_POLICY", "Never"),
        ({"podSecurity": {"runAsUser": 7}}, "operator", "AMS_RUN_AS_USER", "7"),
        ({"podSecurity": {"runAsUser": None}}, "operator", "AMS_RUN_AS_USER", "0"),
        ({"podSecurity": {"runAsGroup": None}}, "operator", "AMS_RUN_AS_GROUP", "0"),
        ({"podSecurity": {"fsGroup": 8}}, "operator", "AMS_FS_GROUP", "8"),
        ({}, "operator", "AMS_FS_GROUP", "1000"),
        ({"rollout": {"maxConcurrentUpdates": 3}}, "operator", "AMS_MAX_CONCURRENT_UPDATES", "3"),
        ({"hub": {"endpoint": "http://mirror"}}, "operator", "AMS_HUB_ENDPOINT", "http://mirror"),
        ({"hub": {"packageIndex": "http://pypi"}}, "operator", "AMS_PACKAGE_INDEX", "http://pypi"),
        (
            {"gateway": {"service": {"port": 8000}}},
            "operator",
            "AMS_GATEWAY_URL",
            "http://ams-ai-model-server-gateway.ams.svc:8000",
        ),
        ({}, "operator", "AMS_GATEWAY_URL", "http://ams-ai-model-server-gateway.ams.svc"),
        ({}, "operator", "AMS_GATEWAY_SERVICE", "ams/ams-ai-model-server-gateway-internal"),
        ({}, "operator", "AMS_POD_IMAGE", "ai-model-server-pod:0.1.0"),
    ],
)
def test_values_become_settings(values: dict[str, Any], part: str, variable: str, expected: str) -> None:
    assert environment(render(values), part)[variable] == expected


@pytest.mark.parametrize(
    "values",
    [
        {"allowedHosts": ["https://a.example"]},
        {"allowedHosts": ["a,b"]},
        {"allowedOrigins": ["a.example"]},
        {"allowedOrigins": ["https://a.example/page"]},
        {"bodyMemoryBytes": 1000},
        {"redis": {"url": "http://redis"}},
        {"auth": {"existingSecret": "Not A Name"}},
        {"tls": {"cert": "x"}},
        {"spoolBytes": "1Gi"},
        {"storedResponses": {"seconds": 0}},
    ],
)
def test_values_of_no_sense_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=next(iter(values))):
        render({"gateway": values})


def test_a_gateway_takes_the_names_of_its_own_service_only_where_names_count() -> None:
    assert "AMS_ALLOWED_HOSTS" not in environment(render(), "gateway")


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_settings_are_ones_that_the_program_knows(part: str) -> None:
    """A name that is misspelt would be ignored silently."""
    from ams_common.options import variable_name
    from ams_gateway.settings import GatewaySettings
    from ams_operator.settings import OperatorSettings

    settings = GatewaySettings if part == "gateway" else OperatorSettings
    known = {variable_name(field) for field in settings.__struct_fields__}
    values: dict[str, Any] = {part: {"debug": True}, "watchNamespaces": ["a"], "hub": {"endpoint": "http://m"}}
    if part == "gateway":
        values[part] |= {
            "auth": {"existingSecret": "keys", "anonymous": True, "jwt": [ISSUER]},
            "redis": {"url": "redis://r", "existingSecret": "r"},
            "tls": {"secretName": "t", "clientCASecret": "c"},
            **{"allowedHosts": ["a"], "allowedOrigins": ["*"], "adminPaths": True, "confineNames": True},
        }
    given = environment(render(values), part)
    assert set(given) <= known


@pytest.mark.parametrize("part", ["operator", "gateway"])
def test_what_both_deployments_take(part: str) -> None:
    values = {
        "replicas": 3,
        "serviceAccount": {"name": "mine", "annotations": {"a": "b"}},
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "podAnnotations": {"p": "q"},
        "podLabels": {"l": "m"},
    }
    shared = {
        "image": {"repository": "r", "tag": "t", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "commonLabels": {"team": "ml"},
    }
    objects = render({part: values, **shared})
    deployment = objects["Deployment", part]
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["replicas"] == 3
    assert deployment["metadata"]["labels"]["team"] == "ml"
    assert pod["metadata"]["annotations"] == {"p": "q"}
    assert pod["metadata"]["labels"]["l"] == "m"
    spec = pod["spec"]
    assert spec["serviceAccountName"] == "mine"
    assert objects["ServiceAccount", "mine"]["metadata"]["annotations"] == {"a": "b"}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    for name in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "topologySpreadConstraints"):
        assert spec[name] == values[name]
    first = spec["containers"][0]
    assert (first["image"], first["imagePullPolicy"]) == ("r:t", "Always")
    assert first["resources"] == values["resources"]
    without = render({part: {"serviceAccount": {"create": False, "name": "other"}}})
    assert ("ServiceAccount", part) not in without
    assert without["Deployment", part]["spec"]["template"]["spec"]["serviceAccountName"] == "other"


def test_the_service() -> None:
    service = render(
        {"gateway": {"service": {"type": "NodePort", "port": 8000, "nodePort": 30080, "annotations": {"a": "b"}}}}
    )["Service", "gateway"]
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["ports"] == [{"name": "http", "port": 8000, "targetPort": "http", "nodePort": 30080}]
    assert service["metadata"]["annotations"] == {"a": "b", KEYS_SECRET: "ams-ai-model-server-keys"}


def test_the_ingress_is_optional() -> None:
    assert ("Ingress", "") not in render()
    ingress = {
        "enabled": True,
        "className": "nginx",
        "annotations": {"a": "b"},
        "hosts": [{"host": "ai.example.com", "path": "/models"}, {"host": ""}],
        "tls": [{"hosts": ["ai.example.com"], "secretName": "s"}],
    }
    found = render({"gateway": {"ingress": ingress}})["Ingress", ""]
    backend = {"service": {"name": "ams-ai-model-server-gateway", "port": {"name": "http"}}}
    assert found["spec"] == {
        "ingressClassName": "nginx",
        "tls": ingress["tls"],
        "rules": [
            {
                "host": "ai.example.com",
                "http": {"paths": [{"path": "/models", "pathType": "Prefix", "backend": backend}]},
            },
            {"http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}},
        ],
    }
    assert found["metadata"]["annotations"] == {"a": "b"}


def test_the_http_route_is_optional_and_needs_a_gateway() -> None:
    assert ("HTTPRoute", "") not in render()
    refused = helm_template({"gateway": {"httpRoute": {"enabled": True}}}, check=False)
    assert "parentRefs must name a Gateway" in refused.stderr
    route = render(
        {
            "gateway": {
                "httpRoute": {
                    "enabled": True,
                    "parentRefs": [{"name": "public", "namespace": "infra"}],
                    "hostnames": ["ai.example.com"],
                    "annotations": {"a": "b"},
                }
            }
        }
    )["HTTPRoute", ""]
    assert route["spec"]["parentRefs"] == [{"name": "public", "namespace": "infra"}]
    assert route["spec"]["hostnames"] == ["ai.example.com"]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "ams-ai-model-server-gateway", "port": 80}]
    assert route["metadata"]["annotations"] == {"a": "b"}


def test_the_gateways_own_scaling_and_disruptions() -> None:
    objects = render(
        {
            "gateway": {
                "autoscaling": {
                    "enabled": True,
                    "minReplicas": 3,
                    "maxReplicas": 9,
                    "targetCPUUtilizationPercentage": 50,
                },
                "podDisruptionBudget": {"minAvailable": 2},
                "spoolSizeLimit": "5Gi",
                "graceSeconds": 100,
            }
        }
    )
    scaler = objects["HorizontalPodAutoscaler", "gateway"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 50
    deployment = objects["Deployment", "gateway"]["spec"]
    assert "replicas" not in deployment
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 110
    assert {"name": "spool", "emptyDir": {"sizeLimit": "5Gi"}} in deployment["template"]["spec"]["volumes"]
    assert objects["PodDisruptionBudget", "gateway"]["spec"]["minAvailable"] == 2
    without = render({"gateway": {"podDisruptionBudget": {"enabled": False}}})
    assert ("PodDisruptionBudget", "gateway") not in without
    assert ("HorizontalPodAutoscaler", "gateway") not in without


def test_the_optional_objects() -> None:
    plain = render()
    assert not [kind for kind, _ in plain if kind in ("NetworkPolicy", "PodMonitor", "Job")]
    objects = render(
        {
            "networkPolicy": {"enabled": True},
            "podMonitor": {"enabled": True, "labels": {"release": "prom"}, "interval": "15s"},
            "watchNamespaces": ["a"],
        }
    )
    assert {name for kind, name in objects if kind == "NetworkPolicy"} == {"operator", "gateway"}
    monitor = objects["PodMonitor", "models"]
    assert monitor["metadata"]["labels"]["release"] == "prom"
    ports = {each["port"]: each["interval"] for each in monitor["spec"]["podMetricsEndpoints"]}
    assert ports == {"http": "15s", "progress": "15s"}
    assert all(each["relabelings"][0]["targetLabel"] == "model" for each in monitor["spec"]["podMetricsEndpoints"])
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["a"]}
    assert render({"podMonitor": {"enabled": True}})["PodMonitor", "models"]["spec"]["namespaceSelector"] == {
        "any": True
    }
    assert not [kind for kind, _ in render({"rbac": {"create": False}}) if "Role" in kind]
    assert ("Pod", "test") in plain
    assert ("Pod", "test") not in render({"tests": {"enabled": False}})


def test_models_are_applied_by_a_job_and_never_deleted_by_helm() -> None:
    models = {"smollm2": {"model": {"source": "hf://a/b"}, "replicas": 2}}
    objects = render({"models": models}, namespace="prod")
    told = json.loads(objects["ConfigMap", "models"]["data"]["models.json"])
    assert told == [
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "smollm2", "namespace": "prod"},
            "spec": models["smollm2"],
        }
    ]
    assert objects["Job", "models"]["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    assert not [kind for kind, _ in objects if kind == "ModelDeployment"]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"gateway": {"replica": 3}}, "additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": -1}}, "/gateway/replicas"),
        ({"gateway": {"service": {"port": 0}}}, "/gateway/service/port"),
        ({"gateway": {"logFormat": "xml"}}, "/gateway/logFormat"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"watchNamespaces": ["A_b"]}, "/watchNamespaces/0"),
        ({"models": {"Qwen_VL": {"model": {"source": "hf://a/b"}}}}, "'Qwen_VL' does not match"),
        ({"models": {"m": {}}}, "/models/m"),
        ({"hub": {"endpoint": "mirror"}}, "/hub/endpoint"),
        ({"podMonitor": {"interval": "often"}}, "/podMonitor/interval"),
        ({"tests": {"enabled": "yes"}}, "/tests/enabled"),
    ],
)
def test_bad_values_are_refused_with_their_place(values: dict[str, Any], complaint: str) -> None:
    done = helm_template(values, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr


MODEL = {"source": "hf://a/b"}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"model": MODEL, "replicass": 3}, "replicass"),
        ({"model": {**MODEL, "alias": "x"}}, "alias"),
        ({"model": MODEL, "limits": {"concurrentRequests": "many"}}, "concurrentRequests"),
        ({"model": MODEL, "precision": "fp16"}, "precision"),
        ({"model": MODEL, "autoscaling": {"maxReplicas": 0}}, "maxReplicas"),
        ({"model": MODEL, "tolerations": [{"keys": "gpu"}]}, "keys"),
        ({"model": {}}, "source"),
        ({}, "model"),
    ],
)
def test_models_are_checked_as_the_resource_is(spec: dict[str, Any], complaint: str) -> None:
    done = helm_template({"models": {"m": spec}}, check=False)
    assert done.returncode != 0
    assert "/models/m" in done.stderr
    assert complaint in done.stderr


def test_every_example_may_be_a_value() -> None:
    examples = [
        document
        for path in sorted((CHART.parents[1] / "examples").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if document and document["kind"] == "ModelDeployment"
    ]
    assert len(examples) >= 5
    helm_template({"models": {each["metadata"]["name"]: each["spec"] for each in examples}})


def test_the_schema_of_models_is_the_generated_one() -> None:
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert text == renewed(text), "run: make crds"


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

    def compare(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        properties = schema.get("properties")
        if properties is None or schema.get("additionalProperties") is not False:
            return
        assert set(values) == set(properties) - {"global", "claims"} - ({"limits", "requests"} - set(values)), path
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, properties[name], f"{path}/{name}")

    compare(VALUES, schema, "")


def test_names_can_be_changed() -> None:
    for values, name in (
        ({"fullnameOverride": "own"}, "own-gateway"),
        ({"nameOverride": "nick"}, "ams-nick-gateway"),
    ):
        done = helm_template(values)
        assert f"name: {name}\n" in done.stdout
