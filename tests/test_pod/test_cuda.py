"""On an NVIDIA GPU: load in bfloat16 and in 4 bits, answer in a batch as alone, and really run out of memory."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin import loading
from ams_pod.engines.builtin.memory.out_of_memory import is_out_of_memory
from ams_pod.engines.builtin.model import verify
from ams_pod.engines.builtin.model.cuda.kernels import CudaKernels, Heads, RowPlaces, TokenPlaces, why_not
from ams_pod.engines.builtin.model.masking import Masks
from ams_pod.engines.builtin.model.sampling import RowSampler, sample
from ams_pod.engines.builtin.scheduler import schedule
from ams_pod.engines.port import EngineRefusal, Prepared, Sampling, TokenEvent
from engine_harness import Driver, forward_of, load_model, prompts, reference
from fakehub import checkpoints
from torch_kernels import TorchKernels

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU, or torch is built without CUDA"),
]
ROWS, LENGTH = 4, 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("cuda") / "qwen3")


@pytest.fixture
def little_memory() -> Iterator[Any]:
    """Bound this process to what it has and `spare` bytes."""

    def bound(spare: int) -> None:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + spare) / total))

    yield bound
    torch.cuda.set_per_process_memory_fraction(1.0)


class Loaded:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.events: list[TokenEvent] = []
        given = ServeSettings(
            name="m", source="file:///m", **{"concurrent_requests": ROWS, "context_tokens": LENGTH, **settings}
        )
        self.engine: Any = loading.load_engine(folder, given, self.events.extend, lambda phase, percent: None)

    def run(self, asked: list[list[int]], new: int) -> list[list[int]]:
        tickets = [self.engine.submit(Prepared(ids), Sampling(new, ignore_eos=True), None) for ids in asked]
        while self.engine.core.step():
            pass
        return [
            [event.token for event in self.events if event.ticket is ticket and event.token is not None]
            for ticket in tickets
        ]


@pytest.mark.parametrize("quantization", ["none", "8bit", "4bit"])
def test_it_loads_and_answers(folder: Path, quantization: str) -> None:
    loaded = Loaded(folder, quantization=quantization)
    info = loaded.engine.info
    assert (info.device, info.quantization) == ("cuda", quantization)
    assert info.precision == ("bfloat16" if torch.cuda.is_bf16_supported() else "float16")
    assert [len(tokens) for tokens in loaded.run(prompts(6), 12)] == [12] * 6
    memory = loaded.engine.memory()
    assert memory.gpu is not None
    assert 0 < memory.gpu.allocated_bytes <= memory.gpu.reserved_bytes <= memory.gpu.total_bytes


@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl", "qwen2_audio", "qwen2_5_omni"])
def test_our_decoder_computes_what_the_model_does(family: str, tmp_path: Path) -> None:
    loaded = Loaded(checkpoints.make(family, tmp_path / family), quantization="none")
    assert loaded.engine.info.engine == "flat"
    assert [len(tokens) for tokens in loaded.run(prompts(3), 5)] == [5] * 3


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_a_mixed_batch_equals_generate_in_float32(folder: Path, kind: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    model = load_model(folder).to("cuda")
    wanted = prompts(6, seed=4)
    expected = []
    for ids in wanted:
        prompt = torch.tensor([ids], device="cuda")
        made = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
        expected.append(made[0, len(ids) :].tolist())
    driver = Driver(forward_of(kind, model, ROWS, LENGTH))
    outcomes = [driver.submit(ids, 12)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected


def test_bfloat16_is_within_tolerance(folder: Path) -> None:
    model = load_model(folder, torch.bfloat16).to("cuda")
    probes = verify.text_probes(model)
    forward = forward_of("flat", model, ROWS, LENGTH)
    assert verify.close_enough(verify.distance(forward, probes), torch.bfloat16)


def test_memory_that_really_runs_out_is_recognised(little_memory: Any) -> None:
    torch.zeros(1, device="cuda")
    little_memory(8 << 20)
    with pytest.raises(RuntimeError) as ran_out:
        torch.zeros(64 << 20, dtype=torch.uint8, device="cuda")
    assert is_out_of_memory(ran_out.value)


def test_a_batch_that_really_runs_out_goes_on_with_fewer(folder: Path, little_memory: Any) -> None:
    """The prompts' steps need more than is left when they are read together; one by one they don't."""
    wanted = [list(range(10, 10 + 120)) for _ in range(ROWS)]
    model = load_model(folder)
    expected = reference(model, wanted[0], 10)
    driver = Driver(forward_of("padded", load_model(folder).to("cuda"), ROWS, LENGTH))
    _, first = driver.submit(wanted[0], 10)
    driver.run()
    assert first.tokens == expected
    little_memory(2 << 20)
    outcomes = [driver.submit(ids, 10)[1] for ids in wanted]
    driver.run()
    for outcome in outcomes:
        assert outcome.tokens == expected[: len(outcome.tokens)]
        assert outcome.finish == "length" or isinstance(outcome.error, EngineRefusal)
    torch.cuda.set_per_process_memory_fraction(1.0)
    _, after = driver.submit(wanted[0], 10)
    driver.run()
    assert after.tokens == expected


def test_the_cpu_answers_where_the_gpu_cannot(folder: Path, little_memory: Any) -> None:
    loaded = Loaded(folder, quantization="none", fallbacks="cpu")
    (expected,) = loaded.run([[7, 8, 9]], 8)
    lane = loaded.engine.core._oom_policy.fallbacks.cpu
    assert lane is not None
    assert lane.fits()
    real = loaded.engine.core._forward.step

    def step(batch: Any) -> Any:
        raise torch.OutOfMemoryError("injected")

    loaded.engine.core._forward.step = step
    ticket = loaded.engine.submit(Prepared([7, 8, 9]), Sampling(8, ignore_eos=True), None)
    while loaded.engine.core.step():
        pass
    thread = lane._thread
    while not any(event.ticket is ticket and event.finish for event in list(loaded.events)):
        thread.join(0.05)
    loaded.engine.core._forward.step = real
    lane.stop()
    assert ticket.degraded == "cpu"
    made = [event.token for event in loaded.events if event.ticket is ticket and event.token is not None]
    assert len(made) == len(expected)  # two devices round differently, so the tokens may differ


def test_layers_are_spread_where_no_gpu_is_large_enough(folder: Path) -> None:
    from ams_pod.engines.builtin.memory.placing import Placement
    from ams_pod.engines.builtin.model.weights import load_weights
    from transformers import AutoModelForCausalLM

    size = sum(parameter.numel() * 4 for parameter in load_model(folder).parameters())
    spread = {0: size * 3 // 4, "cpu": 1 << 30}
    model = load_weights(
        AutoModelForCausalLM, folder, Placement("cuda", torch.float32, spread=spread), lambda phase, percent: None
    )
    assert {str(parameter.device) for parameter in model.parameters()} >= {"cuda:0"}
    driver = Driver(forward_of("padded", model, ROWS, LENGTH))
    outcomes = [driver.submit(ids, 6)[1] for ids in prompts(3)]
    driver.run()
    assert [outcome.finish for outcome in outcomes] == ["length"] * 3


def _waits(seen: "list[warnings.WarningMessage]") -> int:
    return len([each for each in seen if "called a synchronizing" in str(each.message)])


def test_a_step_is_sampled_with_one_wait_and_as_on_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5000, generator=generator)
    bits = torch.full((2, 628), 85, dtype=torch.uint8)
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 1.0}, {"temperature": 0.7, "top_k": 20}, {"repetition_penalty": 1.5},
        {"temperature": 1.0, "logit_bias": ((3, 1.0),)}, {"banned_tokens": (1, 2)}, {}, {"temperature": 2.0},
    ]  # fmt: skip

    def tokens(device: str) -> list[int | None]:
        rows = [RowSampler(Sampling(1, seed=n, **kind), [1, 2, 3]) for n, kind in enumerate(kinds)]
        return sample(logits.to(device), rows, (), Masks([0, 7], bits))

    expected = tokens("cuda")  # tables are made once
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            torch.zeros(1, device="cuda").item()
            waits = _waits(seen)
            found = tokens("cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert waits == 1, "a wait is told as one"
    # One for the logits, which come from the host here, and one for the tokens.
    assert _waits(seen) - waits <= 2
    assert found == expected
    greedy = [index for index, kind in enumerate(kinds) if "temperature" not in kind]
    assert [found[index] for index in greedy] == [tokens("cpu")[index] for index in greedy]


_SHAPES = [Heads(16, 8, 2), Heads(64, 9, 3), Heads(128, 32, 8), Heads(128, 28, 4), Heads(256, 16, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", _SHAPES)
def test_kernels_compute_what_torch_does(dtype: torch.dtype, heads: Heads) -> None:
    if why_not(dtype, heads, [64]):
        pytest.skip(f"the kernels don't know heads of {heads.size} in {dtype}")
    torch.manual_seed(0)
    ours, plain = CudaKernels(dtype, heads), TorchKernels(heads)
    close = {"atol": 2e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda").to(dtype)

    for hidden, tokens in ((64, 1), (4096, 3), (11008, 2)):
        x, added, weight = made(tokens, hidden), made(tokens, hidden), made(hidden)
        for more in (None, added):
            left, right = x.clone(), x.clone()
            torch.testing.assert_close(
                ours.add_and_norm(left, more, weight, 1e-6), plain.add_and_norm(right, more, weight, 1e-6), **close
            )
            torch.testing.assert_close(left, right, **close)
        both = made(tokens, 2 * hidden)
        torch.testing.assert_close(ours.silu_and_multiply(both), plain.silu_and_multiply(both), **close)
    rows, capacity = 7, 3072
    lengths = torch.tensor([1, 2, 63, 64, 65, 1000, 3000], device="cuda")
    cache = made(2 * rows * capacity * heads.keys, heads.size)
    starts = torch.arange(rows, device="cuda") * capacity * heads.keys
    places = TokenPlaces(starts + lengths - 1, torch.full_like(starts, capacity))
    places.where[2] = -1
    qkv = made(rows, heads.queries + 2 * heads.keys, heads.size)
    angles = torch.randn(rows, 1, heads.size, device="cuda")
    turns = angles.cos().to(dtype), angles.sin().to(dtype)
    for norms in (None, (made(heads.size), made(heads.size))):
        left, right, left_cache, right_cache = qkv.clone(), qkv.clone(), cache.clone(), cache.clone()
        ours.turn_and_store(left, turns, norms, 1e-6, left_cache, places)
        plain.turn_and_store(right, turns, norms, 1e-6, right_cache, places)
        queries = slice(None), slice(0, heads.queries)
        torch.testing.assert_close(left[queries], right[queries], atol=4 * close["atol"], rtol=close["rtol"])
        torch.testing.assert_close(left_cache, right_cache, atol=4 * close["atol"], rtol=close["rtol"])
    where = RowPlaces(starts, torch.full_like(starts, capacity), lengths)
    for few in (1, 7):
        some = RowPlaces(where.start[-few:], where.capacity[-few:], where.length[-few:])
        torch.testing.assert_close(
            ours.attend(qkv[-few:].contiguous(), cache, some), plain.attend(qkv[-few:], cache, some), **close
        )
    many = torch.randint(0, rows, (300,), device="cuda")  # so many that their keys aren't divided
    repeated = RowPlaces(where.start[many], where.capacity[many], where.length[many])
    torch.testing.assert_close(ours.attend(qkv[many], cache, repeated), ours.attend(qkv, cache, where)[many], **close)
    nothing = RowPlaces(starts, torch.full_like(starts, capacity), torch.zeros_like(lengths))
    assert not ours.attend(qkv, cache, nothing).any()


def test_steps_are_graphs_and_compute_what_single_kernels_do(folder: Path) -> None:
    graphs, kernels = Loaded(folder, quantization="none"), Loaded(folder, quantization="none")
    forward, plain = graphs.engine.core._forward, kernels.engine.core._forward
    assert forward._graphs is not None
    replays = []
    run = forward._graphs.run

    def counted(*arguments: Any) -> Any:
        replays.append(len(arguments[0]))
        return run(*arguments)

    forward._graphs.run = counted
    plain._graphs = None
    wanted = prompts(9, seed=3)
    assert graphs.run(wanted, 24) == kernels.run(wanted, 24)
    assert set(replays) >= {1, ROWS}


def test_prompts_are_read_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of which nothing is asked are among them, as no prompt ends in them."""
    wanted = [list(range(10, 10 + length)) for length in (140, 90, 37)]
    expected = Loaded(folder, quantization="none").run(wanted, 8)
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "_WIDE_CHUNK", 24)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 24)
    loaded = Loaded(folder, quantization="none")
    pieces = loaded.run(wanted, 8)
    assert not [event.error for event in loaded.events if event.error is not None]
    assert pieces == expected
