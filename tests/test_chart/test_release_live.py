"""Installing, upgrading and removing releases on a real API server: the CRD outlives them, and is in nobody's way."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ams_common.names import GROUP, PLURAL
from ams_kube.client import Client
from ams_kube.errors import Forbidden
from ams_kube.kinds import Kind
from ams_kube.objects import SECRETS, SecretObject
from ams_kube.reflector import Reflector
from ams_operator.act.first_key import FirstKey
from kube_cluster import DEFINITIONS, Anything, ControlPlane, bring_up
from test_chart.chart import CHART, HELM, needs_helm

pytestmark = needs_helm

CRD = f"{PLURAL}.{GROUP}"
Helm = Callable[..., str]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A cluster that has no CRD of ours yet."""
    with bring_up() as plane:
        yield plane


@pytest.fixture
def run(plane: ControlPlane) -> Helm:
    def run(*arguments: str) -> str:
        assert HELM is not None
        environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig)}
        done = subprocess.run([HELM, *arguments], env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


async def owner(plane: ControlPlane) -> str | None:
    """The release that the CRD belongs to."""
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        found = await client.get(DEFINITIONS, None, CRD)
        return found.metadata.annotations.get("meta.helm.sh/release-name")


async def test_a_release_of_another_name_comes_after_the_first_one_went(plane: ControlPlane, run: Helm) -> None:
    said = run("install", "first", str(CHART), "--namespace", "one", "--create-namespace")
    assert "was there already" not in said
    assert await owner(plane) == "first"
    run("upgrade", "first", str(CHART), "--namespace", "one", "--set", "gateway.holdLimit=7")
    assert await owner(plane) == "first", "an upgrade goes on renewing it"
    run("uninstall", "first", "--namespace", "one")
    assert await owner(plane) == "first", "it stays"
    said = run("install", "second", str(CHART), "--namespace", "two", "--create-namespace")
    assert "belongs to the release first in one: it is left as it is" in said
    said = run("upgrade", "second", str(CHART), "--namespace", "two")
    assert "kubectl apply --server-side --force-conflicts -f crds/modeldeployments.yaml" in said
    run("uninstall", "second", "--namespace", "two")
    assert await owner(plane) == "first"


async def test_a_release_comes_beside_a_crd_of_kubectl(plane: ControlPlane, run: Helm) -> None:
    from ams_common import crd

    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        await client.delete(DEFINITIONS, None, CRD)
        async with asyncio.timeout(60):  # its resources go first
            while CRD in {each.metadata.name for each in await client.list(DEFINITIONS)}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await client.apply(DEFINITIONS, None, CRD, crd.definition(), manager="kubectl")
    said = run("install", "third", str(CHART), "--namespace", "three", "--create-namespace")
    assert "belongs to kubectl: it is left as it is" in said
    assert await owner(plane) is None
    run("uninstall", "third", "--namespace", "three")


REVIEWS = Kind("authorization.k8s.io/v1", "SubjectAccessReview", "subjectaccessreviews", Anything)


async def may(client: Client, account: str, verb: str, namespace: str, name: str) -> bool:
    """Whether a ServiceAccount of the release may do this with a Secret."""
    asked = {"verb": verb, "resource": "secrets", "namespace": namespace, "name": name}
    user = f"system:serviceaccount:three:keyed-ai-model-server-{account}"
    body = {"spec": {"user": user, "resourceAttributes": asked}}
    return bool((await client.create(REVIEWS, None, body)).status["allowed"])


async def as_account(plane: ControlPlane, client: Client, account: str, folder: Path) -> Client:
    """A client with nothing but the rights of a ServiceAccount of the release."""
    path = f"/api/v1/namespaces/three/serviceaccounts/keyed-ai-model-server-{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = json.loads(await client.request("POST", path, body=body))["status"]["token"]
    config = yaml.safe_load(plane.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    (folder / account).write_text(yaml.safe_dump(config))
    return await Client.connect("tests", kubeconfig=str(folder / account))


async def test_with_these_rights_the_operator_makes_the_secret_and_a_gateway_follows_it(
    plane: ControlPlane, run: Helm, tmp_path: Path
) -> None:
    run("install", "keyed", str(CHART), "--namespace", "three", "--create-namespace")
    name = "keyed-ai-model-server-keys"
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        async with await as_account(plane, client, "gateway", tmp_path) as gateway:
            seen: asyncio.Queue[SecretObject] = asyncio.Queue()
            fields = f"metadata.name={name}"
            watch = Reflector(gateway, SECRETS, seen.put_nowait, lambda key: None, namespace="three", fields=fields)
            following = asyncio.create_task(watch.run())
            async with asyncio.timeout(10), await as_account(plane, client, "operator", tmp_path) as operator:
                await watch.synced.wait()
                await FirstKey(operator, f"three/{name}").ensure()
                assert (await seen.get()).entry("keys.json") is not None
                await FirstKey(operator, f"three/{name}").ensure()
            with pytest.raises(Forbidden):
                await gateway.list(SECRETS, "three")
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        run("uninstall", "keyed", "--namespace", "three")
        assert (await client.get(SECRETS, "three", name)).entry("first-key") is not None, "it outlives the release"


async def test_who_may_touch_the_secret_with_the_keys_and_how_to_read_it(plane: ControlPlane, run: Helm) -> None:
    said = run("install", "keyed", str(CHART), "--namespace", "three", "--create-namespace")
    name = "keyed-ai-model-server-keys"
    assert f"KEY=$(kubectl get secret -n three {name} -o jsonpath='{{.data.first-key}}' | base64 -d)" in said
    assert 'curl http://127.0.0.1:5000/generate/smollm2 -H "Authorization: Bearer $KEY" -H' in said
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        allowed = {
            (account, verb, namespace, secret)
            for account in ("operator", "gateway")
            for verb in ("get", "list", "watch", "create", "update", "patch", "delete")
            for namespace in ("three", "default")
            for secret in (name, "other")
            if await may(client, account, verb, namespace, secret)
        }
        assert allowed == {
            ("operator", "get", "three", name),
            ("operator", "create", "three", name),
            ("operator", "create", "three", "other"),
            *(("gateway", verb, "three", name) for verb in ("get", "list", "watch")),
        }
    said = run("upgrade", "keyed", str(CHART), "--namespace", "three", "--set", "gateway.auth.anonymous=true")
    assert "No API keys are configured (gateway.auth.anonymous)" in said
    assert "KEY" not in said
    said = run("upgrade", "keyed", str(CHART), "--namespace", "three", "--set", "gateway.auth.existingSecret=mine")
    assert "one of the Secret mine, entry keys.json" in said
    run("uninstall", "keyed", "--namespace", "three")
