"""`ams plan` and `ams download`, against a hub."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_cli import engines
from ams_cli.main import main
from ams_cli.plan import Machine, lines, make_plan, on_machine, on_nodes, remarks
from ams_cli.preview import Preview, look, of_folder
from ams_common.engines.table import ROWS
from ams_common.families import BY_NAME
from ams_common.resource.parse import parse_model_deployment
from ams_kube.objects import Node
from fakehub.repository import Repository
from fakehub.server import FakeHub
from hub_listings import CONFIG, LISTINGS, SIGNATURE, UNSIGNED, Listing, repository, source
from huggingface_hub import constants
from test_cli.local_fleet import PROGRAMS

pytest_plugins = ["fakehub.fixtures"]

GIB = 1 << 30
NOWHERE = "http://127.0.0.1:9"
SEVENTY_BILLION_BYTES = 141_000_000_000


def node(name: str, mebibytes_of_a_card: str, gpus: str = "1", memory: str = "512Gi") -> Node:
    return msgspec.convert(
        {
            "metadata": {"name": name, "labels": {"nvidia.com/gpu.memory": mebibytes_of_a_card}},
            "status": {"allocatable": {"nvidia.com/gpu": gpus, "memory": memory}},
        },
        Node,
    )


def resource(name: str = "m", source: str = "hf://acme/m", **spec: Any) -> Any:
    return parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": name},
            "spec": {"model": {"source": source}, **spec},
        }
    )


def preview(weights: int = 16 * GIB, **spec: Any) -> Preview:
    return Preview(
        resource(**spec),
        weights_bytes=weights,
        total_bytes=weights + 1000,
        missing_bytes=weights + 1000,
        config=CONFIG,
        family=BY_NAME["text"],
    )


def test_a_gpu_is_used_where_one_is_asked_for_and_there() -> None:
    place = on_machine(Machine(64 * GIB, (24 * GIB,)))
    gpu = preview(resources={"limits": {"nvidia.com/gpu": 1}})
    asks, none = make_plan([gpu, preview()], place, None).models
    assert (asks.device, asks.quantization, asks.fits) == ("cuda", "none", True)
    assert (none.device, none.quantization) == ("cpu", "none")
    small = make_plan([gpu], on_machine(Machine(64 * GIB, (8 * GIB,))), None).models[0]
    assert (small.quantization, small.fits) == ("4bit", True)
    assert small.verdict.startswith("fits this machine: 16.0 GiB in bfloat16")


def test_a_model_that_fits_nowhere_and_a_disk_that_is_too_small() -> None:
    plan = make_plan([preview(), preview()], on_machine(Machine(2 * GIB)), 20 * GIB)
    assert [row.fits for row in plan.models] == [False, False]
    assert plan.disk_fits is False
    assert [row[-1] for row in lines(plan)[1:]] == ["does not fit", "does not fit"]


@pytest.mark.parametrize("copied", [True, False])
def test_a_gguf_file_that_stays_as_it_is_takes_its_own_size_and_tells_no_parameters(
    copied: bool, tmp_path: Path
) -> None:
    folder, local = tmp_path / "kept", tmp_path / "model.gguf"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    file = folder / "part" / "model.gguf" if copied else local
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x" * 100_000)
    given = resource(source=f"file://{local}", engine={"name": "llamacpp"})
    has = engines.Machine({"llamacpp": "/usr/bin/llama-server"})
    (row,) = make_plan([of_folder(given, folder)], on_machine(Machine(8 * GIB)), None, has).models
    assert row.parameters is None
    assert set(row.memory_bytes) == {"none"}
    assert "97.7 KiB in GGUF" in row.verdict


def test_what_pods_made_of_the_weights_is_no_part_of_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    before = of_folder(resource(), tmp_path).total_bytes
    (tmp_path / "derived").mkdir()
    (tmp_path / "derived" / "tiles-1.bin").write_bytes(b"x" * 1000)
    assert of_folder(resource(), tmp_path).total_bytes == before


def test_what_is_not_known_is_not_made_up() -> None:
    row = make_plan([Preview(resource())], on_machine(Machine(2 * GIB)), None).models[0]
    assert (row.fits, row.parameters, row.memory_bytes) == (None, None, {})
    assert row.verdict == "its size is known once it is downloaded"


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({**CONFIG, "num_hidden_layers": 10**400}, "num_hidden_layers is a number of more than 18 digits"),
        ({**CONFIG, "vocab_size": -5}, "vocab_size is -5"),
        ([], "its config.json isn't an object."),
    ],
)
def test_a_configuration_that_no_model_has(config: Any, problem: str, of_hub: FakeHub, tmp_path: Path) -> None:
    files = {"config.json": json.dumps(config).encode(), "tokenizer.json": b"{}", "model.safetensors": bytes(20_000)}
    of_hub.add(Repository("acme/m")).commit(files)
    found = look(resource(), tmp_path / "models")
    assert problem in found.problem
    assert make_plan([found], on_machine(Machine(2 * GIB)), None).models[0].fits is False
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert problem in of_folder(resource(), folder).problem


@pytest.fixture
def manifests(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models of which one is gone from the hub."""
    hub.add(Repository("acme/m")).commit(
        {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}", "model.safetensors": bytes(20_000)}
    )
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
    monkeypatch.setenv("AMS_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("AMS_LOG_DIR", str(tmp_path / "logs"))
    folder = tmp_path / "manifests"
    folder.mkdir()
    for name in ("m", "gone"):
        (folder / f"{name}.yaml").write_text(
            "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\n"
            f"metadata: {{name: {name}}}\nspec: {{model: {{source: 'hf://acme/{name}'}}}}\n"
        )
    return folder


def test_plan_asks_the_hub_and_fetches_nothing(
    manifests: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["plan", "-f", str(manifests), "-o", "json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    gone, found = plan["models"]
    assert (found["family"], found["parameters"], found["quantization"]) == ("text", 10_000, "none")
    assert found["download_bytes"] == 20_000 + len(json.dumps(CONFIG)) + 2
    assert gone["fits"] is False
    assert "acme/gone" in gone["verdict"]
    assert not (tmp_path / "models").exists()
    assert main(["plan", "-f", str(manifests / "m.yaml")]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0].startswith("MODEL   FAMILY   ENGINE    PARAMETERS")
    assert "unquantized on cpu" in told


def test_download_goes_on_after_a_failure_and_skips_what_is_there(
    manifests: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["download", "-f", str(manifests)]) == 1
    told = capsys.readouterr().out
    assert "gone: ModelNotFound: " in told
    assert "m: downloaded: " in told
    assert main(["download", "-f", str(manifests / "m.yaml")]) == 0
    assert "m: already there" in capsys.readouterr().out
    assert main(["plan", "-f", str(manifests / "m.yaml")]) == 0
    assert " there " in capsys.readouterr().out


def test_without_a_hub_nothing_is_known(
    manifests: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """That can't be told from a model that can't be served, so it isn't called one."""
    for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", getattr(constants, name).replace(hub.url, NOWHERE))
    monkeypatch.setattr("ams_cli.preview._PATIENCE_SECONDS", 0.5)
    assert main(["plan", "-f", str(manifests)]) == 0
    told = capsys.readouterr().out
    assert "can't be served" not in told
    assert told.splitlines()[1].split()[-1] == "?"
    assert "gone: unknown: " in told
    assert "Download: of unknown size, into " in told
    assert main(["plan", "-f", str(manifests), "-o", "json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [row["fits"] for row in plan["models"]] == [None, None]


def test_a_volume_of_a_cluster_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\n"
        "metadata: {name: m}\nspec: {model: {source: 'pvc://claim/path'}}\n"
    )
    places = ["--models-dir", str(tmp_path / "models"), "--log-dir", str(tmp_path / "logs")]
    assert main(["download", "-f", str(manifest), *places], PROGRAMS) == 0
    assert "m: skipped: pvc://claim/path is a volume of a cluster" in capsys.readouterr().out


@pytest.fixture
def of_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
    return hub


def test_weights_that_should_be_signed_and_are_not(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    hub.add(repository(LISTINGS[0]))
    found = look(resource(model={"source": source(LISTINGS[0]), "signature": SIGNATURE}), tmp_path)
    assert UNSIGNED in found.problem


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda each: each.name)
def test_a_listing_is_told_as_the_download_tells_it(listing: Listing, of_hub: FakeHub, tmp_path: Path) -> None:
    of_hub.add(repository(listing))
    found = look(resource(source=source(listing), **listing.spec), tmp_path)
    assert (found.weights_bytes or 0) == listing.weights_bytes
    assert listing.words in found.problem
    assert bool(found.problem) == bool(listing.reason)


def test_a_model_over_several_nodes_fits_them_together_and_no_laptop() -> None:
    large = preview(
        SEVENTY_BILLION_BYTES,
        engine={"name": "vllm", "nodes": 2},
        resources={"limits": {"nvidia.com/gpu": 1}},
        cache={"accessMode": "ReadWriteMany"},
    )
    cluster = engines.Machine(dict.fromkeys(ROWS, ""), certain=False)
    nodes = [node("a", "98304"), node("b", "81920")]
    row = make_plan([large], on_nodes(nodes), None, cluster).models[0]
    assert row.fits is True
    assert row.verdict.startswith("fits 2 nodes as node b: ")
    alone = make_plan([large], on_nodes(nodes[:1]), None, cluster).models[0]
    assert alone.fits is None
    assert "spec.engine.nodes asks for 2 nodes" in alone.verdict
    here = make_plan([large], on_machine(Machine(1 << 40, (1 << 40,))), None, engines.Machine({"vllm": "/vllm"}, 1))
    assert here.models[0].fits is False
    assert here.models[0].verdict.startswith("spec.engine.nodes: 2 takes a cluster with LeaderWorkerSet")


def test_what_no_card_of_the_cluster_holds_does_not_fit() -> None:
    card = node("a100", "40960", memory="64Gi")
    large = preview(SEVENTY_BILLION_BYTES, resources={"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}})
    row = make_plan([large], on_nodes([node("t4", "15360"), card]), None).models[0]
    assert (row.fits, row.device) == (False, "cuda")
    assert row.verdict.startswith("does not fit node a100: ")
    two = preview(SEVENTY_BILLION_BYTES, resources={"limits": {"nvidia.com/gpu": 2}})
    assert make_plan([two], on_nodes([node("a100", "61440", gpus="2")]), None).models[0].quantization == "4bit"
    unlabelled = make_plan([large], on_nodes([node("a100", "")]), None).models[0]
    assert unlabelled.fits is None
    assert unlabelled.verdict.endswith(
        "Set spec.maxMemory, or the nodes' label nvidia.com/gpu.memory (GPU feature discovery does)."
    )


def test_adapters_are_named_and_not_counted() -> None:
    adapters = [{"name": "sql", "source": "hf://a/sql"}, {"name": "french", "source": "hf://a/fr"}]
    document = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m"},
        "spec": {"model": {"source": "hf://a/b"}, "engine": {"name": "vllm"}, "adapters": adapters},
    }
    made = make_plan([Preview(parse_model_deployment(document))], on_machine(Machine(8 << 30)), None)
    assert made.models[0].adapters == ["sql", "french"]
    assert "m: adapters sql, french come on top: their sizes aren't asked for" in remarks(made, "/models")
