"""Resources that can't be: each is refused with words that a person can act on, and none holds up another."""

from typing import Any

import pytest
from ams_kube.client import Client
from ams_kube.errors import Invalid, KubeError
from models import CLAIMS, DEPLOYMENTS, MODELS, create, model, until, until_children, until_condition
from operator_process import OperatorProcess
from test_common.resource_cases import BAD, GOOD, ONE_REPLICA, manifest

PATH = "/apis/aimodelserver.io/v1alpha1/namespaces/{}/modeldeployments"
# What our own reader says where the API server has words of its own; it names the same place.
OWN_WORDS = ("is required", "expected ", "unknown field", "must not be empty", "must be a quantity such as")


async def submit(kube: Client, namespace: str, document: dict[str, Any]) -> str:
    """As kubectl does: unknown fields are refused. The API server's sentence, empty if it takes the document."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    try:
        await kube.request("POST", PATH.format(namespace), query, body=document)
    except KubeError as error:
        return error.message
    return ""


@pytest.mark.parametrize("case", range(len(BAD)))
async def test_the_api_server_refuses_it_and_says_where_and_why(kube: Client, namespace: str, case: int) -> None:
    document, path, words = BAD[case]
    if path.endswith(".regex"):
        pytest.skip("an API server compiles no expressions of ours")
    said = await submit(kube, namespace, document)
    assert said, "it was taken"
    place = path.replace('["', ".").replace('"]', "").split("[")[0]
    own = words.startswith(OWN_WORDS)
    assert own or words in said, said
    last = place.rpartition(".")[2]
    assert last in said or not path, said


@pytest.mark.parametrize("case", range(len(GOOD)))
async def test_the_api_server_takes_what_is_good(kube: Client, namespace: str, case: int) -> None:
    assert await submit(kube, namespace, GOOD[case]) == ""


@pytest.mark.parametrize("name", ["a.b", "1model", "-a", "Model", "a" * 51, "a" * 64, "a_b"])
async def test_names_that_make_no_child(kube: Client, namespace: str, name: str) -> None:
    said = await submit(kube, namespace, manifest(metadata__name=name))
    assert "metadata.name" in said
    assert "RFC 1123" in said or "must start with a letter" in said


async def test_the_longest_name_works(kube: Client, home: str, operator: OperatorProcess) -> None:
    name = "a" + "b" * 49
    await create(kube, home, name, model())
    await until_children(kube, home, name)
    await until_condition(kube, home, name, "Accepted", "True", "Valid")


@pytest.mark.parametrize(
    "change",
    [
        {"storageClassName": "other"},
        {"accessMode": "ReadWriteMany"},
        {"claimName": "other"},
        {"perReplica": True},
    ],
)
async def test_the_cache_stays_what_it_is(kube: Client, namespace: str, change: dict[str, Any]) -> None:
    await create(kube, namespace, "fixed", model())
    with pytest.raises(Invalid, match=f"{next(iter(change))} can't be changed; delete the resource and apply it anew"):
        await kube.merge(MODELS, namespace, "fixed", {"spec": {"cache": change}})


async def test_a_volume_may_only_grow(kube: Client, namespace: str) -> None:
    await create(kube, namespace, "size", model())
    with pytest.raises(Invalid, match="may only grow, as volumes don't shrink"):
        await kube.merge(MODELS, namespace, "size", {"spec": {"cache": {"size": "500Mi"}}})
    await kube.merge(MODELS, namespace, "size", {"spec": {"cache": {"size": "2Gi"}}})


async def test_scaling_past_a_cache_of_one_node_is_refused(kube: Client, namespace: str) -> None:
    await create(kube, namespace, "one", model())
    with pytest.raises(KubeError) as refused:
        await kube.merge(MODELS, namespace, "one", {"spec": {"replicas": 3}}, "scale")
    assert ONE_REPLICA in str(refused.value)
    assert (await kube.get(MODELS, namespace, "one")).spec.replicas == 1


async def test_bad_ones_hold_up_no_good_one(kube: Client, home: str, operator: OperatorProcess) -> None:
    bad_affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    for number in range(20):
        await create(kube, home, f"bad-{number}", model(affinity=bad_affinity))
        await create(kube, home, f"folder-{number}", model("file:///x"))
    await create(kube, home, "good", model(autoscaling={"minReplicas": 0}))
    await until_condition(kube, home, "good", "Ready", "True", "ScaledToZero")
    for number in range(20):
        await until_condition(kube, home, f"bad-{number}", "Accepted", "False", "Rejected")
        await until_condition(kube, home, f"folder-{number}", "Accepted", "False", "InvalidSource")
    assert operator.running()


async def test_a_smaller_size_after_auto_keeps_the_volume(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "shrunk", model(cache={"size": "auto"}))
    await until_children(kube, home, "shrunk")
    before = (await kube.get(CLAIMS, home, "ams-shrunk")).spec["resources"]
    await kube.merge(MODELS, home, "shrunk", {"spec": {"cache": {"size": "1Gi"}, "limits": {"maxNewTokens": 9}}})
    await until(kube, DEPLOYMENTS, home, lambda objects: '"9"' in str(objects["ams-shrunk"].spec).replace("'", '"'))
    assert (await kube.get(CLAIMS, home, "ams-shrunk")).spec["resources"] == before
    await until_condition(kube, home, "shrunk", "Accepted", "True", "Valid")
