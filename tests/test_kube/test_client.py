"""Requests to a real API server: what is sent, what comes back, what is refused in whose words."""

import pytest
from ams_kube.client import Client, NoCluster
from ams_kube.errors import AlreadyExists, Conflict, Invalid, NotFound, Unavailable, error_of_answer
from ams_kube.kinds import Kind
from kube_cluster import Anything

MAPS = Kind("v1", "ConfigMap", "configmaps", Anything)


async def test_apply_creates_and_changes_and_says_who_owns_the_object(kube: Client, namespace: str) -> None:
    made = await kube.apply(MAPS, namespace, "a", {"data": {"x": "1", "y": "2"}}, manager="one")
    assert (made.metadata.name, made.metadata.namespace, made.data) == ("a", namespace, {"x": "1", "y": "2"})
    changed = await kube.apply(MAPS, namespace, "a", {"data": {"x": "3"}}, manager="one")
    assert changed.data == {"x": "3"}, "a field that isn't named any more is removed"
    same = await kube.apply(MAPS, namespace, "a", {"data": {"x": "3"}}, manager="one")
    assert same.metadata.resource_version == changed.metadata.resource_version
    assert (await kube.get(MAPS, namespace, "a")).data == {"x": "3"}


async def test_apply_with_a_uid_leaves_another_object_alone(kube: Client, namespace: str) -> None:
    await kube.apply(MAPS, namespace, "a", {"data": {"x": "theirs"}}, manager="user")
    with pytest.raises(Conflict, match="uid"):
        await kube.apply(MAPS, namespace, "a", {"metadata": {"uid": "0-0"}, "data": {"x": "ours"}}, manager="one")
    assert (await kube.get(MAPS, namespace, "a")).data == {"x": "theirs"}


async def test_refusals_are_typed_and_in_the_servers_words(kube: Client, namespace: str) -> None:
    with pytest.raises(NotFound, match='configmaps "a" not found'):
        await kube.get(MAPS, namespace, "a")
    with pytest.raises(Invalid, match="lowercase RFC 1123"):
        await kube.create(MAPS, namespace, {"metadata": {"name": "A_"}})
    made = await kube.create(MAPS, namespace, {"metadata": {"name": "a"}})
    with pytest.raises(AlreadyExists, match="already exists"):
        await kube.create(MAPS, namespace, {"metadata": {"name": "a"}})
    body = {"metadata": {"name": "a", "resourceVersion": "1"}}
    with pytest.raises(Conflict, match="the object has been modified"):
        await kube.replace(MAPS, namespace, "a", body)
    with pytest.raises(Conflict, match="UID"):
        await kube.delete(MAPS, namespace, "a", uid="0-0")
    await kube.delete(MAPS, namespace, "a", uid=made.metadata.uid)
    with pytest.raises(NotFound):
        await kube.delete(MAPS, namespace, "a")


async def test_merge_changes_only_what_it_names(kube: Client, namespace: str) -> None:
    await kube.create(MAPS, namespace, {"metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}})
    assert (await kube.merge(MAPS, namespace, "a", {"data": {"x": None, "z": "3"}})).data == {"y": "2", "z": "3"}


async def test_lists_come_in_pages_and_by_labels(kube: Client, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_kube.client._PAGE", 2)
    for name in "abcde":
        label = {"team": "odd" if name in "ace" else "even"}
        await kube.create(MAPS, namespace, {"metadata": {"name": name, "labels": label}})
    pages = [len(page.raw) async for page in kube.pages(MAPS, namespace, labels="team")]
    assert pages == [2, 2, 1]
    assert [each.metadata.name for each in await kube.list(MAPS, namespace, labels="team=odd")] == ["a", "c", "e"]


async def test_without_a_cluster_the_message_says_what_was_looked_for() -> None:
    with pytest.raises(NoCluster, match="/nowhere/kubeconfig: no cluster is configured"):
        await Client.connect("tests", kubeconfig="/nowhere/kubeconfig")


def test_answers_that_are_no_status_are_told_as_they_are() -> None:
    error = error_of_answer(503, b"<html>upstream is gone", "2")
    assert isinstance(error, Unavailable)
    assert (str(error), error.status, error.retry_after) == ("<html>upstream is gone", 503, 2.0)
    assert str(error_of_answer(429, b"")) == "the API server answered 429"
