"""LoRA adapters of a model: what its pods are told of them, where they lie, and what changes with them."""

import hashlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import test_groups
from aiohttp import web
from ams_common import labels
from ams_common.adapters import AdapterSettings, asked_digest
from ams_common.admin import PodAdapter, PodModel
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment
from ams_common.source import parse_source
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_kube.objects import EVENT_NOTES, EventNote
from ams_operator.decide.children.containers import SERVE_PORT
from ams_operator.decide.children.volume import volume_bytes
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import plan
from ams_operator.settings import OperatorSettings
from kube_cluster import Anything
from models import (
    DEPLOYMENTS,
    DOWNLOADED,
    MODELS,
    condition,
    container,
    create,
    model,
    pod_of,
    report,
    until,
    until_condition,
)
from operator_process import OperatorProcess
from plan_objects import NOW, SETTINGS, as_applied, resource

HUB = "hf://acme/tiny"
GIB = 1 << 30
SQL = {"name": "sql", "source": "hf://acme/sql-lora@v1"}
FRENCH = {"name": "french", "source": "hf://acme/french-lora"}
GGUF = "hf://acme/tiny?file=tiny.gguf"
GGUF_SQL = {"name": "sql", "source": "hf://acme/sql?file=sql.gguf"}
VLLM = {"name": "vllm", "image": "vllm:1"}
SGLANG = {"name": "sglang", "image": "sglang:1"}
LLAMA = {"name": "llamacpp", "image": "llama:1"}


def decided(given: ModelDeployment, settings: OperatorSettings = SETTINGS) -> Decision:
    return plan(Observed(given), settings, NOW)


def template(decision: Decision) -> dict[str, Any]:
    deployment = next(each for each in decision.apply if each["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]
    return found


def kinds(decision: Decision) -> dict[str, Any]:
    return {each["kind"]: each for each in decision.apply}


def containers(decision: Decision) -> dict[str, dict[str, Any]]:
    spec = template(decision)["spec"]
    return {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}


def variable(container: dict[str, Any], name: str) -> str:
    return next((each["value"] for each in container["env"] if each["name"] == name), "")


def accepted(decision: Decision) -> tuple[str, str, str]:
    found = next(each for each in decision.status.conditions or () if each.type == "Accepted")
    return found.status, found.reason, found.message


def test_download_and_serve_are_told_of_adapters_and_the_engine_of_their_links() -> None:
    """Of an engine that has them from its start to its end."""
    made = containers(decided(resource(GGUF, engine=LLAMA, adapters=[GGUF_SQL])))
    for name in ("download", "serve"):
        assert json.loads(variable(made[name], "AMS_ADAPTERS")) == [GGUF_SQL]
    command = made["engine"]["command"]
    assert command[command.index("--lora") + 1] == "/run/ams/adapters/sql.gguf"
    assert made.keys() == {"download", "serve", "engine"}
    assert "ConfigMap" not in kinds(decided(resource(GGUF, engine=LLAMA, adapters=[GGUF_SQL])))


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_a_list_that_changes_is_a_file_that_pods_mount(engine: dict[str, str]) -> None:
    """It is told in one place, of which the pods' template knows nothing but where it is."""
    decision = decided(resource(HUB, engine=engine, adapters=[SQL, FRENCH], model={"tokenSecretRef": {"name": "hub"}}))
    found = kinds(decision)["ConfigMap"]
    assert json.loads(found["data"]["adapters.json"]) == [SQL, FRENCH]
    assert found["metadata"]["name"] == "ams-tiny"
    assert found["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    names = [each["kind"] for each in decision.apply]
    assert names.index("ConfigMap") < names.index("Deployment")
    spec, made = template(decision)["spec"], containers(decision)
    assert {"name": "adapters", "configMap": {"name": "ams-tiny"}} in spec["volumes"]
    for name in ("download", "adapters"):
        assert {"name": "adapters", "mountPath": "/etc/ams", "readOnly": True} in made[name]["volumeMounts"]
        assert variable(made[name], "AMS_ADAPTERS_FILE") == "/etc/ams/adapters.json"
        assert "HF_TOKEN" in {each["name"] for each in made[name]["env"]}
    assert made["adapters"]["command"] == ["ams-pod", "adapters"]
    assert "ports" not in made["adapters"]
    assert variable(made["adapters"], "AMS_PROGRESS_PORT") == "-1"
    assert variable(made["serve"], "AMS_ADAPTERS_STATE") == "/run/ams/adapters/state.json"
    assert "HF_TOKEN" not in {each["name"] for each in (*made["serve"]["env"], *made["engine"]["env"])}
    shown = json.dumps(template(decision))
    assert "sql" not in shown
    assert "french" not in shown


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
@pytest.mark.parametrize("more", [{}, {"cache": {"perReplica": True}}])
def test_another_list_is_no_rollout(engine: dict[str, str], more: dict[str, Any]) -> None:
    lists = [
        [SQL],
        [SQL, FRENCH],
        [FRENCH],
        [{**SQL, "source": "hf://acme/other"}],
        [{**SQL, "lock": {"adapter_model.safetensors": "0" * 64}}],
        [{"name": "wheeled", "source": "wheel://weights==1.0/loras/a"}],
    ]
    made = [decided(resource(HUB, engine=engine, adapters=adapters, **more)) for adapters in lists]
    assert all(kinds(each)["Deployment"] == kinds(made[0])["Deployment"] for each in made)
    assert len({kinds(each)["ConfigMap"]["data"]["adapters.json"] for each in made}) == len(lists)


def test_a_deployment_that_is_applied_stays_as_it_is_when_the_list_changes() -> None:
    before = decided(resource(HUB, engine=VLLM, adapters=[SQL]))
    given = resource(HUB, engine=VLLM, adapters=[SQL, FRENCH])
    after = plan(Observed(given, children={each["kind"]: as_applied(each) for each in before.apply}), SETTINGS, NOW)
    assert [each["kind"] for each in after.apply] == ["ConfigMap"]
    assert not after.remove


def test_what_takes_another_start_of_the_engine_is_a_rollout() -> None:
    def made(**spec: Any) -> Any:
        decision = decided(resource(HUB, **{"engine": VLLM, "adapters": [SQL], **spec}))
        return template(decision), "ConfigMap" in kinds(decision)

    plain, alone = made()
    assert alone
    assert made(adapters=[]) == (made(adapters=[])[0], False)
    assert made(adapters=[])[0] != plain
    assert made(engine={**VLLM, "args": ["--max-lora-rank", "64"]})[0] != plain
    assert made(adapters=[SQL, {"name": "a", "source": "pvc://claim/a"}])[0] != plain
    # Several servers of one engine, of which one alone would know of an adapter.
    for args in (["--api-server-count=2"], ["--data-parallel-size", "2"]):
        fixed, has = made(engine={**VLLM, "args": args})
        assert not has
        assert (
            "--lora-modules"
            in next(each for each in fixed["spec"]["containers"] if each["name"] == "engine")["command"]
        )


def test_a_pod_that_only_downloads_fetches_those_of_the_list_and_ends_there() -> None:
    spec = {"cache": {"prefetch": True, "size": "1Gi"}, "autoscaling": {"minReplicas": 0}}
    made = containers(decided(resource(HUB, engine=VLLM, adapters=[SQL], **spec)))
    assert made.keys() == {"download", "serve"}
    assert variable(made["download"], "AMS_ADAPTERS_FILE") == "/etc/ams/adapters.json"


def test_a_list_that_is_empty_again_leaves_nothing() -> None:
    before = decided(resource(HUB, engine=VLLM, adapters=[SQL]))
    after = plan(
        Observed(resource(HUB, engine=VLLM), children={each["kind"]: as_applied(each) for each in before.apply}),
        SETTINGS,
        NOW,
    )
    assert after.remove == ("ConfigMap",)


def test_claims_of_adapters_keep_their_place_whatever_others_come() -> None:
    def told(*adapters: tuple[str, str]) -> dict[str, str]:
        given = [{"name": name, "source": source} for name, source in adapters]
        found = kinds(decided(resource(HUB, engine=VLLM, adapters=given)))["ConfigMap"]
        return {each["name"]: each["source"] for each in json.loads(found["data"]["adapters.json"])}

    alone = told(("b", "pvc://second/b"))["b"]
    assert alone.startswith("file:///source-")
    assert told(("a", "pvc://first/a"), ("b", "pvc://second/b"))["b"] == alone


def test_the_engine_starts_with_the_rank_that_the_download_found(tmp_path: Path) -> None:
    """The command as the kubelet would run it, with another program in the place of the engine's."""
    made = containers(decided(resource(HUB, engine={**VLLM, "args": ["--x", "a  b$(HOME)"]}, adapters=[SQL])))
    shell, flag, script, name, *words = (word.replace("$$", "$") for word in made["engine"]["command"])
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "max-lora-rank").write_text("64")
    script = script.replace("/run/ams", str(tmp_path)).replace("tee -a", "cat >>")
    show = ["/bin/sh", "-c", 'for each do echo "[$each]"; done', "engine"]
    subprocess.run([shell, flag, script, name, *show, *words], check=True, timeout=30)
    log, deadline = tmp_path / "engine.log", time.monotonic() + 20
    while not log.exists() or len(shown := log.read_text().splitlines()) < len(words):  # what copies it may be later
        assert time.monotonic() < deadline
        time.sleep(0.01)
    at = shown.index("[--max-lora-rank]")
    assert shown[at + 1] == "[64]"
    assert "[a  b$(HOME)]" in shown
    assert len(shown) == len(words)


def test_an_engine_without_adapters_starts_as_ever() -> None:
    made = containers(decided(resource(HUB, engine=VLLM)))
    assert "max-lora-rank" not in "".join(made["engine"]["command"])
    assert not variable(made["serve"], "AMS_ADAPTERS")


def test_adapters_on_volumes_are_mounted_where_they_are_read() -> None:
    adapters = [
        {"name": "a", "source": "pvc://weights/adapters/a"},
        {"name": "b", "source": "pvc://others/b"},
        {"name": "c", "source": "pvc://others/c"},
    ]
    made = decided(resource("pvc://weights/base", engine=VLLM, adapters=adapters))
    others = f"source-{hashlib.sha256(b'others').hexdigest()[:8]}"
    volumes = template(made)["spec"]["volumes"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each
    }
    assert claims == {"source": "weights", others: "others"}
    for made_container in containers(made).values():
        mounts = {each["name"]: each["mountPath"] for each in made_container["volumeMounts"]}
        assert (mounts["source"], mounts[others]) == ("/source", f"/{others}")
    told = json.loads(kinds(made)["ConfigMap"]["data"]["adapters.json"])
    assert [each["source"] for each in told] == [
        "file:///source/adapters/a", f"file:///{others}/b", f"file:///{others}/c"
    ]  # fmt: skip


def test_other_adapters_are_another_download_and_another_template() -> None:
    def digest(**spec: Any) -> str:
        found: str = template(decided(resource(GGUF, engine=LLAMA, **spec)))["metadata"]["annotations"][labels.WEIGHTS]
        return found

    other = {**GGUF_SQL, "name": "other"}
    renamed = {**GGUF_SQL, "source": "hf://acme/other?file=sql.gguf"}
    assert len({digest(), digest(adapters=[GGUF_SQL]), digest(adapters=[renamed])}) == 3
    assert digest(adapters=[GGUF_SQL, other]) == digest(adapters=[other, GGUF_SQL])


@pytest.mark.parametrize(
    ("engine", "adapter", "reason", "words"),
    [
        ({"name": "builtin"}, SQL, Reason.UNSUPPORTED_BY_ENGINE, "spec.adapters: the builtin engine applies none"),
        ({"name": "auto"}, SQL, Reason.UNSUPPORTED_BY_ENGINE, "it was chosen because no GPU is asked for"),
        (VLLM, {"name": "a", "source": "file:///srv/a"}, Reason.INVALID_SOURCE, "spec.adapters[0].source: file:///"),
        (
            VLLM,
            {"name": "a", "source": "hf://a/b?file=a.gguf"},
            Reason.UNSUPPORTED_BY_ENGINE,
            "spec.adapters[0].source",
        ),
    ],
)
def test_what_cannot_be_served_is_said(
    engine: dict[str, str], adapter: dict[str, str], reason: str, words: str
) -> None:
    status, why, message = accepted(decided(resource(HUB, engine=engine, adapters=[adapter])))
    assert (status, why) == ("False", reason)
    assert words in message


def test_the_volume_has_room_for_adapters() -> None:
    given = resource(HUB, cache={"size": "auto"}, engine=VLLM, adapters=[SQL, FRENCH])
    without = msgspec.structs.replace(given, spec=msgspec.structs.replace(given.spec, adapters=[]))
    source = parse_source(HUB)
    assert volume_bytes(given, source, 5 * GIB, None) == volume_bytes(without, source, 5 * GIB, None) + 2 * GIB


def test_adapters_of_a_hub_are_kept_for_a_model_that_has_a_volume_of_its_own() -> None:
    def claims(**spec: Any) -> list[Any]:
        made = decided(resource("pvc://weights/base", cache={"size": "auto"}, engine=VLLM, **spec))
        return [each for each in made.apply if each["kind"] == "PersistentVolumeClaim"]

    assert claims() == claims(adapters=[{"name": "a", "source": "pvc://weights/a"}]) == []
    [claim] = claims(adapters=[SQL, FRENCH])
    assert claim["spec"]["resources"]["requests"] == {"storage": "2Gi"}


async def test_an_api_server_takes_the_pod(kube: Client, home: str, operator: OperatorProcess) -> None:
    adapters = [{"name": name, "source": f"pvc://adapters/{name}?file={name}.gguf"} for name in ("sql", "french")]
    engine = {"name": "llamacpp", "image": "llama:test"}
    await create(kube, home, "adapted", model(engine=engine, adapters=adapters))
    await pod_of(kube, home, "adapted")
    made: Any = (await kube.get(DEPLOYMENTS, home, "ams-adapted")).spec["template"]
    mounts = [each["mountPath"] for each in made["spec"]["containers"][1]["volumeMounts"]]
    assert f"/source-{hashlib.sha256(b'adapters').hexdigest()[:8]}" in mounts
    await until_condition(kube, home, "adapted", "Accepted", "True", "Valid")


CONFIG_MAPS = Kind("v1", "ConfigMap", "configmaps", Anything)
POD_ADDRESS = "127.77.0.1"  # where the stand-in for a pod answers


@asynccontextmanager
async def a_pods_server(told: list[PodAdapter]) -> AsyncIterator[None]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(PodModel(adapters=told)), content_type="application/json")

    app = web.Application()
    app.router.add_get("/admin/model_status", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, POD_ADDRESS, SERVE_PORT).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def test_another_list_reaches_pods_that_run_and_what_becomes_of_it_is_told(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    def told(name: str, source: str, state: str, message: str = "") -> PodAdapter:
        asked = asked_digest(AdapterSettings(name, source))
        return PodAdapter(
            name=name, state=state, asked=asked, reason="ModelNotFound" if message else "", message=message
        )

    async def listed(*names: str) -> Any:
        def holds(objects: dict[str, Any]) -> bool:
            found = objects.get("ams-lists")
            return found is not None and [each["name"] for each in json.loads(found.data["adapters.json"])] == [*names]

        return await until(kube, CONFIG_MAPS, home, holds)

    def is_told(note: EventNote) -> bool:
        return note.reason == "AdapterFailed" and "There is no acme/none." in note.message

    said = [told("sql", "hf://acme/sql", "ready")]
    engine = {"name": "vllm", "image": "vllm:test"}
    first = [{"name": "sql", "source": "hf://acme/sql"}]
    async with a_pods_server(said):
        await create(kube, home, "lists", model("hf://acme/tiny", engine=engine, adapters=first))
        await listed("sql")
        pod = await pod_of(kube, home, "lists")
        before: Any = await kube.get(DEPLOYMENTS, home, "ams-lists")
        running = [container(name, ready=True, running={}) for name in ("serve", "engine", "adapters")]
        conditions = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready", "ContainersReady")]
        await report(
            kube, pod, initContainerStatuses=[DOWNLOADED], containerStatuses=running, conditions=conditions,
            podIP=POD_ADDRESS, podIPs=[{"ip": POD_ADDRESS}], phase="Running",
        )  # fmt: skip
        await until_condition(kube, home, "lists", "AdaptersReady", "True", "AdaptersLoaded")
        both = [*first, {"name": "typo", "source": "hf://acme/none"}]
        await kube.request(
            "PATCH", MODELS.path(home, "lists"), body={"spec": {"adapters": both}},
            content_type="application/merge-patch+json",
        )  # fmt: skip
        await listed("sql", "typo")
        await until_condition(kube, home, "lists", "AdaptersReady", "Unknown", "AdaptersLoading", "typo")
        said.append(told("typo", "hf://acme/none", "failed", "There is no acme/none."))
        found = await until_condition(kube, home, "lists", "AdaptersReady", "False", "AdapterFailed", "no acme/none")
        assert found.status is not None
        states = [(each.name, each.state, each.message) for each in found.status.adapters or ()]
        assert states == [("sql", "Ready", None), ("typo", "Failed", "There is no acme/none.")]
        assert condition(found, "Ready") is not None
        assert condition(found, "Ready").status == "True"  # type: ignore[union-attr]
        await until(kube, EVENT_NOTES, home, lambda objects: any(map(is_told, objects.values())))
        after: Any = await kube.get(DEPLOYMENTS, home, "ams-lists")
        assert after.metadata.generation == before.metadata.generation
        assert after.spec["template"] == before.spec["template"]
        assert (await pod_of(kube, home, "lists")).metadata.uid == pod.metadata.uid


def test_every_node_of_a_large_model_gets_the_adapters() -> None:
    group = test_groups.template(test_groups.decided(test_groups.giant(adapters=[SQL])))
    for template, role in (("leaderTemplate", "leader"), ("workerTemplate", "worker")):
        spec = group[template]["spec"]
        assert json.loads(variable(spec["initContainers"][0], "AMS_ADAPTERS")) == [SQL], role
        command = next(each for each in spec["containers"] if each["name"] == "engine")["command"]
        assert command[:2] == ["/bin/sh", "-c"]
        assert "max-lora-rank" in command[2]
        assert ("--headless" in command) == (role == "worker")
        name = json.dumps({"name": "tiny:sql", "path": "/run/ams/adapters/sql"})
        assert name in command
