"""Engines of other makes on a laptop: where they are found, which one is chosen, and what the pod is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ams_cli import engines
from ams_cli.engines import Machine, choose, find_programs, refusals, with_engine
from ams_cli.main import main
from ams_cli.preview import Preview
from ams_common.options import OptionError
from ams_common.resource.parse import parse_model_deployment
from ams_common.settings_from_spec import serve_settings
from fakehub import checkpoints
from fakehub.embedding_gguf import LAST, qwen3_gguf

ALL: dict[Any, str] = {"vllm": "/opt/vllm", "llamacpp": "/opt/llama-server", "sglang": "/opt/sglang"}
GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}


def seen(config: dict[str, Any] | None = None, weights: int | None = None, **spec: Any) -> Preview:
    model = {"model": {"source": "hf://a/b"}, **spec}
    document = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m"},
        "spec": model,
    }
    return Preview(parse_model_deployment(document), config=config or {}, weights_bytes=weights)


LLAMA = {"architectures": ["LlamaForCausalLM"]}


@pytest.mark.parametrize(
    ("preview", "machine", "name", "reason"),
    [
        (seen(LLAMA), Machine(ALL, 1), "builtin", "no GPU is asked for"),
        (seen(LLAMA, **GPU), Machine(ALL, 0), "builtin", "this machine has none"),
        (seen(LLAMA, **GPU), Machine(ALL, 1), "vllm", "vLLM serves LlamaForCausalLM"),
        (seen(LLAMA, **GPU), Machine({}, 1), "builtin", "vLLM isn't at hand"),
        (seen(**GPU), Machine(ALL, 1), "builtin", "isn't known before it is downloaded"),
        (seen(LLAMA, 20 << 30, **GPU), Machine(ALL, 1, (16 << 30,)), "builtin", "don't fit the GPU"),
        (seen(LLAMA, **GPU), Machine(ALL, certain=False), "vllm", "if the installation names its image"),
        (seen(LLAMA, engine={"name": "llamacpp"}), Machine({}), "llamacpp", "asks for it"),
        (seen(model={"source": "hf://a/b?file=m-IQ2_XS.gguf"}), Machine(ALL), "llamacpp", "IQ2_XS"),
        (seen(model={"source": "hf://a/b?file=m-Q4_K_M.gguf"}), Machine(ALL), "builtin", "as they are"),
    ],
)
def test_which_engine_and_why(preview: Preview, machine: Machine, name: str, reason: str) -> None:
    choice = choose(preview, machine)
    assert (choice.name, reason in choice.reason) == (name, True), choice


def test_what_the_pod_is_told() -> None:
    preview = seen(
        engine={"name": "llamacpp", "args": ["--flash-attn", "on"], "env": [{"name": "A", "value": "1"}]},
        model={"source": "file:///m/x.gguf"},
        limits={"contextTokens": 512, "concurrentRequests": 4},
    )
    machine = Machine(ALL)
    settings = with_engine(serve_settings(preview.resource), preview, choose(preview, machine), machine, "/log")
    command = json.loads(settings.engine_command)
    assert command[0] == "/opt/llama-server"
    assert command[-2:] == ["--flash-attn", "on"]
    assert {"{model}", "{port}", "127.0.0.1", "2048"} < set(command)
    assert (settings.engine, settings.engine_log, json.loads(settings.engine_variables)) == (
        "llamacpp",
        "/log",
        {"A": "1"},
    )


def test_the_builtin_engine_is_started_by_nobody() -> None:
    preview = seen(LLAMA)
    before = serve_settings(preview.resource)
    assert with_engine(before, preview, choose(preview, Machine(ALL)), Machine(ALL), "/log") == before


def test_a_program_of_ones_own() -> None:
    preview = seen(engine={"name": "custom", "args": ["--at", "{port}", "{model}"]})
    machine = Machine({"custom": "/opt/mine"})
    settings = with_engine(serve_settings(preview.resource), preview, choose(preview, machine), machine, "")
    assert json.loads(settings.engine_command) == ["/opt/mine", "--at", "{port}", "{model}"]
    assert json.loads(settings.engine_variables)["PORT"] == "{port}"


def test_what_an_engine_cannot_do_is_refused() -> None:
    preview = seen(engine={"name": "vllm"}, quantization="4bit")
    [sentence] = refusals(preview, choose(preview, Machine(ALL)), Machine(ALL))
    assert sentence.startswith("spec.quantization: 4bit")
    [sentence] = refusals(preview, choose(preview, Machine({})), Machine({}))
    assert "no program vllm on PATH: install it" in sentence
    assert "--engine-path vllm=/path/to/program" in sentence


def test_where_programs_are(tmp_path: Path) -> None:
    found = {"llama-server": "/usr/bin/llama-server", "/mine/vllm": "/mine/vllm"}
    assert find_programs("", found.get) == {"llamacpp": "/usr/bin/llama-server"}
    assert find_programs("vllm=/mine/vllm,", found.get) == {"llamacpp": "/usr/bin/llama-server", "vllm": "/mine/vllm"}
    for given, why in (
        ("vllm=/none", "no such program"),
        ("vllm", "expected NAME=PATH"),
        ("builtin=/mine/vllm", "expected"),
    ):
        with pytest.raises(OptionError, match=why):
            find_programs(given, found.get)


def test_up_says_what_to_do_for_an_engine_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "apiVersion: aimodelserver.io/v1alpha1\nkind: ModelDeployment\nmetadata: {name: m}\n"
        "spec: {model: {source: 'hf://a/b'}, engine: {name: vllm}}\n"
    )
    folders = ["--models-dir", str(tmp_path / "models"), "--log-dir", str(tmp_path / "logs")]
    assert main(["up", "-f", str(manifest), *folders]) == 1
    assert "m: spec.engine.name: vllm is asked for" in capsys.readouterr().err
    assert main(["up", "-f", str(manifest), "--engine-path", "vllm=/none", *folders]) == 2
    assert "--engine-path='vllm=/none': there is no such program" in capsys.readouterr().err


def test_a_model_that_only_another_engine_serves_is_no_problem_of_it() -> None:
    preview = replace(seen({"architectures": ["BartForConditionalGeneration"]}), unsupported="It isn't served.")
    assert engines.choose(preview, Machine(ALL)).name == "builtin"


ADAPTERS = {"adapters": [{"name": "sql", "source": "hf://a/sql"}]}


@pytest.mark.parametrize(
    ("preview", "machine", "name", "refused"),
    [
        (seen(LLAMA, **GPU, **ADAPTERS), Machine(ALL, 1), "vllm", ""),
        (seen(**GPU, **ADAPTERS), Machine(ALL, 1), "builtin", ""),  # it isn't known yet what is chosen
        (
            seen(LLAMA, **ADAPTERS),
            Machine(ALL, 1),
            "builtin",
            "the builtin engine applies none (it was chosen because no",
        ),
        (
            seen(LLAMA, **GPU, **ADAPTERS),
            Machine(ALL),
            "builtin",
            "because a GPU is asked for, and this machine has none",
        ),
        (seen(LLAMA, **GPU, **ADAPTERS), Machine({}, 1), "builtin", "because vLLM isn't at hand"),
        (
            seen(LLAMA, engine={"name": "builtin"}, **ADAPTERS),
            Machine(ALL, 1),
            "builtin",
            "name vllm, sglang or llamacpp",
        ),
        (seen(LLAMA, engine={"name": "vllm"}, **ADAPTERS), Machine(ALL), "vllm", ""),
    ],
)
def test_adapters_are_for_engines_that_apply_them(preview: Preview, machine: Machine, name: str, refused: str) -> None:
    choice = choose(preview, machine)
    assert choice.name == name
    said = refusals(preview, choice, machine)
    assert len(said) == bool(refused)
    assert refused in "".join(said)


def test_the_engine_gets_the_links_of_adapters_and_their_highest_rank() -> None:
    preview = seen(LLAMA, engine={"name": "vllm"}, **ADAPTERS)
    made = with_engine(
        serve_settings(preview.resource), preview, choose(preview, Machine(ALL)), Machine(ALL), "log", "/links", "32"
    )
    command = json.loads(made.engine_command)
    assert command[command.index("--max-lora-rank") + 1] == "32"
    assert json.loads(command[command.index("--lora-modules") + 1]) == {"name": "m:sql", "path": "/links/adapters/sql"}
    assert json.loads(made.adapters) == [{"name": "sql", "source": "hf://a/sql"}]


def test_weights_are_fetched_for_the_engine_that_adapters_ask_for() -> None:
    assert engines.engine_of_weights(seen(**GPU, **ADAPTERS).resource, Machine(ALL, 1)) == "vllm"
    assert engines.engine_of_weights(seen(**GPU).resource, Machine(ALL, 1)) == "builtin"


@pytest.mark.parametrize(("pooling", "engine"), [(LAST, "llamacpp"), (None, "builtin")])
def test_a_gguf_file_of_this_machine_tells_that_it_makes_embeddings(
    tmp_path: Path, pooling: int | None, engine: str
) -> None:
    file = qwen3_gguf(checkpoints.make("qwen3_embedding", tmp_path / "qwen3"), tmp_path / "m.gguf", pooling=pooling)
    resource = seen(model={"source": f"file://{file}"}).resource
    assert engines.engine_of_weights(resource, Machine(ALL)) == engine
    assert engines.engine_of_weights(resource, Machine({})) == "builtin"
    found = engines.on_disk(resource, tmp_path / "models", Machine(ALL))
    assert (found.family.name if found.family is not None else None) == ("embedding" if pooling else None)
    choice = choose(found, Machine(ALL))
    assert choice.name == engine
    command = json.loads(
        with_engine(serve_settings(resource), found, choice, Machine(ALL), "/log").engine_command or "[]"
    )
    assert ("--embedding" in command) == (pooling is not None)


def test_a_damaged_gguf_file_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    for name in ("m.gguf", "gone.gguf"):
        resource = seen(model={"source": f"file://{tmp_path / name}"}).resource
        assert engines.engine_of_weights(resource, Machine(ALL)) == "builtin"


def test_a_folder_of_sentence_transformers_makes_embeddings_whatever_its_architecture(tmp_path: Path) -> None:
    folder = checkpoints.make("qwen3_embedding", tmp_path / "qwen3")
    resource = seen(model={"source": f"file://{folder}"}, engine={"name": "vllm"}).resource
    found = engines.on_disk(resource, tmp_path / "models", Machine(ALL))
    assert found.family is not None
    assert found.family.name == "embedding"
    given = with_engine(serve_settings(resource), found, choose(found, Machine(ALL)), Machine(ALL), "/log")
    command = json.loads(given.engine_command)
    assert command[command.index("--runner") + 1] == "pooling"
