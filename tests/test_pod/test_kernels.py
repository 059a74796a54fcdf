"""The compiled kernels compute what torch's operators do: single layers, and whole models of many shapes.

All of it for each kind of processor whose kernels this one can run.
"""

import ctypes
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.loading import choose_kernels
from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.group_layouts import LAYOUTS, Layout
from ams_pod.engines.builtin.model.grouped import Bits, GroupedLinear, pack_codes
from ams_pod.engines.builtin.model.native.layers import NativeLayers, why_not
from ams_pod.engines.builtin.model.native.packing import Arena, pack, packed_as_is, tiled_elements
from ams_pod.engines.builtin.model.sampling import NOTHING, RowSampler, sample
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.towers import spans as spans_module
from ams_pod.engines.builtin.towers.interruptible import between_parts
from ams_pod.engines.builtin.towers.spans import Span, SpanAttention, Turning
from ams_pod.engines.port import LoadFailed, Prepared, Sampling
from ams_pod.shares import Share
from test_pod.engine_harness import Driver, Outcome
from test_pod.random_groups import name_of, random_packed
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

pytestmark = pytest.mark.skipif(
    compiled.load() is None, reason="the kernels aren't built, or not for this processor (README.md, kernels)"
)


@pytest.fixture(params=compiled.VARIANTS, autouse=True)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(compiled, "_chosen", request.param)
    if compiled.load() is None:
        pytest.skip(compiled.unavailable())
    return str(request.param)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-9))


def _apply(c: compiled.LinearC, x: Tensor, threads: int = 2) -> Tensor:
    loaded = compiled.load()
    assert loaded is not None
    y = torch.full((len(x), c.outputs), float("nan"))
    compiled.use_threads(threads)
    assert loaded.ams_linear(c, x.data_ptr(), len(x), y.data_ptr()) == 0
    return y


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 15, 130, 300])
@pytest.mark.parametrize(("outputs", "k"), [(16, 32), (17, 64), (48, 96), (257, 2080), (1000, 4128)])
def test_a_bfloat16_layer_is_torchs(tokens: int, outputs: int, k: int) -> None:
    torch.manual_seed(tokens * k)
    module = nn.Linear(k, outputs, dtype=torch.bfloat16)
    packed = pack(module, Arena(tiled_elements([module])))
    x = torch.randn(tokens, k).bfloat16()
    expected = x.float() @ module.weight.data.float().T + module.bias.data.float()
    assert _relative(_apply(packed.c, x.float()), expected) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 11, 140])
@pytest.mark.parametrize(("outputs", "k"), [(16, 32), (17, 64), (257, 2112), (1000, 4128)])
def test_a_grouped_layer_is_its_dequantized_weights(layout: Layout, tokens: int, outputs: int, k: int) -> None:
    torch.manual_seed(tokens * k)
    k = -(-k // layout.inputs) * layout.inputs
    module = GroupedLinear(random_packed(layout, outputs, k), outputs, torch.randn(outputs))
    x = torch.randn(tokens, k)
    weights, bias = module.weight, module.bias.data
    found = _apply(packed_as_is(module, module.packed, layout).c, x)
    assert _relative(found, x @ weights.T + bias) < 1e-4
    assert torch.equal(module(x.view(1, tokens, k)), found[None])


def test_what_is_no_number_stays_none() -> None:
    module = nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    packed = pack(module, Arena(tiled_elements([module])))
    x = torch.randn(3, 64)
    x[1, 5] = float("nan")
    grouped = GroupedLinear.of(module, 4)
    for each in (packed, packed_as_is(grouped, grouped.packed, grouped.layout)):
        found = _apply(each.c, x)
        assert found[1].isnan().all()
        assert not found[[0, 2]].isnan().any()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tokens", [1, 3, 8, 9])
def test_sums_of_the_largest_codes_are_whole(tokens: int, bits: Bits) -> None:
    """No product or sum of them is cut off: all codes at their most, and values at their most and least."""
    outputs, k, most = 48, 96, 2**bits - 1
    codes = torch.full((outputs, k), most, dtype=torch.uint8)
    codes[1::3, ::2] = 0
    s, m = torch.full((outputs, k // 32), 0.5).half(), torch.full((outputs, k // 32), -0.25).half()
    packed = pack_codes(codes, s, m, bits)
    x = torch.ones(tokens, k)
    x[1::3] = -1
    x[2::3, ::2] = -1
    expected = x.double() @ (codes.double() * 0.5 - 0.25).T
    module = GroupedLinear(packed, outputs)
    found = _apply(packed_as_is(module, packed, module.layout).c, x)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_logits_are_rounded_to_the_nearest_and_to_even() -> None:
    library = compiled.load()
    assert library is not None
    torch.manual_seed(7)
    head = nn.Linear(32, 4099, bias=False, dtype=torch.bfloat16)
    head.weight.data[3, 5] = float("inf")
    head.weight.data[4, 5] = float("-inf")
    head.weight.data[5, 5] = float("nan")
    head.weight.data[6] = torch.cat((torch.tensor([1.0, 2.0**-8]), torch.zeros(30)))  # half of a step above 1: to 1
    head.weight.data[7] = torch.cat((torch.tensor([1.0, 3 * 2.0**-8]), torch.zeros(30)))  # to the even one
    packed, norm = pack(head, Arena(tiled_elements([head]))), torch.ones(32)
    x = torch.ones(3, 32)  # whose norm is itself, to the bit
    x[1] = -1
    model = compiled.ModelC(hidden=32, final_norm=norm.data_ptr(), head=packed.c, epsilon=0.0)
    logits = torch.empty(3, 4099, dtype=torch.bfloat16)
    assert library.ams_logits(model, x.data_ptr(), None, 3, logits.data_ptr()) == 0
    expected = _apply(packed.c, x).bfloat16()
    assert torch.equal(logits.isnan(), expected.isnan())
    assert torch.equal(logits.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))
    assert logits[0, [3, 6, 7]].tolist() == [float("inf"), 1.0, 1.015625]


@dataclass(frozen=True)
class Shape:
    kind: str
    hidden: int
    heads: int
    key_heads: int
    head_size: int
    inner: int = 96
    vocabulary: int = 133
    tied: bool = False


SHAPES = {
    "llama": Shape("llama", 64, 2, 2, 32),
    "llama, grouped heads": Shape("llama", 192, 6, 2, 32, 160, tied=True),
    "llama, heads of 64": Shape("llama", 192, 3, 1, 64, 512),
    "qwen2, with biases": Shape("qwen2", 128, 4, 2, 32),
    "qwen3, heads of 128": Shape("qwen3", 128, 8, 1, 128, 224),
    "qwen3, sixteen of a group": Shape("qwen3", 64, 16, 1, 32),
    "qwen3, heads of 256": Shape("qwen3", 64, 2, 1, 256),
}


def _model(shape: Shape) -> Any:
    torch.manual_seed(0)
    classes: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    config_class, model_class = classes[shape.kind]
    config = config_class(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner, num_hidden_layers=3,
        num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads, head_dim=shape.head_size,
        max_position_embeddings=1024, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    model = model_class(config).bfloat16().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif "norm" in name:
                parameter.normal_(1, 0.2)
            else:
                parameter.normal_(0, 2 / parameter.shape[-1] ** 0.5)
    return model


def _decoder(shape: Shape, monkeypatch: pytest.MonkeyPatch, *, native: bool) -> Decoder:
    with monkeypatch.context() as patch:
        if not native:
            patch.setattr("ams_pod.engines.builtin.model.decoder.why_not", lambda stack: "a test compares")
        decoder = Decoder(find_stack(_model(shape)), 6, 512)
    assert isinstance(decoder._layers, NativeLayers) is native
    return decoder


def _conversation(decoder: Decoder, vocabulary: int) -> list[Tensor]:
    """Logits of prompts read whole, in chunks, beside decoding rows, and of decoding behind them."""
    generator = torch.Generator().manual_seed(1)

    def ids(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    heard: list[Tensor] = []
    more = Chunk(3, 0, ids(17), True)
    told = [
        decoder.step(Batch([], [], [], [], [Chunk(0, 0, ids(1), True), Chunk(1, 0, ids(150), True)])),
        decoder.step(Batch([0, 1], ids(2), [1, 150], [0, 0], [Chunk(2, 0, ids(63), False), more])),
        decoder.step(Batch([0, 1, 3], ids(3), [2, 151, 17], [0, 0, 0], [Chunk(2, 63, ids(200), True)])),
        decoder.step(
            Batch([], [], [], [], [Chunk(4, 0, ids(40), True, heard=lambda at, logits: heard.append(logits.clone()))])
        ),
    ]
    lengths = [3, 152, 263, 18, 40]
    for _ in range(5):
        told.append(decoder.step(Batch(range(5), ids(5), list(lengths), [0] * 5, [])))
        lengths = [length + 1 for length in lengths]
    return [*told, *heard]


@pytest.mark.parametrize("name", SHAPES)
def test_a_model_is_nearer_to_exact_numbers_than_torchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES[name]
    exact = _conversation(Decoder(find_stack(_model(shape).float()), 6, 512), shape.vocabulary)
    distances = []
    for native in (False, True):
        found = _conversation(_decoder(shape, monkeypatch, native=native), shape.vocabulary)
        assert [(each.shape, each.dtype) for each in found] == [(each.shape, torch.bfloat16) for each in exact]
        distances.append([_relative(ours, theirs) for ours, theirs in zip(found, exact, strict=True)])
    theirs, ours = distances
    assert max(ours) < 1.2 * max(theirs)
    assert sum(ours) < sum(theirs)  # hidden states are float32 between the layers


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["llama, grouped heads", "qwen2, with biases", "qwen3, heads of 128"])
def test_a_grouped_model_is_its_dequantized_weights(name: str, bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    """In decoding, in short prompts and in those that are long enough to unpack its tiles for."""
    shape = SHAPES[name]
    model = _model(shape)
    exact = _model(shape)
    for layer, plain in zip(model.model.layers, exact.model.layers, strict=True):
        for part in ("self_attn", "mlp"):
            for child, linear in list(getattr(layer, part).named_children()):
                if type(linear) is nn.Linear:
                    grouped = GroupedLinear.of(linear, bits)
                    setattr(getattr(layer, part), child, grouped)
                    getattr(getattr(plain, part), child).weight.data = grouped.weight
    exact = _conversation(Decoder(find_stack(exact.float()), 6, 512), shape.vocabulary)
    decoder = Decoder(find_stack(model), 6, 512)
    assert isinstance(decoder._layers, NativeLayers)
    found = _conversation(decoder, shape.vocabulary)
    assert max(_relative(ours, theirs) for ours, theirs in zip(found, exact, strict=True)) < 0.05


def test_layer_by_layer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose step is interrupted before each layer computes the same, to the last bit."""
    shape = SHAPES["llama, grouped heads"]
    whole = _conversation(_decoder(shape, monkeypatch, native=True), shape.vocabulary)
    decoder, calls = _decoder(shape, monkeypatch, native=True), []

    def between() -> None:
        calls.append(1)
        decoder.interrupt()

    decoder.between = between
    decoder.interrupt()
    for ours, theirs in zip(_conversation(decoder, shape.vocabulary), whole, strict=True):
        assert torch.equal(ours, theirs)
    assert len(calls) == 3 * 9


@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_is_interrupted_from_another_thread(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Once for each time, whenever it comes, and nothing else comes out for it."""
    shape = SHAPES["llama, grouped heads"]
    whole = _conversation(_decoder(shape, monkeypatch, native=True), shape.vocabulary)
    decoder = _decoder(shape, monkeypatch, native=True)
    decoder._layers._threads = threads  # type: ignore[attr-defined]
    heard, ended = threading.Event(), threading.Event()
    decoder.between = heard.set

    def interrupt() -> int:
        times = 0
        while not ended.is_set():
            decoder.interrupt()
            times += heard.wait(5)
            heard.clear()
        return times

    with ThreadPoolExecutor(1) as pool:
        times = pool.submit(interrupt)
        try:
            for _ in range(20):
                for ours, theirs in zip(_conversation(decoder, shape.vocabulary), whole, strict=True):
                    assert torch.equal(ours, theirs)
                decoder.reset()
        finally:
            ended.set()
            heard.set()
        assert times.result() >= 20


class _AskedWithin:
    """The library, in whose first call of a step somebody submits a request."""

    def __init__(self, library: Any, ask: Callable[[], None]) -> None:
        self._library, self._ask = library, ask

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def ams_layers(self, *given: Any) -> int:
        self._ask()
        return int(self._library.ams_layers(*given))


def test_a_request_interrupts_the_step_that_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question is read within a step of a key that was served more, whose layers are one call."""
    decoder = _decoder(SHAPES["llama, grouped heads"], monkeypatch, native=True)
    driver, busy, chat = Driver(decoder), Share("busy"), Share("chat")
    long, question = Outcome(), Outcome()
    driver.engine._shares.charge(busy, 1000.0)
    driver.engine._shares.charge(busy, 1.0)
    driver.engine.submit(Prepared([7] * 300), Sampling(4, ignore_eos=True), long, busy)
    asked: list[int] = []

    def ask() -> None:
        if not asked:
            asked.append(1)
            driver.engine.submit(Prepared([8, 9, 10]), Sampling(4, ignore_eos=True), question, chat)

    decoder._layers._library = _AskedWithin(decoder._layers._library, ask)  # type: ignore[attr-defined]
    driver.engine.step()
    assert question.tokens
    assert not asked[1:]
    driver.run()
    assert len(long.tokens) == len(question.tokens) == 4


def test_nothing_is_called_where_nobody_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["llama, grouped heads"]
    decoder, calls = _decoder(shape, monkeypatch, native=True), []
    decoder.between = lambda: calls.append(1)
    _conversation(decoder, shape.vocabulary)
    assert not calls


@pytest.mark.parametrize("token", [-1, 2**40])
def test_a_token_that_the_model_has_not_is_an_error(monkeypatch: pytest.MonkeyPatch, token: int) -> None:
    decoder = _decoder(SHAPES["llama, grouped heads"], monkeypatch, native=True)
    with pytest.raises(IndexError):
        decoder.step(Batch([], [], [], [], [Chunk(0, 0, [1, token, 2], True)]))


def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["qwen2, with biases"]
    results = []
    for threads in (1, 2, 3):
        decoder = _decoder(shape, monkeypatch, native=True)
        decoder._layers._threads = threads  # type: ignore[attr-defined]
        results.append(_conversation(decoder, shape.vocabulary))
    for other in results[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(other, results[0], strict=True))


def test_numbers_of_another_request_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in the cache behind a request's tokens is whatever somebody left there."""
    shape = SHAPES["llama, heads of 64"]
    clean, dirty = (_decoder(shape, monkeypatch, native=True) for _ in range(2))
    for layer in dirty.cache.layers:
        layer.fill_(float("nan"))
    for ours, theirs in zip(
        _conversation(dirty, shape.vocabulary), _conversation(clean, shape.vocabulary), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_verified_at_once_is_what_is_decoded_one_by_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever else is in the step: a greedy answer can't depend on it."""
    shape = SHAPES[name]
    ids = torch.randint(shape.vocabulary, (130,), generator=torch.Generator().manual_seed(3)).tolist()
    apart, at_once = (_decoder(shape, monkeypatch, native=True) for _ in range(2))
    for decoder in (apart, at_once):
        for slot in (0, 1):
            decoder.step(Batch([], [], [], [], [Chunk(slot, 0, ids[:120], True)]))
    one_by_one = [apart.step(Batch([0], [ids[at]], [at], [0], []))[0] for at in range(120, 130)]
    draft = Chunk(0, 120, ids[120:], False, all_logits=True)
    beside = Chunk(2, 0, ids[:77], True)
    found = at_once.step(Batch([1], [5], [120], [0], [draft, beside]))
    assert torch.equal(found[1:11], torch.stack(one_by_one))


def test_features_of_pictures_are_added_behind_the_first_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES["qwen3, heads of 128"]
    deep = torch.randn(2, 30, shape.hidden).bfloat16()
    results = []
    for native in (False, True):
        decoder = _decoder(shape, monkeypatch, native=native)
        embeds = torch.randn(30, shape.hidden, generator=torch.Generator().manual_seed(2)).bfloat16()
        results.append(decoder.step(Batch([], [], [], [], [Chunk(0, 0, [0] * 30, True, embeds=embeds, deep=deep)])))
    assert _relative(results[1], results[0]) < 0.06


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 133, 49_152])
def test_the_likeliest_tokens_are_those_that_torch_finds(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(40, vocabulary, generator=generator).bfloat16()  # many of which are equal
    logits[3] = float("-inf")
    logits[4, :-1] = float("-inf")
    logits[5, vocabulary // 2] = float("nan")
    logits[6, -1] = float("inf")
    rows = [RowSampler(Sampling(max_new_tokens=1, temperature=0), [1]) for _ in logits]
    found = sample(logits, rows)
    monkeypatch.setattr(compiled, "_chosen", "off")
    assert found == sample(logits, rows)
    assert found[3:7] == [NOTHING, vocabulary - 1, None, vocabulary - 1]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("heads", "size", "spans"),
    [
        (2, 16, [Span(0, 1, 1), Span(1, 13, 13), Span(14, 63, 63)]),
        (3, 40, [Span(0, 130, 130)]),
        (2, 64, [Span(0, 70, 65), Span(70, 70, 1), Span(140, 70, 70)]),
        (2, 72, [Span(0, 300, 300)]),
        (4, 80, [Span(64 * i, 64, 64) for i in range(5)]),
        (1, 256, [Span(0, 140, 140)]),
    ],
)
def test_attention_of_spans_is_torchs(
    heads: int, size: int, spans: list[Span], turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(size)
    tokens = sum(span.count for span in spans)
    made = torch.randn(tokens, 3 * heads * size).bfloat16()
    angles = torch.randn(tokens, size)
    turning = Turning(angles.cos(), angles.sin()) if turned else None
    query, key, value = made.double().view(tokens, 3, heads, size).unbind(1)
    if turned:
        query, key = _turned(query, angles), _turned(key, angles)
    expected = torch.cat([
        torch.nn.functional.scaled_dot_product_attention(
            query[span.first : span.first + span.count].transpose(0, 1),
            key[span.first : span.first + span.keys].transpose(0, 1),
            value[span.first : span.first + span.keys].transpose(0, 1),
            scale=size**-0.5,
        ).transpose(0, 1)
        for span in spans
    ]).flatten(1)  # fmt: skip
    results = []
    for threads in (1, 2):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        results.append(SpanAttention(compiled.load())(*made.chunk(3, -1), heads, spans, size**-0.5, turning))
    assert _relative(results[0], expected) < 5e-3
    assert torch.equal(*results)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    other = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * angles.cos()[:, None] + other * angles.sin()[:, None]


def test_attention_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads are laid out two at a time, and queries computed by the hundred, with other calls between them."""
    torch.manual_seed(0)
    made = torch.randn(700, 3 * 5 * 72).bfloat16()
    attend = SpanAttention(compiled.load())
    arguments = (*made.chunk(3, -1), 5, [Span(0, 300, 300), Span(300, 400, 390)], 0.1)
    whole, pauses = attend(*arguments), []

    def other() -> None:
        pauses.append(attend(*(part[:50] for part in made.chunk(3, -1)), 5, [Span(0, 50, 50)], 0.1))

    monkeypatch.setattr(spans_module, "_ROOM_BYTES", 600_000)
    monkeypatch.setattr(spans_module, "part_flops", lambda tensor: 1.0)
    with between_parts(other):
        assert torch.equal(attend(*arguments), whole)
    assert len(pauses) == 3 * 6 - 1


def test_no_number_of_another_span_is_read() -> None:
    made = torch.randn(200, 3 * 2 * 40).bfloat16()
    made[100:] = float("nan")
    found = SpanAttention(compiled.load())(*made.chunk(3, -1), 2, [Span(0, 100, 100), Span(100, 100, 100)], 0.1)
    assert found[:100].isfinite().all()
    assert found[100:].isnan().all()


def test_the_switch_turns_them_off() -> None:
    stack = find_stack(_model(SHAPES["llama"]))
    assert why_not(stack) == ""
    compiled.choose("off")  # the fixture puts back what it was
    assert "AMS_KERNELS" in why_not(stack)
    assert (compiled.load(), compiled.variant()) == (None, "")


def test_a_variant_that_is_asked_for_is_taken(variant: str) -> None:
    compiled.choose(variant)
    assert (compiled.variant(), compiled.unavailable()) == (variant, "")
    with pytest.raises(ValueError, match="no kernels 'avx3'"):
        compiled.choose("avx3")


class _Processor:
    """A library as it is on a processor that lacks what some variants need."""

    def __init__(self, lacks: tuple[str, ...]) -> None:
        self.lacks, self.opened = lacks, ctypes.CDLL

    def __call__(self, path: str) -> Any:
        library = self.opened(path)
        if any(path.endswith(f"{name}.so") for name in self.lacks):
            library.ams_supported = lambda: 0
        return library


@pytest.mark.parametrize(
    ("lacks", "found", "words"),
    [
        ((), "avx512", ""),
        (("avx512",), "avx2", ""),
        (("avx512", "avx2"), "", "the processor lacks AVX2 with FMA and F16C"),
    ],
)
def test_the_fastest_that_the_processor_can_run_is_taken(
    lacks: tuple[str, ...], found: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if found == "avx512":
        pytest.importorskip("ams_kernels")
        if not isinstance(compiled._find("avx512"), compiled.Kernels):
            pytest.skip("this processor hasn't AVX512")
    monkeypatch.setattr(compiled.ctypes, "CDLL", _Processor(lacks))
    compiled._find.cache_clear()
    try:
        compiled.choose("auto")
        assert (compiled.variant(), compiled.unavailable()) == (found, words)
        for name in lacks:
            with pytest.raises(
                LoadFailed, match=rf"kernels {name} are asked for \(AMS_KERNELS\), but the processor lacks"
            ):
                choose_kernels(name)
    finally:
        compiled._find.cache_clear()


def test_a_library_has_no_instructions_but_those_of_its_processors(variant: str) -> None:
    if (objdump := shutil.which("objdump")) is None:
        pytest.skip("objdump isn't here")
    import ams_kernels

    command = [objdump, "-d", "--no-show-raw-insn", str(ams_kernels.library(variant))]
    code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert bool(re.search("%zmm|%k[0-7]", code)) == (variant == "avx512")
