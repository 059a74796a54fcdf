"""The manifests of examples/, unchanged: planned, downloaded, and served on demand to the older server's requests."""

import base64
import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ams_cli import engines, plan
from ams_cli.manifests import load_manifests
from ams_cli.plan import make_plan, on_machine, remarks
from ams_cli.preview import Preview
from ams_cli.up import example
from ams_common.families import FAMILIES, family_of
from ams_common.fit import Need
from ams_common.memory_offers import needs_for, size_of
from ams_common.quantity import format_bytes
from ams_common.resource.parse import parse_model_deployment
from fakehub import checkpoints
from fakehub.faults import Fault
from fakehub.server import FakeHub
from test_cli import real_models
from test_cli.examples_world import (
    EXAMPLES,
    MANIFESTS,
    MODELS,
    TEXTS,
    Client,
    Machine,
    fill,
    make_machine,
    make_quickstart_wheel,
    name_of,
)
from test_media.media_files import picture, saved, sound, video

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning"),  # of the fake hub
]

IMAGE = base64.b64encode(saved(picture(112, 84), "JPEG")).decode()
AUDIO = base64.b64encode(sound("wav", "pcm_s16le", seconds=1.0)).decode()
VIDEO = base64.b64encode(video(sound_codec="aac", frames=20)).decode()
MEDIA = {"image": IMAGE, "audio": AUDIO, "video": VIDEO}
ALL = ("-f", str(EXAMPLES))
MEMORY = re.compile(r"bfloat16 needs ([\d.]+ GiB) of memory, 4-bit ([\d.]+ GiB)")
WEIGHTS = re.compile(r"weights are ([\d.]+ GiB)")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with tiny models under the names of the real ones."""
    with FakeHub() as running:
        fill(running, tmp_path_factory.mktemp("repositories"))
        yield running


@pytest.fixture(scope="module")
def machines(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Machine]:
    base = tmp_path_factory.mktemp("machines")
    wheels = tmp_path_factory.mktemp("wheels")
    make_quickstart_wheel(wheels)
    return lambda name: make_machine(base / name, hub, wheels)


def test_plan_and_download(machines: Callable[[str], Machine], hub: FakeHub) -> None:
    machine = machines("downloads")
    planned = machine.ams("plan", *ALL)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert [line.split()[0] for line in planned.stdout.splitlines()[1 : len(MODELS) + 1]] == MODELS
    assert not hub.downloads("model.safetensors"), "it fetches nothing"

    hub.fail(Fault("stall", "model.safetensors", after=300_000))
    interrupted = machine.start("download", *ALL)
    deadline = time.monotonic() + 300
    while not any(asked.sent >= 300_000 for asked in hub.downloads("model.safetensors")) or not any(
        part.stat().st_blocks for part in machine.folder.rglob("model.safetensors.part")
    ):
        assert time.monotonic() < deadline, machine.output
        time.sleep(0.02)
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(300) == 130
    hub.faults.clear()
    hub.release()
    hub.requests.clear()

    resumed = machine.ams("download", *ALL)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for model in MODELS:
        assert re.search(rf"^{model}: downloaded: .* in /", resumed.stdout, re.MULTILINE), resumed.stdout
    assert hub.downloads("model.safetensors")[0].start > 0, "it begins where the first one was interrupted"

    again = machine.ams("download", *ALL)
    assert re.findall(r"^(\S+): already there: ", again.stdout, re.MULTILINE) == MODELS
    plan = json.loads(machine.ams("plan", *ALL, "-o", "json").stdout)
    assert {row["name"]: row["download_bytes"] for row in plan["models"]} == dict.fromkeys(MODELS, 0)


def ask(client: Client, model: str, **body: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 300
    while True:
        status, found = client.post(f"/generate/{model}", {"max_new_tokens": 8, **body})
        if status != 503 or found["details"]["code"] != "model_loading" or time.monotonic() > deadline:
            break  # a busy machine may take longer than the gateway holds a request
    assert status == 200, found
    assert isinstance(found["response"], str)
    assert "degraded" not in found
    return found


def vector_of(client: Client, model: str) -> list[float]:
    deadline = time.monotonic() + 300
    while True:
        status, found = client.post("/v1/embeddings", {"model": model, "input": "What is this?"})
        if status != 503 or time.monotonic() > deadline:
            break
    assert status == 200, found
    return list(found["data"][0]["embedding"])


def states(client: Client) -> dict[str, str]:
    _, found = client.get("/admin/model_status")
    return {name: found["model_configs"][name]["state"] for name in found["available_models"]}


def answer_of(client: Client, model: str, **body: Any) -> str:
    """The whole answer of a chat, which is the same when it is streamed."""
    body = {"model": model, "max_tokens": 8, "temperature": 0, **body}
    status, whole = client.post("/v1/chat/completions", body)
    assert status == 200, whole
    text = str(whole["choices"][0]["message"]["content"])
    deltas = [chunk["choices"][0]["delta"] for chunk in client.stream("/v1/chat/completions", body | {"stream": True})]
    assert "".join(delta.get("content") or "" for delta in deltas) == text
    return text


def test_all_are_served_on_demand(machines: Callable[[str], Machine]) -> None:
    """Each with all that its family takes, as the older server was asked; and as OpenAI's API is."""
    machine = machines("server")
    with machine.up(*ALL) as client:
        assert "smollm2" in re.findall(r"Try: .*", machine.output)[0], "a model that answers text, and soon"
        cold = states(client)
        assert set(cold) == {name.replace("-", "_") for name in MODELS}
        assert all(cold[name] == "idle" for name in cold if name != "smollm2"), cold
        ask(client, "deepseek", prompt="Explain quantum computing in simple terms", temperature=0.7)
        assert states(client)["deepseek"] == "ready"
        assert states(client)["qwen_vl"] == "idle"
        for row in FAMILIES:
            model = name_of(row).replace("-", "_")
            if row.name == "embedding":
                assert len(vector_of(client, name_of(row))) == checkpoints.HIDDEN
                continue
            media = {kind: MEDIA[kind] for kind in row.modalities - {"text"}}
            found = ask(client, model, prompt="What is this? Analyze it", **media)
            assert found.get("model_type") == (row.model_type if row.answer_details else None)
            if "image" in row.modalities:
                part = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{IMAGE}"}}
                text = {"type": "text", "text": "What color is the car?"}
                answer_of(client, name_of(row), messages=[{"role": "user", "content": [part, text]}])
        ask(client, "smollm2", prompt="What is the capital of France?")
        _, status = client.get("/admin/model_status")
        for name, model in status["model_configs"].items():
            assert (model["state"], model["ready_replicas"], model["path_exists"]) == ("ready", 1, True), name
            assert Path(model["path"]).is_dir()
    assert machine.output.splitlines()[-1] == "stopped; nothing is left running"


def test_the_least_recently_used_leaves_when_memory_is_short(machines: Callable[[str], Machine]) -> None:
    machine = machines("small")
    with machine.up(*ALL, "--memory-limit", "32Mi") as client:  # every process holds more
        for model, more in (("deepseek", {}), ("blip_vqa", {"image": IMAGE}), ("deepseek", {})):
            ask(client, model, prompt="Which is larger?", **more)
            assert [name for name, state in states(client).items() if state == "ready"] == [model]
    assert "stopping deepseek: blip-vqa needs " in machine.output


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["blip-vqa"], """echo '{"prompt": "What is in the picture?", "image": "'$(base64 -w0 picture.jpg)'"}' | """),
        (["blip-vqa", "qwen-vl"], "curl -s http://here/generate/qwen_vl -H "),
        (["blip-vqa", "deepseek", "quickstart"], "curl -s http://here/generate/smollm2 -H "),
    ],
)
def test_the_suggested_request_can_be_answered(tmp_path: Path, names: list[str], words: str) -> None:
    models = load_manifests([str(EXAMPLES / f"{name}.yaml") for name in names]).models
    assert example(models, tmp_path, "http://here").startswith(words)


def test_the_manifests_say_what_the_real_models_need(tmp_path: Path) -> None:
    """Of those that give figures; `real_models` has to have them."""
    saying = {name: text for name, text in TEXTS.items() if MEMORY.search(text) or WEIGHTS.search(text)}
    assert saying
    files = [part for name in saying for part in ("-f", str(EXAMPLES / name))]
    with FakeHub() as real:
        for repository in real_models.repositories():
            real.add(repository)
        plan = json.loads(make_machine(tmp_path / "user", real, tmp_path).ams("plan", *files, "-o", "json").stdout)
    rows = {row["name"]: row for row in plan["models"]}
    for name, text in saying.items():
        row = rows[MANIFESTS[name]["metadata"]["name"]]
        if told := MEMORY.search(text):
            assert told[1] == format_bytes(row["memory_bytes"]["none"]), name
            need = _in_4_bits(name)
            assert told[2] == format_bytes(need.on("cuda").total_bytes), name
            assert row["memory_bytes"]["4bit"] == need.on("cpu").total_bytes, name  # this machine has no GPU
        if told := WEIGHTS.search(text):
            assert told[1] == format_bytes(row["download_bytes"]), name


def _in_4_bits(name: str) -> Need:
    """What the model of an example needs so, which differs by device: on a GPU embeddings aren't quantized."""
    spec = parse_model_deployment(MANIFESTS[name]).spec
    config, size = real_models.REAL[spec.model.source.removeprefix("hf://")]
    [need] = [each for each in needs_for(spec, size_of(config, size, None)) if each.quantization == "4bit"]
    return need


FOR_GPUS = ("qwen-vl.yaml", "qwen-audio.yaml", "qwen-omni.yaml", "deepseek.yaml")


@pytest.mark.parametrize("name", FOR_GPUS)
def test_who_serves_the_models_for_gpus(name: str) -> None:
    """Where there is a GPU and vLLM, vLLM; the builtin engine elsewhere. The manifest says so, and `ams plan`."""
    resource = parse_model_deployment(MANIFESTS[name])
    config, size = real_models.REAL[resource.spec.model.source.removeprefix("hf://")]
    assert MANIFESTS[name]["spec"]["engine"] == {"name": "auto"}
    found = Preview(
        resource, weights_bytes=size, total_bytes=size, config=config, family=family_of(config["architectures"])
    )
    vllm = {"vllm": "/opt/vllm"}
    for has, engine, reason in (
        (
            engines.Machine(vllm, 1, (80 << 30,)),
            "vllm",
            f"a GPU is asked for, and vLLM serves {config['architectures'][0]}",
        ),
        (engines.Machine({}, 1, (80 << 30,)), "builtin", "vLLM isn't at hand"),
        (engines.Machine(vllm), "builtin", "a GPU is asked for, and this machine has none"),
        (
            engines.Machine(vllm, 1, (4 << 30,)),
            "builtin",
            "the weights as they are don't fit the GPU, and the builtin engine quantizes them",
        ),
    ):
        made = make_plan([found], on_machine(plan.Machine(64 << 30, has.gpu_free)), None, has)
        assert (made.models[0].engine, made.models[0].engine_reason) == (engine, reason)
        assert f"{resource.metadata.name}: engine {engine}: {reason}" in remarks(made, "/models")
