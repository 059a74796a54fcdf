"""The first API key: made once by the operator that leads, and never touched again."""

import asyncio
import logging
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from ams_common.keys import Scope, hash_of, read_keys
from ams_kube.client import Client
from ams_kube.errors import Forbidden, NotFound
from ams_kube.objects import SECRETS, SecretObject
from ams_operator.act.first_key import FirstKey
from kube_cluster import ControlPlane
from operator_process import operating


async def secret(kube: Client, namespace: str, name: str = "keys") -> SecretObject:
    async with asyncio.timeout(20):
        while True:
            try:
                return await kube.get(SECRETS, namespace, name)
            except NotFound:
                await asyncio.sleep(0.05)


async def test_made_once_and_kept_by_later_operators(
    control_plane: ControlPlane, kube: Client, namespace: str, tmp_path: Path
) -> None:
    where = f"{namespace}/keys"
    with operating(control_plane, tmp_path / "log", namespace, keys_secret=where, lease_name="a") as process:
        made = await secret(kube, namespace)
        text = await asyncio.to_thread(process.until_logged, "made the Secret")
    key = (made.entry("first-key") or b"").decode()
    [stored] = read_keys(made.entry("keys.json") or b"").keys
    assert (stored.name, set(stored.scopes)) == ("first", set(Scope))
    assert stored.secrets[0].sha256 == hash_of(key)
    assert made.metadata.owner_references == []
    assert made.metadata.labels["app.kubernetes.io/managed-by"] == "ams-operator"
    assert key not in text
    assert stored.secrets[0].sha256 not in text
    with operating(control_plane, tmp_path / "log2", namespace, keys_secret=where, lease_name="b"):
        await asyncio.sleep(1.0)
    assert (await secret(kube, namespace)).metadata.resource_version == made.metadata.resource_version


async def test_one_that_is_there_stays_whatever_it_holds(kube: Client, namespace: str) -> None:
    body = {"metadata": {"name": "keys"}, "data": {"other": b64encode(b"x").decode()}}
    before = await kube.create(SECRETS, namespace, body)
    await FirstKey(kube, f"{namespace}/keys").ensure()
    after = await kube.get(SECRETS, namespace, "keys")
    assert after.metadata.resource_version == before.metadata.resource_version
    assert {name: b64decode(value) for name, value in (after.data or {}).items()} == {"other": b"x"}


async def test_two_leaders_make_one(kube: Client, namespace: str) -> None:
    await asyncio.gather(*(FirstKey(kube, f"{namespace}/keys").ensure() for _ in range(8)))
    made = await kube.get(SECRETS, namespace, "keys")
    assert hash_of((made.entry("first-key") or b"").decode()).encode() in (made.entry("keys.json") or b"")


async def test_a_role_that_lacks_the_right_is_told_and_tried_again(
    kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ams_operator.act.first_key._FIRST_WAIT_SECONDS", 0.05)
    create = kube.create
    refusals = iter([Forbidden("secrets is forbidden", status=403)] * 2)

    async def refuse(*arguments: object) -> object:
        for error in refusals:
            raise error
        return await create(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(kube, "create", refuse)
    with caplog.at_level(logging.INFO):
        task = asyncio.create_task(FirstKey(kube, f"{namespace}/keys").run())
        made = await secret(kube, namespace)
        await asyncio.sleep(0.1)
        task.cancel()
    told = [record.getMessage() for record in caplog.records if "first API key" in record.getMessage()]
    assert ["can't be made" in line for line in told] == [True, True, False]
    assert (made.entry("first-key") or b"?").decode() not in caplog.text
