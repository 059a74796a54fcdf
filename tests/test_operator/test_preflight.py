"""What preflight makes of a hub's listings and of the memory that there is: before anything is created."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, MemoryOffers, ModelSize, size_of
from ams_common.resource.status import Condition
from ams_common.source import HubSource, parse_source
from ams_operator.act.hub import HubClient
from ams_operator.act.hub_reports import question_of
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.preflight.report import HubReport, Question
from fakehub.hostile import HostileHub
from fakehub.repository import Repository
from fakehub.server import FakeHub
from hub_listings import CONFIG, LISTINGS, SIGNATURE, UNSIGNED, Listing, repository, source
from plan_objects import NOW, SETTINGS, resource

pytest_plugins = ["fakehub.fixtures"]
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # of the fake hub

GIB = 1 << 30


@pytest.fixture
async def client(hub: FakeHub) -> AsyncIterator[HubClient]:
    async with aiohttp.ClientSession() as session:
        yield HubClient(session, hub.url, 10.0)


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda each: each.name)
async def test_a_listing_is_told_as_the_download_tells_it(listing: Listing, hub: FakeHub, client: HubClient) -> None:
    hub.add(repository(listing))
    given = resource(source(listing), **listing.spec)
    question = question_of(given)
    assert question is not None
    report = await client.ask(question)
    assert (report.weights_bytes or 0) == listing.weights_bytes
    decided = plan(Observed(given, report=report), SETTINGS, NOW)
    told = {each.type: each for each in decided.status.conditions or ()}
    if not listing.reason:
        assert (told["Accepted"].status, told["PreflightPassed"].status) == ("True", "True")
        assert decided.apply
        return
    for kind in ("Accepted", "PreflightPassed", "Ready"):
        assert (told[kind].status, told[kind].reason) == ("False", listing.reason)
        assert listing.words in told[kind].message
    assert decided.apply == (), "neither volume nor pod"
    assert [(each.type, each.reason) for each in decided.transitions] == [("Warning", listing.reason)], (
        "it is told once"
    )


async def test_a_listing_whose_files_are_hidden_is_read_as_far_as_it_goes(hub: FakeHub, client: HubClient) -> None:
    """The index of a gated model can't be read without the pods' token."""
    listing = next(each for each in LISTINGS if each.name == "shards")
    hub.add(repository(listing)).gated = True
    question = question_of(resource(source(listing), model={"tokenSecretRef": {"name": "hub"}}))
    assert question is not None
    report = await client.ask(question)
    assert report.failure is None
    assert report.weights_bytes == listing.weights_bytes
    assert report.note == "acme/shards is gated; the pod's token is tried at the download."


async def test_weights_that_should_be_signed_and_are_not_are_never_fetched(hub: FakeHub, client: HubClient) -> None:
    hub.add(repository(LISTINGS[0]))
    given = resource(source(LISTINGS[0]), model={"signature": SIGNATURE})
    question = question_of(given)
    assert question is not None
    decided = plan(Observed(given, report=await client.ask(question)), SETTINGS, NOW)
    told = {each.type: each for each in decided.status.conditions or ()}
    for kind in ("PreflightPassed", "Ready"):
        assert (told[kind].status, told[kind].reason) == ("False", "SignatureMismatch")
        assert UNSIGNED in told[kind].message
    assert decided.apply == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**7}, "acme/absurd: config.json: num_hidden_layers is 10,000,000"),
        ({"vision_config": {"depth": 10**9}}, "vision_config.depth is 1,000,000,000"),
    ],
)
async def test_a_size_that_no_model_has_is_refused(
    changes: dict[str, Any], words: str, hub: FakeHub, client: HubClient
) -> None:
    config = json.dumps({**CONFIG, **changes}).encode()
    hub.add(Repository("acme/absurd")).commit({"config.json": config, "model.safetensors": b"w"})
    report = await client.ask(Question(parse_hub("hf://acme/absurd")))
    assert report.failure is not None
    assert report.failure.reason == "InvalidSource"
    assert words in report.failure.message


@pytest.mark.parametrize("seed", range(24))
async def test_a_hostile_hub_gives_a_report_and_nothing_else(seed: int) -> None:
    with HostileHub(seed, "/victim") as hub:
        async with aiohttp.ClientSession() as session:
            report = await HubClient(session, hub.url, 3.0).ask(Question(parse_hub("hf://acme/tiny")))
    assert isinstance(report, HubReport)
    assert report.revision is None or len(report.revision) == 40


@pytest.mark.parametrize("pin", ["b" * 40, "bbbbbb1"])
async def test_a_pin_that_the_hub_answers_with_another_commit_is_refused(
    pin: str, hub: FakeHub, client: HubClient
) -> None:
    repository = hub.add(Repository("acme/tiny"))
    commit = repository.commit({"config.json": b"{}", "model.safetensors": b"w"})
    repository.revisions[pin] = commit
    report = await client.ask(Question(parse_hub(f"hf://acme/tiny@{pin}")))
    assert report.failure is not None
    assert report.failure.reason == "RevisionNotFound"
    assert pin in report.failure.message
    assert commit in report.failure.message


def parse_hub(text: str) -> HubSource:
    parsed = parse_source(text)
    assert isinstance(parsed, HubSource)
    return parsed


SEVENTY = size_of(
    {**CONFIG, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "vocab_size": 128256},
    141_000_000_000,
)
ONE_GPU = {"resources": {"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}}}


def cards(*sizes: int, ram: int = 32) -> MemoryOffers:
    return MemoryOffers((MemoryOffer("node a", DeviceMemory(tuple(size * GIB for size in sizes), ram * GIB)),))


@pytest.mark.parametrize(
    ("spec", "offers", "status", "reason", "words"),
    [
        ({**ONE_GPU, "quantization": "none"}, cards(80), "False", "DoesNotFitMemory", "131.3 GiB in bfloat16"),
        (
            ONE_GPU,
            cards(24),
            "False",
            "DoesNotFitMemory",
            "24.0 GiB, the smallest there is (node a); give",
        ),
        (ONE_GPU, cards(80), "True", "Passed", "131.3 GiB of weights, 70.5B parameters"),
        (ONE_GPU, MemoryOffers(unknown="Memory wasn't checked: so."), "True", "Passed", "Memory wasn't checked: so."),
        ({}, cards(ram=64), "True", "Passed", "70.5B parameters"),
        ({}, cards(ram=16), "False", "DoesNotFitMemory", "16.0 GiB"),
    ],
)
def test_a_model_of_seventy_billion_parameters(
    spec: dict[str, Any], offers: MemoryOffers, status: str, reason: str, words: str
) -> None:
    told = preflight(SEVENTY, offers, **spec)
    assert (told.status, told.reason) == (status, reason)
    assert words in told.message


def test_auto_chooses_by_the_memory_of_the_card() -> None:
    for size, chosen in ((320, "none"), (80, "8bit"), (60, "4bit")):
        decided = plan(Observed(large(**ONE_GPU), report=report_of(SEVENTY), offers=cards(size)), SETTINGS, NOW)
        assert decided.status.quantization is not None
        assert decided.status.quantization.chosen == chosen


def preflight(size: ModelSize, offers: MemoryOffers, **spec: Any) -> Condition:
    decided = plan(Observed(large(**spec), report=report_of(size), offers=offers), SETTINGS, NOW)
    assert bool(decided.apply) == (decided.status.conditions or [])[2].message.startswith("The hub has it")
    return next(each for each in decided.status.conditions or () if each.type == "PreflightPassed")


def large(**spec: Any) -> Any:
    return resource("hf://acme/large", **{"cache": {"size": "auto"}, **spec})


def report_of(size: ModelSize) -> HubReport:
    return HubReport(
        revision="a" * 40,
        architectures=("Qwen3ForCausalLM",),
        weights_bytes=size.weights_bytes,
        size=size,
    )
