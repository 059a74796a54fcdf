"""Who may reach what, by the policies that the chart and its operator make; read as Kubernetes reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from ams_common.resource.parse import parse_model_deployment
from ams_common.source import parse_source
from ams_operator.decide.desired import desired
from ams_operator.settings import OperatorSettings
from test_chart.chart import needs_helm, render

pytestmark = needs_helm

PROMETHEUS = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
}
Object = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """A pod as policies see it."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]


def _labels(component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ai-model-server",
        "app.kubernetes.io/instance": "ams",
        "app.kubernetes.io/component": component,
    }


GATEWAY = Place("ams", _labels("gateway"), {"http": 8080, "metrics": 9090})
OPERATOR = Place("ams", _labels("operator"), {"metrics": 9090})
CHILD = {"app.kubernetes.io/name": "ai-model", "app.kubernetes.io/managed-by": "ams-operator"}
MODEL = Place("team", {**CHILD, "aimodelserver.io/model": "tiny"}, {"http": 8080, "progress": 8081})
SCRAPER = Place("monitoring", {"app.kubernetes.io/name": "prometheus"}, {})
NEIGHBOUR = Place("team", {"app": "shell"}, {})
PRETENDER = Place("team", _labels("gateway"), {})  # the gateway's labels in another namespace
OTHER_MODEL = Place("team", {**CHILD, "aimodelserver.io/model": "other"}, {})
HALF_SCRAPER = Place("monitoring", {"app.kubernetes.io/name": "grafana"}, {})
STRANGERS = (NEIGHBOUR, PRETENDER, OTHER_MODEL, HALF_SCRAPER)


def policies(values: Object, **spec: Any) -> list[Object]:
    """All policies of a release in `ams` with a model `tiny` in `team`."""
    objects = render(values)
    (container,) = objects["Deployment", "operator"]["spec"]["template"]["spec"]["containers"]
    peers = next((each["value"] for each in container["env"] if each["name"] == "AMS_NETWORK_POLICY_FROM"), "")
    document = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny", "namespace": "team", "uid": "u", "generation": 1},
        "spec": {"model": {"source": "hf://acme/tiny"}, **spec},
    }
    built = desired(
        parse_model_deployment(document),
        parse_source("hf://acme/tiny"),
        OperatorSettings(pod_image="x", network_policy_from=peers),
        replicas=1,
        strategy="Recreate",
        prefetch=False,
        volume_size=1 << 30,
        weights=None,
        lock=None,
    )
    template = built["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MODEL.labels.items() <= template.items()  # as this test has them
    made = [each for (kind, _), each in objects.items() if kind == "NetworkPolicy"]
    return [*made, *([built["NetworkPolicy"]] if "NetworkPolicy" in built else [])]


def reaches(policies: list[Object], source: Place, target: Place, port: str) -> bool:
    """By the rules of networking.k8s.io/v1: who is selected by no policy is open, else any rule that allows it does."""
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == target.namespace
        and _matches(policy["spec"]["podSelector"], target.labels)
    ]
    if not selecting:
        return True
    return any(
        _opens(rule, policy["metadata"]["namespace"], source, target, port)
        for policy in selecting
        for rule in policy["spec"]["ingress"]
    )


def _opens(rule: Object, namespace: str, source: Place, target: Place, port: str) -> bool:
    ports = [each["port"] for each in rule.get("ports", [])]
    if ports and port not in ports and target.ports[port] not in ports:
        return False
    return "from" not in rule or any(_is(peer, namespace, source) for peer in rule["from"])


def _is(peer: Object, namespace: str, source: Place) -> bool:
    names = {"kubernetes.io/metadata.name": source.namespace}
    inside = (
        _matches(peer["namespaceSelector"], names) if "namespaceSelector" in peer else source.namespace == namespace
    )
    return inside and _matches(peer.get("podSelector", {}), source.labels)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


@pytest.mark.parametrize("scraped", [False, True], ids=["nobody scrapes", "Prometheus scrapes"])
def test_who_reaches_what(scraped: bool) -> None:
    given = {"networkPolicy": {"enabled": True, "metricsFrom": [PROMETHEUS] if scraped else []}}
    made = policies(given)
    who = {"gateway": GATEWAY, "operator": OPERATOR, "prometheus": SCRAPER, "neighbour": NEIGHBOUR,
           "pretender": PRETENDER, "other model": OTHER_MODEL, "grafana": HALF_SCRAPER}  # fmt: skip
    scrapers = {"prometheus"} if scraped else set()
    matrix = {
        (name, port): {each for each, source in who.items() if reaches(made, source, target, port)}
        for name, target in {"gateway": GATEWAY, "operator": OPERATOR, "model": MODEL}.items()
        for port in target.ports
    }
    assert matrix == {
        ("gateway", "http"): set(who),
        ("gateway", "metrics"): {"operator"} | scrapers,
        ("operator", "metrics"): scrapers,
        ("model", "http"): {"gateway", "operator"} | scrapers,
        ("model", "progress"): {"gateway", "operator"} | scrapers,
    }


def test_without_the_switch_there_are_no_policies() -> None:
    assert policies({}) == []


def test_a_peer_without_a_namespace_is_one_of_the_release() -> None:
    made = policies({"networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {"matchLabels": {"a": "b"}}}]}})
    assert reaches(made, Place("ams", {"a": "b"}, {}), MODEL, "http")
    assert not reaches(made, Place("team", {"a": "b"}, {}), MODEL, "http")


def test_labels_of_a_tenant_open_nothing() -> None:
    made = policies({"networkPolicy": {"enabled": True}}, podLabels=_labels("operator"))
    assert not [stranger for stranger in STRANGERS if reaches(made, stranger, MODEL, "http")]


def test_images_are_pinned_by_their_digest() -> None:
    digest = "sha256:" + "ab" * 32
    objects = render({"image": {"digest": digest}, "podImage": {"tag": "9", "digest": digest}})
    (container,) = objects["Deployment", "operator"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f"@{digest}")
    pod_image = next(each["value"] for each in container["env"] if each["name"] == "AMS_POD_IMAGE")
    assert pod_image == f"ai-model-server-pod:9@{digest}"
