"""`ams keys -k`: keys in a Secret of a real cluster."""

import asyncio
import os
import sys
from base64 import b64decode, b64encode

import pytest
from ams_cli.key_file import StoreError
from ams_cli.key_secret import SecretStore
from ams_common import key_changes
from ams_common.keys import KeyFile, Policy, hash_of, read_keys, write_keys
from ams_common.labels import KEYS_SECRET
from ams_kube.client import Client
from ams_kube.objects import SECRETS, SERVICES
from kube_cluster import ControlPlane

NOW = 1_800_000_000.0


def with_key(file: KeyFile, name: str) -> KeyFile:
    policy = Policy(id=f"k-{name}", name=name)
    return key_changes.create(file, policy, f"ams-key-{name}", NOW, None)


async def ams(plane: ControlPlane, *arguments: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AMS_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ams_cli.main", "keys", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment | {"KUBECONFIG": str(plane.kubeconfig)},
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def data(kube: Client, namespace: str, name: str) -> dict[str, bytes]:
    secret = await kube.get(SECRETS, namespace, name)
    return {entry: b64decode(value) for entry, value in (secret.data or {}).items()}


async def gateway_service(kube: Client, namespace: str, annotations: dict[str, str]) -> None:
    labels = {"app.kubernetes.io/part-of": "ai-model-server", "app.kubernetes.io/component": "gateway"}
    body = {
        "metadata": {"name": "r-gateway", "labels": labels, "annotations": annotations},
        "spec": {"ports": [{"port": 80}]},
    }
    await kube.create(SERVICES, namespace, body)


async def test_the_releases_secret_is_found_made_and_changed(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    code, out, err = await ams(control_plane, "list", "-k", "-n", namespace)
    assert (code, out) == (1, "")
    assert "is the chart installed?" in err
    await gateway_service(kube, namespace, {KEYS_SECRET: "r-keys"})
    code, out, err = await ams(control_plane, "create", "--name", "team-a", "-k", "-n", namespace)
    assert (code, f"Made the Secret {namespace}/r-keys." in err) == (0, True)
    key = out.strip()
    [stored] = read_keys((await data(kube, namespace, "r-keys"))["keys.json"]).keys
    assert stored.secrets[0].sha256 == hash_of(key)
    code, out, _ = await ams(control_plane, "list", "-k", "-n", namespace)
    assert (code, "team-a" in out) == (0, True)
    code, _, err = await ams(control_plane, "revoke", "team-a", "-k", "-n", namespace)
    assert (code, "within 2 s" in err) == (0, True)
    assert read_keys((await data(kube, namespace, "r-keys"))["keys.json"]).keys == ()


async def test_gateways_that_take_everybody_have_no_secret(
    control_plane: ControlPlane, kube: Client, namespace: str
) -> None:
    await gateway_service(kube, namespace, {})
    code, _, err = await ams(control_plane, "create", "--name", "a", "-k", "-n", namespace)
    assert (code, "gateway.auth.anonymous" in err) == (1, True)
    code, _, _ = await ams(control_plane, "create", "--name", "a", "-k", "-n", namespace, "--secret", "mine")
    assert code == 0
    assert set(await data(kube, namespace, "mine")) == {"keys.json"}


async def test_two_writers_lose_nothing(kube: Client, namespace: str) -> None:
    stores = [SecretStore(kube, namespace, "keys") for _ in range(8)]

    async def write(store: SecretStore, number: int) -> None:
        await store.change(lambda file: with_key(file, f"n{number}"))

    await asyncio.gather(*(write(store, number) for number, store in enumerate(stores)))
    keys = read_keys((await data(kube, namespace, "keys"))["keys.json"]).keys
    assert {each.name for each in keys} == {f"n{number}" for number in range(8)}


async def test_other_entries_stay_and_a_first_key_that_is_gone_is_forgotten(kube: Client, namespace: str) -> None:
    file = with_key(with_key(KeyFile(), "first"), "b")
    entries = {"keys.json": write_keys(file), "first-key": b"ams-key-first", "notes": b"ours"}
    body = {"metadata": {"name": "keys"}, "data": {name: b64encode(value).decode() for name, value in entries.items()}}
    await kube.create(SECRETS, namespace, body)
    store = SecretStore(kube, namespace, "keys")
    await store.change(lambda file: key_changes.revoke(file, ["b"]))
    assert (await data(kube, namespace, "keys")).items() >= {"first-key": b"ams-key-first", "notes": b"ours"}.items()
    await store.change(lambda file: key_changes.revoke(file, ["first"]))
    assert (store.forgot_first_key, set(await data(kube, namespace, "keys"))) == (True, {"keys.json", "notes"})


async def test_what_is_broken_is_left_alone(kube: Client, namespace: str) -> None:
    body = {"metadata": {"name": "keys"}, "data": {"keys.json": b64encode(b"{").decode()}}
    await kube.create(SECRETS, namespace, body)
    with pytest.raises(StoreError, match="left as it is"):
        await SecretStore(kube, namespace, "keys").change(lambda file: with_key(file, "a"))
    assert (await data(kube, namespace, "keys"))["keys.json"] == b"{"


async def test_a_namespace_that_is_not_there(kube: Client) -> None:
    with pytest.raises(StoreError, match="not found"):
        await SecretStore(kube, "nowhere", "keys").change(lambda file: with_key(file, "a"))


async def test_more_than_one_release(control_plane: ControlPlane, kube: Client, namespace: str) -> None:
    for name in ("a", "b"):
        labels = {"app.kubernetes.io/part-of": "ai-model-server", "app.kubernetes.io/component": "gateway"}
        body = {"metadata": {"name": f"{name}-gateway", "labels": labels}, "spec": {"ports": [{"port": 80}]}}
        await kube.create(SERVICES, namespace, body)
    code, _, err = await ams(control_plane, "list", "-k", "-n", namespace)
    assert (code, "more than one gateway" in err) == (1, True)
