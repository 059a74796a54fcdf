"""Real engines with LoRA adapters, by a whole `ams up`: answers differ by adapter, and the model's stay its own.

llama-server is found by AMS_LLAMA_SERVER or on the PATH; vLLM by AMS_VLLM, and its model by AMS_ENGINES_FOLDER. What
isn't there is skipped.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import test_pod
from ams_common.engines.vllm import ROW
from ams_common.engines.wishes import wishes_of
from ams_common.resource.parse import parse_model_deployment
from fakehub import checkpoints
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


PATIENCE_SECONDS = 420.0  # of vLLM's start on a small machine


@dataclass
class Place:
    """What a pod's containers share: the list of adapters, the folder of links, and what each writes."""

    folder: Path
    model: Path

    @property
    def listed(self) -> Path:
        return self.folder / "adapters.json"

    @property
    def links(self) -> Path:
        return self.folder / "run"

    def adapter(self, name: str, seed: int, rank: int = 12) -> Path:
        """The folder of one for the model."""
        config = json.loads((self.model / "config.json").read_text())
        hidden, layers = config["hidden_size"], config["num_hidden_layers"]
        modules = {"self_attn.q_proj": (hidden, hidden), "mlp.down_proj": (hidden, config["intermediate_size"])}
        folder = self.folder / name
        folder.mkdir()
        for file, data in peft(rank=rank, layers=layers, modules=modules, seed=seed, scale=0.05).items():
            (folder / file).write_bytes(data)
        return folder

    def write(self, **adapters: Path) -> None:
        given = [{"name": name, "source": f"file://{path}"} for name, path in adapters.items()]
        scratch = self.listed.with_suffix(".new")
        scratch.write_text(json.dumps(given))
        os.replace(scratch, self.listed)

    def fetching(self, command: str) -> list[str]:
        words = [sys.executable, "-m", "ams_pod", command, "--source", f"file://{self.model}", "--engine", "vllm"]
        words += ["--models-dir", str(self.folder / "models"), "--link-dir", str(self.links)]
        return [*words, "--adapters-file", str(self.listed), "--progress-port", "-1"]

    def vllm(self) -> tuple[list[str], dict[str, str]]:
        """Its command and variables, as the operator has it started, but as a process of the pod's own."""
        manifest = {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "tiny"},
            "spec": {
                "model": {"source": f"file://{self.model}"},
                "engine": {"name": "vllm", "args": ["--enforce-eager"]},
                "adapters": [{"name": "any", "source": "hf://acme/any"}],
                "limits": {"contextTokens": 512, "concurrentRequests": 4},
            },
        }
        rank = (self.links / "adapters" / "max-lora-rank").read_text()
        wishes = wishes_of(
            parse_model_deployment(manifest), model="{model}", host="127.0.0.1", port="{port}", lora_rank=rank,
            dynamic_adapters=True,
        )  # fmt: skip
        return [str(VLLM), *ROW.full_command(wishes)[1:]], ROW.variables(wishes) | {"VLLM_CPU_KVCACHE_SPACE": "1"}

    def serving(self, command: list[str], variables: dict[str, str]) -> list[str]:
        words = [sys.executable, "-m", "ams_pod", "serve", "--name", "tiny", "--source", f"file://{self.model}"]
        words += ["--engine", "vllm", "--engine-command", json.dumps(command), "--host", "127.0.0.1", "--port", "0"]
        words += ["--engine-variables", json.dumps(variables), "--engine-log", str(self.folder / "engine.log")]
        words += ["--context-tokens", "512", "--concurrent-requests", "4", "--models-dir", str(self.folder / "models")]
        return [*words, "--adapters-state", str(self.links / "adapters" / "state.json")]

    @contextmanager
    def running(self, words: list[str], log: str) -> Iterator[Path]:
        output = self.folder / log
        with output.open("wb") as file:
            process = subprocess.Popen(words, stdout=file, stderr=file)
        try:
            yield output
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def pod_at(log: Path) -> Served:
    """Once it answers."""
    until = time.monotonic() + PATIENCE_SECONDS
    served = None
    while time.monotonic() < until:
        if served is None and (found := re.search(r"listens on \('127.0.0.1', (\d+)\)", log.read_text())) is not None:
            served = Served(f"http://127.0.0.1:{found[1]}")
        with suppress(urllib.error.URLError, ConnectionError):
            if served is not None and served.get("/ready")["phase"] == "ready":
                return served
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-5000:])


def adapters_until(served: Served, holds: Callable[[dict[str, Any]], bool], seconds: float = 60.0) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while True:
        told = {each["name"]: each for each in served.get("/admin/model_status")["adapters"]}
        if holds(told):
            return told
        assert time.monotonic() < until, told
        time.sleep(0.2)


def states(told: dict[str, Any]) -> dict[str, str]:
    return {name: each["state"] for name, each in told.items()}


def test_a_pods_processes_follow_the_list(tmp_path: Path) -> None:
    """As of a pod in a cluster: `download`, then `adapters` beside `serve`, and a scripted server for vLLM."""
    place = Place(tmp_path, checkpoints.make("llama", tmp_path / "llama"))
    french, sql = place.adapter("french", 1), place.adapter("sql", 2)
    place.write(french=french, typo=tmp_path / "none")
    subprocess.run(place.fetching("download"), check=True, timeout=120)
    fake = Path(test_pod.__path__[0]) / "fake_engine.py"
    command = [sys.executable, str(fake), "--port", "{port}", "--script", json.dumps({"adapters": 0})]
    serving = place.serving(command, {})
    with place.running(place.fetching("adapters"), "adapters.log"), place.running(serving, "serve.log") as log:
        served = pod_at(log)
        told = adapters_until(served, lambda told: len(told) == 2)
        assert states(told) == {"french": "ready", "typo": "failed"}
        assert "is not a folder on this machine" in told["typo"]["message"]
        assert served.chat("tiny:french") == served.chat("tiny")  # it has the same words for all
        status, answer = served.post("/v1/chat/completions", {**CHAT, "model": "tiny:typo"})
        assert (status, answer["error"]["code"]) == (503, "model_loading")
        assert "is not a folder on this machine" in answer["error"]["message"]
        place.write(sql=sql, french=french)
        adapters_until(served, lambda told: states(told) == {"sql": "ready", "french": "ready"})
        assert [card["id"] for card in served.get("/v1/models")["data"]] == ["tiny", "tiny:sql", "tiny:french"]
        place.write(sql=sql)
        adapters_until(served, lambda told: states(told) == {"sql": "ready"})
        assert served.post("/v1/chat/completions", {**CHAT, "model": "tiny:french"})[0] == 404


@pytest.mark.skipif(not (VLLM and VLLM_MODEL), reason="no vLLM, or no model for it: AMS_VLLM and AMS_ENGINES_FOLDER")
@pytest.mark.timeout(3 * PATIENCE_SECONDS)
def test_vllm_loads_and_unloads_adapters_while_it_runs(tmp_path: Path) -> None:
    place = Place(tmp_path, Path(str(VLLM_MODEL)))
    french, sql, other = (place.adapter(name, seed) for seed, name in enumerate(("french", "sql", "other"), 1))
    large, typo = place.adapter("large", 4, rank=64), tmp_path / "none"
    place.write(french=french, typo=typo)
    subprocess.run(place.fetching("download"), check=True, timeout=120)
    with (
        place.running(place.fetching("adapters"), "adapters.log"),
        place.running(place.serving(*place.vllm()), "serve.log") as log,
    ):
        served = pod_at(log)
        told = adapters_until(served, lambda told: len(told) == 2)
        assert states(told) == {"french": "ready", "typo": "failed"}
        plain, as_french = served.chat("tiny"), served.chat("tiny:french")
        assert plain != as_french
        # Another one, while the first answers.
        with ThreadPoolExecutor(1) as pool:
            long = pool.submit(served.chat, "tiny:french", max_tokens=300)
            place.write(sql=sql)
            began = time.monotonic()
            adapters_until(served, lambda told: states(told) == {"sql": "ready"})
            print(f"sql was there after {time.monotonic() - began:.1f} s")
            as_sql = served.chat("tiny:sql")
            assert long.result().startswith(as_french)
        assert len({plain, as_french, as_sql}) == 3
        assert [card["id"] for card in served.get("/v1/models")["data"]] == ["tiny", "tiny:sql"]
        status, answer = served.post("/v1/chat/completions", {**CHAT, "model": "tiny:french"})
        assert (status, answer["error"]["code"]) == (404, "model_not_found")
        # Other bytes of the same name, and one for which the engine has no room.
        place.write(sql=other, large=large, french=french)
        told = adapters_until(served, lambda told: states(told).get("french") == "ready")
        told = adapters_until(served, lambda told: "loading" not in states(told).values() and len(told) == 3)
        assert states(told) == {"sql": "ready", "large": "failed", "french": "ready"}
        assert '["--max-lora-rank", "64"]' in told["large"]["message"]
        as_other = served.chat("tiny:sql")
        assert as_other not in (as_sql, plain)
        assert (served.chat("tiny"), served.chat("tiny:french")) == (plain, as_french)
        # An engine that is started anew has them again before anybody is answered.
        [line] = [each for each in log.read_text().splitlines() if "engine started as process" in each]
        found = re.search(r"process (\d+)", line)
        assert found is not None
        os.killpg(int(found[1]), signal.SIGKILL)
        status, answer = served.post("/v1/chat/completions", {**CHAT, "model": "tiny:sql"})
        if status != 200:  # its client asks again, as the error says
            answer = {"choices": [{"message": {"content": served.chat("tiny:sql")}}]}
        assert answer["choices"][0]["message"]["content"] == as_other
        assert served.chat("tiny:french") == as_french
