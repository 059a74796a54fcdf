"""LoRA adapters of a model: what its pods are told of them, where they lie, and what changes with them."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import test_groups
from ams_common import labels
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment
from ams_common.source import parse_source
from ams_kube.client import Client
from ams_operator.decide.children.volume import volume_bytes
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import plan
from ams_operator.settings import OperatorSettings
from models import DEPLOYMENTS, create, model, pod_of, until_condition
from operator_process import OperatorProcess
from plan_objects import NOW, SETTINGS, resource

HUB = "hf://acme/tiny"
GIB = 1 << 30
SQL = {"name": "sql", "source": "hf://acme/sql-lora@v1"}
FRENCH = {"name": "french", "source": "hf://acme/french-lora"}
VLLM = {"name": "vllm", "image": "vllm:1"}


def decided(given: ModelDeployment, settings: OperatorSettings = SETTINGS) -> Decision:
    return plan(Observed(given), settings, NOW)


def template(decision: Decision) -> dict[str, Any]:
    deployment = next(each for each in decision.apply if each["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]
    return found


def containers(decision: Decision) -> dict[str, dict[str, Any]]:
    spec = template(decision)["spec"]
    return {each["name"]: each for each in (*spec["initContainers"], *spec["containers"])}


def variable(container: dict[str, Any], name: str) -> str:
    return next((each["value"] for each in container["env"] if each["name"] == name), "")


def accepted(decision: Decision) -> tuple[str, str, str]:
    found = next(each for each in decision.status.conditions or () if each.type == "Accepted")
    return found.status, found.reason, found.message


def test_download_and_serve_are_told_of_adapters_and_the_engine_of_their_links() -> None:
    made = containers(decided(resource(HUB, engine=VLLM, adapters=[SQL, FRENCH])))
    for name in ("download", "serve"):
        told = json.loads(variable(made[name], "AMS_ADAPTERS"))
        assert told == [SQL, FRENCH]
    command = made["engine"]["command"]
    assert json.dumps({"name": "tiny:sql", "path": "/run/ams/adapters/sql"}) in command


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
    volumes = template(made)["spec"]["volumes"]
    claims = {
        each["name"]: each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each
    }
    assert claims == {"source": "weights", "source-2": "others"}
    for container in containers(made).values():
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert (mounts["source"], mounts["source-2"]) == ("/source", "/source-2")
    told = json.loads(variable(containers(made)["download"], "AMS_ADAPTERS"))
    assert [each["source"] for each in told] == [
        "file:///source/adapters/a", "file:///source-2/b", "file:///source-2/c"
    ]  # fmt: skip


def test_other_adapters_are_another_download_and_another_template() -> None:
    def digest(**spec: Any) -> str:
        found: str = template(decided(resource(HUB, engine=VLLM, **spec)))["metadata"]["annotations"][labels.WEIGHTS]
        return found

    assert digest() != digest(adapters=[SQL]) != digest(adapters=[{**SQL, "source": "hf://acme/sql-lora@v2"}])
    assert digest(adapters=[SQL, FRENCH]) == digest(adapters=[FRENCH, SQL])


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
    assert "/source-1" in mounts
    await until_condition(kube, home, "adapted", "Accepted", "True", "Valid")


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
