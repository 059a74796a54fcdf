"""The hub is asked before anything is made; its answers, refusals and silence."""

import json
from collections.abc import Iterator

import pytest
from ams_kube.client import Client
from fakehub.faults import Fault
from fakehub.repository import File, Repository, Zeros
from fakehub.server import FakeHub
from kube_cluster import ControlPlane
from models import (
    CLAIMS,
    DEPLOYMENTS,
    MODELS,
    condition,
    create,
    model,
    until,
    until_children,
    until_condition,
)
from operator_process import OperatorProcess, operating

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # of the fake hub

GIBI = 1 << 30
CONFIG = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
}


def files(config: object = CONFIG, gibi: float = 7) -> dict[str, object]:
    return {"config.json": json.dumps(config).encode(), "model.safetensors": Zeros(int(gibi * GIBI))}


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(File, "sha256", "0" * 64)  # of gigabytes of zeros that nobody reads
        hub.add(Repository("acme/vision")).commit(files())
        hub.add(Repository("acme/gated", gated=True)).commit(files(gibi=0.001))
        hub.add(Repository("acme/mamba")).commit(files({"architectures": ["MambaModel"]}, 0.001))
        hub.add(Repository("acme/flaky")).commit(files(gibi=0.001))
        yield hub


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, home: str, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("operator") / "log"
    with operating(control_plane, log, home, hub_endpoint=hub.url, preflight_seconds=5) as process:
        yield process


async def test_what_the_hub_tells_is_in_the_status_and_sizes_the_volume(
    kube: Client, home: str, operator: OperatorProcess, hub: FakeHub
) -> None:
    await create(kube, home, "vision", model("hf://acme/vision", cache={"size": "auto"}, maxMemory={"0": "8Gi"}))
    await until_children(kube, home, "vision")
    resource = await until_condition(kube, home, "vision", "PreflightPassed", "True", "Passed", "7.0 GiB of weights")
    assert resource.status is not None
    told, chosen = resource.status.model, resource.status.quantization
    assert told is not None
    assert told.revision == hub.repositories["acme/vision"].resolve("main")
    assert (told.family, told.modalities) == ("vision-language", ["text", "image", "video"])
    assert (told.architecture, told.parameters) == ("Qwen2_5_VLForConditionalGeneration", "3.76B")
    assert (told.weights_bytes, told.context_tokens) == (7 * GIBI, 32768)
    assert chosen is not None
    assert chosen.chosen in ("8bit", "4bit")
    assert "does not fit 8.0 GiB" in (chosen.reason or "")
    claim = await kube.get(CLAIMS, home, "ams-vision")
    assert claim.spec["resources"] == {"requests": {"storage": "9Gi"}}, "1.2 times the weights"


REFUSED = {
    "gone": ("hf://acme/nothing", {}, "ModelNotFound", "Model acme/nothing doesn't exist on the hub"),
    "revision": ("hf://acme/vision@v9", {}, "RevisionNotFound", "acme/vision has no revision 'v9'"),
    "gated": ("hf://acme/gated", {}, "GatedModel", "acme/gated is gated: accept its terms at http"),
    "small": ("hf://acme/vision", {"cache": {"size": "5Gi"}}, "VolumeTooSmall", "spec.cache.size is 5.0 GiB"),
    "large": ("hf://acme/vision", {"maxMemory": {"0": "1Gi"}}, "DoesNotFitMemory", "does not fit 1.0 GiB"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cant_work_is_told_before_anything_is_made(
    kube: Client, home: str, operator: OperatorProcess, name: str
) -> None:
    source, spec, reason, words = REFUSED[name]
    await create(kube, home, name, model(source, **{"cache": {"size": "auto"}, **spec}))
    resource = await until_condition(kube, home, name, "PreflightPassed", "False", reason, words)
    ready = condition(resource, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", reason)
    assert await kube.list(DEPLOYMENTS, home, fields=f"metadata.name=ams-{name}") == []
    assert await kube.list(CLAIMS, home, fields=f"metadata.name=ams-{name}") == []


async def test_what_was_refused_works_once_it_is_corrected(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "corrected", model("hf://acme/nothing", cache={"size": "auto"}))
    await until_condition(kube, home, "corrected", "PreflightPassed", "False", "ModelNotFound")
    await kube.merge(MODELS, home, "corrected", {"spec": {"model": {"source": "hf://acme/vision"}}})
    await until_condition(kube, home, "corrected", "PreflightPassed", "True", "Passed")
    await until_children(kube, home, "corrected")


async def test_a_family_that_nobody_serves(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "mamba", model("hf://acme/mamba"))
    await until_condition(
        kube, home, "mamba", "Accepted", "False", "UnsupportedArchitecture", "MambaModel is not supported"
    )
    await kube.merge(MODELS, home, "mamba", {"status": {"message": "edited"}}, subresource="status")
    # Another turn, by what the status tells, has undone that.
    await until(kube, MODELS, home, lambda objects: "not supported" in (objects["mamba"].status.message or ""))
    await until_condition(kube, home, "mamba", "Accepted", "False", "UnsupportedArchitecture")
    assert await kube.list(DEPLOYMENTS, home, fields="metadata.name=ams-mamba") == []


async def test_gated_with_a_token_is_left_to_the_pod(kube: Client, home: str, operator: OperatorProcess) -> None:
    """The operator reads no Secrets."""
    await create(kube, home, "token", model("hf://acme/gated", model={"tokenSecretRef": {"name": "hub"}}))
    await until_condition(kube, home, "token", "PreflightPassed", "True", "Passed", "the pod's token is tried")
    await until_children(kube, home, "token")


async def test_a_hub_that_fails_blocks_nothing(
    kube: Client, home: str, operator: OperatorProcess, hub: FakeHub
) -> None:
    fault = hub.fail(Fault("status", "api", times=1, status=503))
    await create(kube, home, "flaky", model("hf://acme/flaky", cache={"size": "auto"}))
    await until_children(kube, home, "flaky")
    assert fault.hits == 1
    resource = await until_condition(kube, home, "flaky", "PreflightPassed", "Unknown", "HubUnreachable", "503")
    accepted = condition(resource, "Accepted")
    assert accepted is not None
    assert accepted.status == "True"
    claim = await kube.get(CLAIMS, home, "ams-flaky")
    assert claim.spec["resources"] == {"requests": {"storage": "20Gi"}}


async def test_one_source_is_asked_for_once(kube: Client, home: str, operator: OperatorProcess, hub: FakeHub) -> None:
    hub.add(Repository("acme/popular")).commit(files(gibi=0.001))
    for number in range(4):
        await create(kube, home, f"popular-{number}", model("hf://acme/popular"))
    for number in range(4):
        await until_condition(kube, home, f"popular-{number}", "PreflightPassed", "True", "Passed")
    asked = len(hub.requests)
    await kube.merge(MODELS, home, "popular-0", {"spec": {"limits": {"maxNewTokens": 5}}})
    await until(
        kube,
        MODELS,
        home,
        lambda objects: objects["popular-0"].status.observed_generation == objects["popular-0"].metadata.generation,
    )
    assert len(hub.requests) == asked
