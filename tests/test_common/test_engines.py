"""What the fields of a resource become for each engine of another make, and which engine `auto` chooses."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_common.adapters import RANK_WORD
from ams_common.engines import sglang, vllm
from ams_common.engines.choose import EngineFacts, choose_engine, refusals, unpacked_kind
from ams_common.engines.dynamic import has_dynamic_adapters
from ams_common.engines.names import ENGINES, EngineName
from ams_common.engines.table import ROWS, fields_table, row_of
from ams_common.engines.wishes import UNKNOWN, EngineWishes, Member, ModelFacts, wishes_of
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from test_common.resource_cases import manifest

GIB = 1 << 30
GGUF = "hf://acme/tiny-GGUF?file=tiny-Q4_K_M.gguf"
GPU = {"limits": {"nvidia.com/gpu": 1}}
QWEN3 = ("Qwen3ForCausalLM",)


def resource(**changes: Any) -> ModelDeployment:
    return parse_model_deployment(manifest(**changes))


def wishes(given: ModelDeployment, facts: ModelFacts = UNKNOWN) -> EngineWishes:
    return wishes_of(given, model="/run/ams/model", host="127.0.0.1", port=8000, facts=facts, links="/run/ams")


def command(name: EngineName, facts: ModelFacts = UNKNOWN, **changes: Any) -> list[str]:
    given = resource(**changes)
    row = row_of(name)
    assert row is not None
    assert row.refusals(given, facts) == []
    return row.full_command(wishes(given, facts))


def has(arguments: list[str], *expected: str) -> bool:
    """Whether these follow each other."""
    return any(tuple(arguments[at : at + len(expected)]) == expected for at in range(len(arguments)))


def test_vllm_as_a_resource_without_any_wish_starts_it() -> None:
    assert command("vllm") == [
        "vllm", "serve", "/run/ams/model", "--served-model-name", "qwen-vl", "--host", "127.0.0.1", "--port", "8000",
        "--max-model-len", "auto", "--max-num-seqs", "16", "--generation-config", "vllm",
        "--enable-prompt-tokens-details", "--disable-uvicorn-access-log",
    ]  # fmt: skip


def test_sglang_as_a_resource_without_any_wish_starts_it() -> None:
    assert command("sglang") == [
        "sglang", "serve", "--model-path", "/run/ams/model", "--served-model-name", "qwen-vl", "--host", "127.0.0.1",
        "--port", "8000", "--max-running-requests", "16", "--sampling-defaults", "openai", "--enable-metrics",
        "--enable-cache-report",
    ]  # fmt: skip


def test_llamacpp_as_a_resource_without_any_wish_starts_it() -> None:
    assert command("llamacpp", spec__model__source=GGUF) == [
        "llama-server", "--model", "/run/ams/model", "--alias", "qwen-vl", "--host", "127.0.0.1", "--port", "8000",
        "--parallel", "16", "--ctx-size", "0", "--kv-unified", "--gpu-layers", "0", "--jinja", "--no-webui",
        "--metrics",
    ]  # fmt: skip


def test_a_custom_engine_gets_the_users_arguments_alone_with_model_and_port_filled_in() -> None:
    given = {"name": "custom", "args": ["--model={model}", "-p", "{port}", "{other}"]}
    assert command("custom", spec__engine=given) == ["--model=/run/ams/model", "-p", "8000", "{other}"]
    told = ROWS["custom"].variables(wishes(resource()))
    assert told == {"MODEL": "/run/ams/model", "MODEL_NAME": "qwen-vl", "HOST": "127.0.0.1", "PORT": "8000"}


FOUR_GPUS = {"limits": {"nvidia.com/gpu": 4, "cpu": "7500m"}}
VL = {"spec__model__family": "vision-language"}


@pytest.mark.parametrize(
    ("engine", "changes", "expected"),
    [
        ("vllm", {"spec__limits__contextTokens": 4096}, ("--max-model-len", "4096")),
        ("vllm", {"spec__limits__concurrentRequests": 64}, ("--max-num-seqs", "64")),
        ("vllm", {"spec__limits__prefixCacheTokens": 0}, ("--no-enable-prefix-caching",)),
        ("vllm", {"spec__precision": "float16"}, ("--dtype", "float16")),
        ("vllm", {"spec__resources": FOUR_GPUS}, ("--tensor-parallel-size", "4")),
        (
            "vllm",
            {"spec__engine": {"name": "vllm", "resources": FOUR_GPUS}},
            ("--tensor-parallel-size", "4"),
        ),
        ("vllm", VL, ("--limit-mm-per-prompt", '{"image": 64, "video": 64}')),
        ("vllm", VL | {"spec__limits__videoFrames": 3}, ("--media-io-kwargs", '{"video": {"num_frames": 3}}')),
        ("vllm", VL | {"spec__limits__imagePixels": 9999}, ("--mm-processor-kwargs", '{"max_pixels": 9999}')),
        ("vllm", {"spec__autoscaling__idle": "sleep"}, ("--enable-sleep-mode",)),
        ("vllm", {"spec__model__family": "embedding"}, ("--runner", "pooling")),
        ("sglang", {"spec__limits__contextTokens": 4096}, ("--context-length", "4096")),
        ("sglang", {"spec__limits__concurrentRequests": 64}, ("--max-running-requests", "64")),
        ("sglang", {"spec__limits__prefixCacheTokens": 0}, ("--disable-radix-cache",)),
        ("sglang", {"spec__model__family": "embedding"}, ("--is-embedding",)),
        ("sglang", {"spec__precision": "bfloat16"}, ("--dtype", "bfloat16")),
        ("sglang", {"spec__resources": FOUR_GPUS}, ("--tp-size", "4")),
        ("sglang", VL, ("--enable-multimodal",)),
        ("llamacpp", {"spec__limits": {"contextTokens": 4096, "concurrentRequests": 4}}, ("--ctx-size", "16384")),
        ("llamacpp", {"spec__limits__concurrentRequests": 4}, ("--parallel", "4")),
        ("llamacpp", {"spec__limits__prefixCacheTokens": 0}, ("--no-cache-prompt", "--cache-ram", "0")),
        ("llamacpp", {"spec__resources": GPU}, ("--gpu-layers", "999")),
        ("llamacpp", {"spec__resources": FOUR_GPUS}, ("--threads", "8")),
        ("llamacpp", {"spec__model__family": "embedding"}, ("--embedding", "--pooling", "{pooling}")),
        (
            "llamacpp",
            {"spec__model__family": "embedding"},
            ("--batch-size", "{longest-text}", "--ubatch-size", "{longest-text}"),
        ),
        (
            "llamacpp",
            {"spec__model__family": "embedding"},
            ("--pooling", "{pooling}", "--ctx-size", "{longest-text}", "--kv-unified"),
        ),
    ],
)
def test_a_field_becomes_an_argument(engine: EngineName, changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    source = {"spec__model__source": GGUF} if engine == "llamacpp" else {}
    plain = {name: value for name, value in changes.items() if name == "spec__model__family"}
    assert has(command(engine, **source, **changes), *expected)
    assert plain == changes or not has(command(engine, **source, **plain), *expected)


def test_texts_that_llamacpp_embeds_are_computed_at_once() -> None:
    given = command(
        "llamacpp", spec__model={"source": GGUF, "family": "embedding"}, spec__limits={"contextTokens": 600}
    )
    assert has(given, "--ctx-size", "600", "--kv-unified", "--batch-size", "600", "--ubatch-size", "600")


SHARED = {"spec__cache__accessMode": "ReadWriteMany"}
LEADER = Member(leader=True, rank="0", address="leader.example")
WORKER = Member(leader=False, rank="1", address="leader.example")


def spanning(name: EngineName, nodes: int, **more: Any) -> dict[str, Any]:
    return {"spec__engine": {"name": name, "nodes": nodes}, "spec__resources": FOUR_GPUS, **SHARED, **more}


def test_vllm_over_nodes_has_a_stage_of_the_pipeline_on_each() -> None:
    given = command("vllm", **spanning("vllm", 2))
    assert has(given, "--tensor-parallel-size", "4", "--pipeline-parallel-size", "2", "--nnodes", "2")
    joins = ROWS["vllm"].joins
    assert joins is not None
    assert joins(LEADER) == ["--node-rank", "0", "--master-addr", "leader.example"]
    assert joins(WORKER) == ["--node-rank", "1", "--master-addr", "leader.example", "--headless"]
    assert "--nnodes" not in command("vllm", spec__resources=FOUR_GPUS)


def test_sglang_over_nodes_shares_every_layer_among_all_gpus() -> None:
    given = command("sglang", **spanning("sglang", 3))
    assert has(given, "--tp-size", "12", "--nnodes", "3")
    joins = ROWS["sglang"].joins
    assert joins is not None
    assert joins(WORKER) == ["--node-rank", "1", "--dist-init-addr", "leader.example:20000"]


def test_engines_that_compute_on_one_node_say_so() -> None:
    for name in ALL:
        assert (ROWS[name].joins is not None) == (name in ("vllm", "sglang")), name
    given = resource(**spanning("vllm", 2))
    for name in ("llamacpp", "custom"):
        assert any(each.startswith("spec.engine.nodes: this engine") for each in ROWS[name].refusals(given)), name
    assert ROWS["vllm"].refusals(given) == []
    [without] = ROWS["vllm"].refusals(resource(spec__engine={"name": "vllm", "nodes": 2}, **SHARED))
    assert without == (
        "spec.engine.nodes: several nodes share a model by their GPUs; name those of each in spec.resources.limits, as"
        " in nvidia.com/gpu: 8"
    )


def test_weights_are_divided_among_the_gpus_of_all_nodes() -> None:
    facts = ModelFacts(weights_bytes=64 * GIB)
    given = command("vllm", facts, **spanning("vllm", 2, spec__maxMemory={"0": "24Gi"}))
    assert has(given, "--kv-cache-memory-bytes", str(24 * GIB - int(8 * GIB * 1.1)))


def test_the_users_arguments_come_last() -> None:
    given = command("vllm", spec__engine={"name": "vllm", "args": ["--max-num-seqs", "2"]})
    assert given[-2:] == ["--max-num-seqs", "2"]
    assert given.count("--max-num-seqs") == 2


def test_max_memory_is_what_weights_and_the_cache_of_each_gpu_take_together() -> None:
    facts = ModelFacts(weights_bytes=16 * GIB)
    one = command("vllm", facts, spec__maxMemory={"0": "24Gi"}, spec__resources=GPU)
    assert has(one, "--kv-cache-memory-bytes", str(24 * GIB - int(16 * GIB * 1.1)))
    two = {"limits": {"nvidia.com/gpu": 2}}
    both = command("vllm", facts, spec__maxMemory={"0": "24Gi", "1": "20Gi"}, spec__resources=two)
    assert has(both, "--kv-cache-memory-bytes", str(20 * GIB - int(8 * GIB * 1.1)))
    machine = command("vllm", facts, spec__maxMemory={"cpu": "20Gi"})
    assert has(machine, "--kv-cache-memory-bytes", str(20 * GIB - int(16 * GIB * 1.1)))


def test_sleeping_is_opened_only_where_it_is_asked_for() -> None:
    row = ROWS["vllm"]
    assert "VLLM_SERVER_DEV_MODE" not in row.variables(wishes(resource()))
    assert row.variables(wishes(resource(spec__autoscaling__idle="sleep")))["VLLM_SERVER_DEV_MODE"] == "1"


ALL: tuple[EngineName, ...] = ("vllm", "sglang", "llamacpp", "custom")


@pytest.mark.parametrize(
    ("changes", "engines", "beginning"),
    [
        ({"spec__model__family": "vqa"}, ALL, "spec.model.family: vqa is served by the builtin engine alone"),
        ({"spec__model__family": "omni"}, ("llamacpp",), "spec.model.family: omni takes more than text"),
        ({"spec__quantization": "4bit"}, ALL, "spec.quantization: 4bit is made by the builtin engine alone"),
        ({"spec__quantization": "8bit"}, ALL, "spec.quantization: 8bit is made by the builtin engine alone"),
        ({"spec__fallbacks": ["cpu"]}, ALL, "spec.fallbacks: only the builtin engine falls back"),
        ({"spec__model__source": GGUF}, ("vllm", "sglang"), "spec.model.source: this engine takes a folder"),
        ({"spec__model__source": "hf://a/b"}, ("llamacpp",), "spec.model.source: llamacpp takes a GGUF file"),
        ({"spec__precision": "float16"}, ("llamacpp", "custom"), "spec.precision: "),
        ({"spec__limits__prefixCacheTokens": 9}, ALL, "spec.limits.prefixCacheTokens: "),
        ({"spec__limits__imagePixels": 9999}, ALL, "spec.limits.imagePixels: "),
        ({"spec__limits__videoFrames": 9}, ("sglang",), "spec.limits.videoFrames: "),
        ({"spec__maxMemory": {"cpu": "8Gi"}}, ALL, "spec.maxMemory: "),
        (
            {"spec__maxMemory": {"cpu": "8Gi", "0": "8Gi"}, "spec__resources": GPU},
            ("vllm",),
            "spec.maxMemory.cpu: can't be told to this engine, as a GPU computes",
        ),
        ({"spec__maxMemory": {"0": "8Gi"}}, ("vllm",), "spec.maxMemory.0: can't be told to this engine, as no GPU is"),
    ],
)
def test_what_cant_be_expressed_is_refused(
    changes: dict[str, Any], engines: tuple[EngineName, ...], beginning: str
) -> None:
    for engine in engines:
        source = {"spec__model__source": GGUF} if engine == "llamacpp" and "spec__model__source" not in changes else {}
        found = ROWS[engine].refusals(resource(**source, **changes))
        assert [sentence for sentence in found if sentence.startswith(beginning)], (engine, found)
        assert len(found) == 1, (engine, found)
    for engine in set(ALL) - set(engines):
        source = {"spec__model__source": GGUF} if engine == "llamacpp" and "spec__model__source" not in changes else {}
        found = ROWS[engine].refusals(resource(**source, **changes))
        assert not [sentence for sentence in found if sentence.startswith(beginning)], (engine, found)


def test_what_is_known_of_a_model_counts_as_what_the_resource_says() -> None:
    assert ROWS["vllm"].refusals(resource(), ModelFacts(family="vqa"))
    assert not ROWS["vllm"].refusals(resource(), ModelFacts(family="text"))
    tight = resource(spec__maxMemory={"0": "8Gi"}, spec__resources=GPU)
    assert ROWS["vllm"].refusals(tight, ModelFacts(weights_bytes=8 * GIB)) == [
        "spec.maxMemory: the weights leave no memory for the cache; raise it"
    ]


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_the_docs_name_every_argument(row: Any) -> None:
    everything = EngineWishes(
        model="m", name="n", host="h", port="1", gpus=2, cpus=2, precision="float16", context_tokens=2,
        prefix_cache=False, cache_bytes=1, images=True, videos=True, audio=True, image_pixels=1, sleep=True,
    )  # fmt: skip
    arguments = {word for word in row.command(everything) if word.startswith("--")}
    table = fields_table(row)
    basic = {"--host", "--model", "--model-path"}
    assert sorted(word for word in arguments - basic if f"`{word}" not in table and f" {word}" not in table) == []


def test_every_engine_but_ours_has_a_row() -> None:
    assert {*ROWS, "builtin"} == set(ENGINES)
    assert row_of("builtin") is None
    assert all(row.port not in (8080, 8081) for row in ROWS.values())


AT_HAND: frozenset[EngineName] = frozenset({"vllm", "llamacpp"})
ON_GPU = EngineFacts(architectures=QWEN3, gpu=True, at_hand=AT_HAND)


@pytest.mark.parametrize(
    ("changes", "facts", "chosen", "reason"),
    [
        ({}, {}, "vllm", "a GPU is asked for, and vLLM serves Qwen3ForCausalLM"),
        ({}, {"gpu": False}, "builtin", "no GPU is asked for"),
        ({}, {"at_hand": frozenset()}, "builtin", "vLLM isn't at hand"),
        ({}, {"architectures": None}, "builtin", "the model's architecture isn't known before it is downloaded"),
        ({}, {"architectures": ("X",)}, "builtin", "vLLM has no code of its own for X"),
        ({}, {"quantized_by": "awq"}, "vllm", "a GPU is asked for, and vLLM serves Qwen3ForCausalLM"),
        ({}, {"quantized_by": "bitsandbytes"}, "builtin", "vLLM doesn't compute weights quantized by bitsandbytes"),
        (
            {},
            {"fits_gpu": False},
            "builtin",
            "the weights as they are don't fit the GPU, and the builtin engine quantizes them",
        ),
        ({}, {"architectures": ("Qwen2_5_VLForConditionalGeneration",)}, "vllm", None),
        ({}, {"architectures": ("Qwen2AudioForConditionalGeneration",)}, "vllm", None),
        ({}, {"architectures": ("Qwen2_5OmniModel",)}, "vllm", None),
        ({}, {"model": ModelFacts(family="vqa")}, "builtin", None),
        ({}, {"model": ModelFacts(family="embedding")}, "builtin", None),
        ({"spec__quantization": "4bit"}, {}, "builtin", None),
        ({"spec__fallbacks": ["cpu"]}, {}, "builtin", None),
        ({"spec__fallbacks": []}, {}, "vllm", None),
        ({"spec__engine__name": "sglang"}, {}, "sglang", "spec.engine.name asks for it"),
        ({"spec__engine__name": "builtin"}, {}, "builtin", "spec.engine.name asks for it"),
        ({"spec__model__source": GGUF}, {"gpu": False}, "builtin", "it computes GGUF files of this kind as they are"),
        (
            {"spec__model__source": GGUF},
            {"gpu": False, "model": ModelFacts(family="embedding")},
            "llamacpp",
            "it reads GGUF files of embedding models",
        ),
        (
            {"spec__model__source": GGUF},
            {"gpu": False, "model": ModelFacts(family="embedding"), "at_hand": frozenset()},
            "builtin",
            "llama.cpp isn't at hand: it reads GGUF files of embedding models",
        ),
        (
            {"spec__model__source": GGUF.replace("Q4_K_M", "IQ2_XS")},
            {"gpu": False},
            "llamacpp",
            "it computes GGUF files of the kind IQ2_XS as they are, which the builtin engine would unpack",
        ),
        (
            {"spec__model__source": GGUF.replace("Q4_K_M", "IQ2_XS")},
            {"gpu": False, "at_hand": frozenset()},
            "builtin",
            "it unpacks GGUF files of the kind IQ2_XS; llama.cpp, which isn't at hand, computes them as they are",
        ),
        ({"spec__model__source": GGUF}, {}, "llamacpp", None),
        ({"spec__model__source": GGUF, "spec__quantization": "4bit"}, {}, "builtin", None),
    ],
)
def test_auto_chooses_with_a_reason(
    changes: dict[str, Any], facts: dict[str, Any], chosen: EngineName, reason: str | None
) -> None:
    known = {name: getattr(ON_GPU, name) for name in EngineFacts.__slots__} | facts
    choice = choose_engine(resource(**changes), EngineFacts(**known))
    assert choice.name == chosen, choice
    assert choice.reason
    assert not choice.reason.endswith(".")
    assert reason is None or choice.reason == reason


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", None),
        ("model-Q5_K_M.gguf", None),
        ("model-BF16.gguf", None),
        ("Qwen3-8B-UD-Q2_K_XL.gguf", "Q2_K_XL"),
        ("folder-IQ1/model.Q3_K_S.gguf", "Q3_K_S"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("bitnet-TQ1_0.gguf", "TQ1_0"),
        ("IQ4_NL.gguf", "IQ4_NL"),
        ("iq-test-Q8_0.gguf", None),
    ],
)
def test_the_kind_of_a_gguf_file_is_in_its_name(file: str, kind: str | None) -> None:
    assert unpacked_kind(file) == kind


def test_json_arguments_are_json() -> None:
    given = command("vllm", spec__model__family="omni")
    assert json.loads(given[given.index("--limit-mm-per-prompt") + 1]) == {"image": 64, "video": 64, "audio": 64}


PEFT = [{"name": "sql", "source": "hf://acme/sql"}, {"name": "french", "source": "hf://acme/french"}]
GGUF_ADAPTERS = [{"name": "sql", "source": "hf://acme/sql?file=sql.gguf"}]


def test_vllm_gets_adapters_with_room_for_the_highest_of_their_ranks() -> None:
    arguments = command("vllm", spec__adapters=PEFT)
    at = arguments.index("--enable-lora")
    assert arguments[at : at + 7] == [
        "--enable-lora",
        "--max-loras",
        "2",
        "--max-cpu-loras",
        "2",
        "--max-lora-rank",
        RANK_WORD,
    ]
    assert arguments[at + 7] == "--lora-modules"
    assert [json.loads(each) for each in arguments[at + 8 :]] == [
        {"name": "qwen-vl:sql", "path": "/run/ams/adapters/sql"},
        {"name": "qwen-vl:french", "path": "/run/ams/adapters/french"},
    ]


@pytest.mark.parametrize(("adapters", "rows", "at_once"), [(2, 16, 2), (20, 16, 8), (20, 4, 4), (1, 1, 1)])
def test_vllm_applies_no_more_adapters_at_once_than_can_be_asked_for(adapters: int, rows: int, at_once: int) -> None:
    given = [{"name": f"a{number}", "source": "hf://acme/a"} for number in range(adapters)]
    arguments = command("vllm", spec__adapters=given, spec__limits__concurrentRequests=rows)
    assert has(arguments, "--max-loras", str(at_once), "--max-cpu-loras", str(adapters))


@pytest.mark.parametrize("adapters", [PEFT, PEFT[:1]])
def test_adapters_that_come_and_go_are_no_part_of_the_command(adapters: list[dict[str, str]]) -> None:
    """It is the same whichever they are, and has room for all that a model may have."""
    given = wishes_of(resource(spec__adapters=adapters), model="m", host="h", port=1, dynamic_adapters=True)
    rank = ["--max-lora-rank", RANK_WORD]
    arguments = vllm.command(given)
    assert arguments[arguments.index("--enable-lora") :] == [
        "--enable-lora", "--max-loras", "8", "--max-cpu-loras", "32", *rank
    ]  # fmt: skip
    assert vllm.variables(given)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    arguments = sglang.command(given)
    assert arguments[arguments.index("--enable-lora") :] == [
        "--enable-lora", "--max-loras-per-batch", "9", *rank, "--lora-target-modules", "all"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "spec", "dynamic"),
    [
        ("vllm", {}, True),
        ("sglang", {}, True),
        ("llamacpp", {}, False),
        ("custom", {}, False),
        ("builtin", {}, False),
        ("vllm", {"spec__adapters": []}, False),
        ("vllm", {"spec__engine__nodes": 2, "spec__cache__accessMode": "ReadWriteMany"}, False),
        ("vllm", {"spec__engine__args": ["--data-parallel-size", "2"]}, False),
        ("vllm", {"spec__engine__args": ["--api-server-count=2"]}, False),
        ("vllm", {"spec__engine__args": ["--max-lora-rank", "64"]}, True),
    ],
)
def test_which_engines_load_adapters_while_they_run(engine: Any, spec: dict[str, Any], dynamic: bool) -> None:
    given = resource(**{"spec__adapters": PEFT, "spec__engine__name": "vllm", **spec})
    assert has_dynamic_adapters(given, row_of(engine)) == dynamic


@pytest.mark.parametrize(("rank", "room"), [(1, 8), (8, 8), (9, 16), (64, 64), (300, 320), (512, 512), (513, None)])
def test_ranks_are_rounded_to_those_that_vllm_makes_room_for(rank: int, room: int | None) -> None:
    assert vllm.lora_rank(rank) == room


def test_adapters_of_an_embedding_model_are_refused() -> None:
    given = resource(spec__adapters=PEFT, spec__model__family="embedding")
    (sentence,) = ROWS["vllm"].refusals(given)
    assert sentence.startswith("spec.adapters: they are for models that generate")


def test_sglang_gets_adapters() -> None:
    arguments = command("sglang", spec__adapters=PEFT)
    assert has(arguments, "--enable-lora", "--max-loras-per-batch", "3", "--lora-paths")
    first = json.loads(arguments[arguments.index("--lora-paths") + 1])
    assert first == {"lora_name": "sql", "lora_path": "/run/ams/adapters/sql", "pinned": False}


def test_llamacpp_gets_adapters_that_no_request_gets_unasked() -> None:
    arguments = command("llamacpp", spec__model__source=GGUF, spec__adapters=GGUF_ADAPTERS)
    assert has(arguments, "--lora", "/run/ams/adapters/sql.gguf", "--lora-init-without-apply")


@pytest.mark.parametrize(
    ("name", "source", "adapters", "sentence"),
    [
        ("vllm", "hf://acme/tiny", GGUF_ADAPTERS, "spec.adapters[0].source: this engine takes a folder"),
        ("sglang", "hf://acme/tiny", GGUF_ADAPTERS, "spec.adapters[0].source: this engine takes a folder"),
        ("llamacpp", GGUF, PEFT, "spec.adapters[0].source: llamacpp takes a GGUF file"),
        ("custom", "hf://acme/tiny", PEFT, "spec.adapters: nobody knows"),
        ("builtin", "hf://acme/tiny", PEFT, "spec.adapters: the builtin engine applies none; name vllm"),
        (
            "auto",
            "hf://acme/tiny",
            PEFT,
            "spec.adapters: the builtin engine applies none (it was chosen because no GPU",
        ),
        (
            "auto",
            GGUF,
            GGUF_ADAPTERS,
            "spec.adapters: the builtin engine applies none (it was chosen because llama.cpp",
        ),
    ],
)
def test_what_an_engine_cannot_do_with_adapters_is_refused(
    name: str, source: str, adapters: list[dict[str, str]], sentence: str
) -> None:
    given = resource(spec__model__source=source, spec__adapters=adapters, spec__engine__name=name)
    choice = choose_engine(given, EngineFacts(architectures=QWEN3))
    assert [each[: len(sentence)] for each in refusals(given, choice)][:1] == [sentence]


def test_auto_takes_an_engine_that_applies_adapters() -> None:
    gguf = resource(spec__model__source=GGUF, spec__adapters=GGUF_ADAPTERS)
    choice = choose_engine(gguf, EngineFacts(at_hand=frozenset({"llamacpp"})))
    assert (choice.name, refusals(gguf, choice)) == ("llamacpp", [])
    folder = resource(spec__adapters=PEFT, spec__model__source="hf://acme/tiny", spec__resources=GPU)
    choice = choose_engine(folder, EngineFacts(architectures=QWEN3, gpu=True, at_hand=frozenset({"vllm"})))
    assert (choice.name, refusals(folder, choice)) == ("vllm", [])


def test_the_example_with_adapters_is_one_that_vllm_takes() -> None:
    text = (Path(__file__).parents[2] / "examples/engines/qwen3-adapters.yaml").read_text()
    given = parse_model_deployment(yaml.safe_load(text))
    choice = choose_engine(given, EngineFacts())
    assert (choice.name, refusals(given, choice)) == ("vllm", [])
    assert [each.name for each in given.spec.adapters] == ["sql", "french"]
