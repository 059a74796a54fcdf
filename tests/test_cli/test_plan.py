"""`ams plan` and `ams download`, against a hub."""

import json
from pathlib import Path
from typing import Any

import pytest
from ams_cli.main import main
from ams_cli.plan import Place, lines, make_plan, short_number
from ams_cli.preview import Preview
from ams_common.families import BY_NAME
from ams_common.resource.parse import parse_model_deployment
from fakehub.repository import Repository
from fakehub.server import FakeHub
from test_cli.local_fleet import PROGRAMS

pytest_plugins = ["fakehub.fixtures"]

GIB = 1 << 30
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}


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
    place = Place("this machine", 64 * GIB, (24 * GIB,), 1)
    gpu = preview(resources={"limits": {"nvidia.com/gpu": 1}})
    asks, none = make_plan([gpu, preview()], [place], None).models
    assert (asks.device, asks.quantization, asks.fits) == ("cuda", "none", True)
    assert (none.device, none.quantization) == ("cpu", "none")
    small = make_plan([gpu], [Place("small", 64 * GIB, (8 * GIB,), 1)], None).models[0]
    assert (small.quantization, small.fits) == ("4bit", True)
    assert small.verdict.startswith("fits a GPU of small: 16.0 GiB in bfloat16")


def test_a_model_that_fits_nowhere_and_a_disk_that_is_too_small() -> None:
    plan = make_plan([preview(), preview()], [Place("laptop", 2 * GIB)], 20 * GIB)
    assert [row.fits for row in plan.models] == [False, False]
    assert plan.disk_fits is False
    assert [row[-1] for row in lines(plan)[1:]] == ["does not fit", "does not fit"]


def test_what_is_not_known_is_not_made_up() -> None:
    row = make_plan([Preview(resource())], [Place("laptop", 2 * GIB)], None).models[0]
    assert (row.fits, row.parameters, row.memory_bytes) == (None, None, {})
    assert row.verdict == "its size is known once it is downloaded"


@pytest.mark.parametrize(
    ("count", "text"), [(3_754_622_976, "3.75B"), (134_515_008, "135M"), (999, "999"), (1_500, "1.5K")]
)
def test_short_numbers(count: int, text: str) -> None:
    assert short_number(count) == text


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
    assert told.splitlines()[0].startswith("MODEL   FAMILY   PARAMETERS")
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


def test_a_volume_of_a_cluster_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\n"
        "metadata: {name: m}\nspec: {model: {source: 'pvc://claim/path'}}\n"
    )
    places = ["--models-dir", str(tmp_path / "models"), "--log-dir", str(tmp_path / "logs")]
    assert main(["download", "-f", str(manifest), *places], PROGRAMS) == 0
    assert "m: skipped: pvc://claim/path is a volume of a cluster" in capsys.readouterr().out
