"""`ams import` under wrong types at every key of every reader, and values that no product would write."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_cli.importing.command import imported_text
from ams_cli.importing.products import PRODUCTS
from ams_cli.main import main
from ams_cli.manifests import ManifestError, load_manifests
from test_cli.test_import_charts import LLM_D, STACK
from test_cli.test_import_compose import COMPOSE
from test_cli.test_import_workloads import AUTOSCALER, DEPLOYMENT, SCALED_OBJECT, SERVERS, VOLUMES, workload
from test_cli.test_importing import KAITO, KSERVE, KUBEAI, LLAMA_SWAP, LLMISVC, RUNTIME

LEADER = """
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata: {name: big}
spec:
  leaderWorkerTemplate:
    size: 2
    leaderTemplate: {spec: {containers: [{image: vllm/vllm-openai, args: [--model, a/b]}]}}
"""
CONFIG = "{kind: ConfigMap, apiVersion: v1, metadata: {name: c}, data: {A: b}}"
FILES = {
    "kubeai": KUBEAI,
    "kserve": KSERVE,
    "kserve llm": LLMISVC,
    "kserve runtime": RUNTIME,
    "kaito": KAITO,
    "llama-swap": LLAMA_SWAP,
    "deployment": f"{DEPLOYMENT}---{AUTOSCALER}---{SCALED_OBJECT}---\n{CONFIG}",
    "leader": LEADER,
    "production stack": STACK,
    "llm-d": LLM_D,
    "compose": COMPOSE,
    **{
        name: workload(SERVERS[name][0], "StatefulSet", volumes=VOLUMES) for name in ("SGLang", "llama.cpp", "adapters")
    },
    "text-generation-inference": workload(SERVERS["text-generation-inference"][0], "Pod"),
}
WRONG: tuple[Any, ...] = (
    None, True, -1, 10**30, float("nan"), "", "\n---\nkind: Secret\n", "a" * 70_000, "hf_" + "s3cr3t" * 5, [], {},
    [[]], [None],
    [{"a": 1}], {1: 2}, {"x": {"y": [1]}}, "$(A)", "${A}", "{{ .Values.x }}", "-", "--model", "'", "../../x",
    "https://u:s3cr3t@h/x",
    "é\u2028x", "\x1b[2J", "model:\ud7ff", ["--model"], ["--lora-modules", "{", "x="], ["sh", "-c", "$A; 'x"],
)  # fmt: skip
SECRETS = ("s3cr3t", "hunter2")


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    result = copy.deepcopy(value)
    place = result
    if not path:
        return new
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = new
    return result


def held(text: str, folder: Path) -> None:
    """What is written is ModelDeployments that `ams plan` reads, and nothing of it is secret."""
    kinds = [document.get("kind") for document in yaml.safe_load_all(text) if document]
    assert set(kinds) <= {"ModelDeployment"}
    if kinds:
        (folder / "out.yaml").write_text(text, encoding="utf-8")
        assert len(load_manifests([str(folder / "out.yaml")]).models) == len(kinds)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_value_at_any_key_is_told(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = list(yaml.safe_load_all(FILES[name]))
    given = tmp_path / "given.yaml"
    tried = 0
    for number, path in enumerate(paths(documents)):
        # Each place gets a few of the values, all values come to some place.
        for wrong in WRONG[number % 15 :: 15] if path else WRONG:
            try:
                text = yaml.safe_dump_all(put(documents, path, wrong) or [None])
            except TypeError:
                text = yaml.safe_dump(wrong)
            given.write_text(text, encoding="utf-8")
            tried += 1
            assert main(["import", str(given)]) in (0, 1, 2)
            written, said = capsys.readouterr()
            held(written, tmp_path)
            # A variable by another name is no secret.
            secrets = SECRETS[:1] if "env" in path or "environment" in path else SECRETS
            assert not any(secret in written + said for secret in secrets), (path, wrong)
            assert "\x1b" not in written + said
    assert tried > 10


def test_every_product_has_a_file() -> None:
    assert set(PRODUCTS) == {
        "kubeai",
        "kserve",
        "kaito",
        "llama-swap",
        "kubernetes",
        "production-stack",
        "llm-d",
        "compose",
    }
    assert len(FILES) > len(PRODUCTS)


@pytest.mark.parametrize("name", FILES)
def test_one_product_alone_reads_nothing_of_others(name: str, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text(FILES[name], encoding="utf-8")
    read = []
    for product in PRODUCTS:
        try:
            imported_text([str(tmp_path / "given.yaml")], product, {})
            read.append(product)
        except ManifestError:
            continue
    assert len(read) <= 1


@pytest.mark.parametrize(
    "text",
    [
        "services:\n  a: &a [&b {image: vllm/vllm-openai}, *b]\n" + "".join(f"  x{n}: [*a, *a]\n" for n in range(9)),
        "a0: &a0 [x, x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}, *a{n}]\n" for n in range(30)),
        "services: {m: {image: vllm/vllm-openai, command: '" + "${A:-" * 30_000 + "'}}",
        "services: {m: {image: vllm/vllm-openai, command: \"" + "'" * 120_000 + "\"}}",
        workload({"image": "vllm/vllm-openai", "args": ["$(A)" * 30_000], "env": [{"name": "A",
        "value": "x" * 60_000}]}),
        workload({"image": "vllm/vllm-openai", "args": ["--lora-modules", "[" * 100_000, '{"a":' * 50_000]}),
        workload({"image": "x", "command": ["sh", "-c", "A=x;" * 30_000 + "vllm serve a/b"]}),
        workload({"image": "tgi", "env": [{"name": f"A{n}",
        "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(2_000)]}),
        "servingEngineSpec: {modelSpec: [" + "{name: a, modelURL: a/b}, " * 1_001 + "]}",
    ],
)  # fmt: skip
def test_files_that_would_grow(text: str, tmp_path: Path) -> None:
    (tmp_path / "given.yaml").write_text(text, encoding="utf-8")
    try:
        written, _ = imported_text([str(tmp_path / "given.yaml")], "auto", {})
    except ManifestError:
        return
    assert len(written) < 8 << 20
