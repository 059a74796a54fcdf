"""Real engines with LoRA adapters, by a whole `ams up`: answers differ by adapter, and the model's stay its own.

llama-server is found by AMS_LLAMA_SERVER or on the PATH; vLLM by AMS_VLLM, and its model by AMS_ENGINES_FOLDER. What
isn't there is skipped.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakehub.tiny_gguf import make_gguf
from fakehub.tiny_lora import gguf_lora, peft

PROGRAM = os.environ.get("AMS_LLAMA_SERVER") or shutil.which("llama-server")
VLLM, VLLM_MODEL = os.environ.get("AMS_VLLM"), os.environ.get("AMS_ENGINES_FOLDER")
ADAPTERS = ("french", "sql")
CHAT = {
    "messages": [{"role": "user", "content": "the cat sat"}],
    "max_tokens": 16,
    "temperature": 0,
    "ignore_eos": True,
}


@dataclass
class Served:
    url: str

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=300) as answer:
            return json.load(answer)

    def chat(self, model: str, **more: Any) -> str:
        status, answer = self.post("/v1/chat/completions", {**CHAT, "model": model, **more})
        assert status == 200, answer
        assert answer["model"] == model
        return str(answer["choices"][0]["message"]["content"])


@contextmanager
def up(folder: Path, adapters: list[dict[str, str]], base: Path, engine: str = "auto", **more: Any) -> Iterator[Served]:
    manifest = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny"},
        "spec": {
            "model": {"source": f"file://{base}"},
            "engine": {"name": engine, **more},
            "adapters": adapters,
            "limits": {"contextTokens": 512, "concurrentRequests": 4},
            "resources": {"limits": {"cpu": "1"}},
        },
    }
    (folder / "model.yaml").write_text(json.dumps(manifest))
    words = [sys.executable, "-m", "ams_cli.main", "up", "-f", str(folder / "model.yaml"), "--port", "0"]
    programs = {"llamacpp": PROGRAM, "vllm": VLLM}
    words += ["--engine-path", ",".join(f"{name}={path}" for name, path in programs.items() if path)]
    words += ["--models-dir", str(folder / "models")]
    words += ["--log-dir", str(folder / "logs"), "--usage-file", str(folder / "usage.db")]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield Served(announced(process, folder / "output"))
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def announced(process: "subprocess.Popen[bytes]", output: Path) -> str:
    while process.poll() is None:
        for line in output.read_text().splitlines():
            if line.startswith("AI Model Server on "):
                return line.split()[4]
        time.sleep(0.1)
    raise AssertionError(output.read_text())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", context=512)


@pytest.fixture(scope="module")
def served(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`engine: auto`, which takes llama.cpp because of the adapters."""
    if PROGRAM is None:
        pytest.skip("no llama-server: neither AMS_LLAMA_SERVER nor on the PATH")
    folder = tmp_path_factory.mktemp("a,b")  # a comma parts llama.cpp's adapters
    made = [gguf_lora(folder / f"{name}.gguf", seed=seed) for seed, name in enumerate(ADAPTERS, 1)]
    with up(folder, [{"name": path.stem, "source": f"file://{path}"} for path in made], base) as found:
        yield found


def test_each_adapter_answers_otherwise_and_the_model_as_if_there_were_none(
    served: Served, base: Path, tmp_path: Path
) -> None:
    with up(tmp_path, [], base, "llamacpp") as alone:
        model = alone.chat("tiny")
    assert served.chat("tiny") == model
    answers = {name: served.chat(f"tiny:{name}") for name in ADAPTERS}
    assert len({model, *answers.values()}) == 3, "adapters with large scales change every answer"
    for _ in range(2):  # whatever slots hold by now
        assert served.chat("tiny") == model
        assert {name: served.chat(f"tiny:{name}") for name in ADAPTERS} == answers
    assert served.chat("tiny", cache_salt="mine") == model
    assert served.chat("tiny:french", cache_salt="mine") == answers["french"]


def test_many_at_once_get_their_own(served: Served) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = ["tiny", "tiny:french", "tiny:sql"]
    alone = {name: served.chat(name) for name in names}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: (name, served.chat(name)), names * 6))
    assert all(text == alone[name] for name, text in found)


def test_every_route_takes_an_adapter(served: Served) -> None:
    prompt = {"prompt": "the cat sat", "temperature": 0, "ignore_eos": True}
    told = {}
    for name in ("tiny", "tiny:french"):
        status, answer = served.post(f"/generate/{name}", {**prompt, "max_new_tokens": 8})
        assert (status, answer["model"]) == (200, name)
        told[name] = answer["response"]
        status, answer = served.post("/v1/completions", {**prompt, "model": name, "max_tokens": 8})
        assert (status, answer["model"]) == (200, name)
        status, answer = served.post("/v1/responses", {"model": name, "input": "hi", "max_output_tokens": 16})
        assert (status, answer["model"]) == (200, name)
        message = {"model": name, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
        status, answer = served.post("/v1/messages", message)
        assert (status, answer["model"]) == (200, name)
    assert told["tiny"] != told["tiny:french"]


def test_names(served: Served) -> None:
    cards = {card["id"]: card for card in served.get("/v1/models")["data"]}
    assert list(cards) == ["tiny", "tiny:french", "tiny:sql"]
    assert cards["tiny:sql"]["parent"] == "tiny"
    status, answer = served.post("/v1/chat/completions", {**CHAT, "model": "tiny:german"})
    assert status == 404
    assert "tiny:french, tiny:sql" in answer["error"]["message"]
    status = served.get("/admin/model_status")["model_configs"]["tiny"]
    assert status["state"] == "ready"


@pytest.mark.skipif(PROGRAM is None, reason="no llama-server: neither AMS_LLAMA_SERVER nor on the PATH")
def test_an_adapter_of_another_model_is_told_before_it_is_loaded(base: Path, tmp_path: Path) -> None:
    wrong = gguf_lora(tmp_path / "wrong.gguf", inputs=32)
    with up(tmp_path, [{"name": "wrong", "source": f"file://{wrong}"}], base) as found:
        status, answer = found.post("/v1/chat/completions", {**CHAT, "model": "tiny"})
    assert status == 503
    assert "The adapter wrong is for another model" in answer["error"]["message"]


@pytest.mark.skipif(not (VLLM and VLLM_MODEL), reason="no vLLM, or no model for it: AMS_VLLM and AMS_ENGINES_FOLDER")
def test_vllm_applies_adapters_of_several_ranks(tmp_path: Path) -> None:
    model = Path(str(VLLM_MODEL))
    config = json.loads((model / "config.json").read_text())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    modules = {"self_attn.q_proj": (hidden, hidden), "mlp.down_proj": (hidden, config["intermediate_size"])}
    adapters = []
    for number, name in enumerate(ADAPTERS, 1):
        folder = tmp_path / name
        folder.mkdir()
        for file, data in peft(rank=12 * number, layers=layers, modules=modules, seed=number, scale=0.05).items():
            (folder / file).write_bytes(data)
        adapters.append({"name": name, "source": f"file://{folder}"})
    variables = [{"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"}]
    with up(tmp_path, adapters, model, "vllm", env=variables, args=["--enforce-eager"]) as served:
        plain = served.chat("tiny")
        answers = {name: served.chat(f"tiny:{name}") for name in ADAPTERS}
        assert len({plain, *answers.values()}) == 3
        assert served.chat("tiny") == plain
        assert {name: served.chat(f"tiny:{name}") for name in ADAPTERS} == answers
