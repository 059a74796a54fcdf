"""Tokens are chosen as transformers' processors choose them, whatever else is in the batch."""

import pytest
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.model import drawing, masking
from ams_pod.engines.builtin.model.logprobs import logprobs_of
from ams_pod.engines.builtin.model.masking import Masks
from ams_pod.engines.builtin.model.sampling import NOTHING, RowSampler, sample
from ams_pod.engines.port import Sampling
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@pytest.fixture(params=[*compiled.VARIANTS, "row by row", "together"], autouse=True)
def _ways(request, monkeypatch):
    """As on a CPU with and without kernels, and as on a GPU."""
    monkeypatch.setattr(compiled, "_chosen", request.param if request.param in compiled.VARIANTS else "off")
    if request.param in compiled.VARIANTS and compiled.load() is None:
        pytest.skip(compiled.unavailable())
    for module in (drawing, masking):
        monkeypatch.setattr(module, "row_by_row", lambda device: request.param == "row by row")


ROWS = 500
STEPS = 20
VOCABULARY = 1000


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """By transformers [vocabulary]; temperature comes first there too."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(MinPLogitsWarper(sampling.min_p))
    return torch.softmax(processors(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())[0], -1)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [(1.0, 0, 1.0, 0.0), (0.8, 0, 0.95, 0.0), (2.0, 0, 0.95, 0.0), (0.7, 20, 0.8, 0.0), (1.0, 5, 1.0, 0.0),
     (1.0, 3, 0.5, 0.0), (1.5, 0, 1.0, 0.1), (1.0, 40, 0.9, 0.02), (1.0, 2000, 0.999, 0.0), (1.0, 0, 0.05, 0.0),
     (1.0, 0, 1.0, 1.0), (1.0, 300, 0.999, 1e-5), (5.0, 0, 0.3, 0.0)],
)  # fmt: skip
def test_draws_are_distributed_as_transformers_would(temperature, top_k, top_p, min_p, scale):
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * scale
    sampling = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = probabilities(logits, sampling)
    rows = [RowSampler(sampling, ()) for _ in range(ROWS)]
    for index, row in enumerate(rows):
        row.random.seed(index)
    counts = torch.zeros(VOCABULARY)
    for _ in range(STEPS):
        drawn = torch.tensor(sample(logits.expand(ROWS, -1), rows))
        counts += drawn.bincount(minlength=VOCABULARY)
    assert counts[expected == 0].sum() == 0
    # Pearson's statistic over tokens that are expected often enough, the others together
    total = ROWS * STEPS
    common = expected * total >= 5
    seen = torch.cat((counts[common], counts[~common].sum()[None]))
    due = torch.cat((expected[common], expected[~common].sum()[None])) * total
    seen, due = seen[due > 0], due[due > 0]
    degrees = len(due) - 1
    statistic = float(((seen - due) ** 2 / due).sum())
    assert statistic <= degrees + 5 * (2 * max(degrees, 1)) ** 0.5 + 1e-3


@pytest.mark.parametrize("vocabulary", [1, 5, 255, 256, 257, 1000])
def test_any_size_of_vocabulary(vocabulary):
    logits = torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(2))
    rows = [RowSampler(Sampling(1, temperature=1.0, top_p=0.9, top_k=3, seed=seed), ()) for seed in range(64)]
    kept = logits.topk(min(3, vocabulary)).indices
    for index, token in enumerate(sample(logits, rows)):
        assert token in kept[index].tolist()


def test_draws_do_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(20, 3000, generator=generator) * 2
    kinds = [
        {"temperature": 0.8, "top_p": 0.9}, {}, {"temperature": 1.0, "top_k": 7}, {"temperature": 2.0, "min_p": 0.05},
        {"temperature": 1.2, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    ]  # fmt: skip

    def row(index: int) -> RowSampler:
        return RowSampler(Sampling(1, seed=index, **kinds[index % len(kinds)]), [1, 2, 3])

    together = [row(index) for index in range(20)]
    for _ in range(5):
        tokens = sample(logits, together)
    for index in range(20):
        alone = row(index)
        for _ in range(5):
            [token] = sample(logits[index : index + 1], [alone])
        assert token == tokens[index], index


@pytest.mark.parametrize("kind", [{"top_p": 0.9}, {"top_k": 40, "min_p": 0.01}, {"top_k": 49_000, "top_p": 0.999}, {}])
def test_a_row_is_drawn_alike_in_either_number_format_and_beside_rows_that_change_their_logits(kind):
    logits = (torch.randn(3, 50_001, generator=torch.Generator().manual_seed(4)) * 3).bfloat16()

    def drawn(values: Tensor, *neighbours: Sampling) -> list[int | None]:
        rows = [RowSampler(Sampling(1, temperature=0.9, seed=seed, **kind), ()) for seed in range(3 - len(neighbours))]
        rows += [RowSampler(each, [1, 2]) for each in neighbours]
        return [token for _ in range(8) for token in sample(values, rows)[:2]]

    expected = drawn(logits)
    assert drawn(logits.float()) == expected
    assert drawn(logits, Sampling(1, temperature=1.0, repetition_penalty=1.5)) == expected
    assert drawn(logits, Sampling(1)) == expected


def test_what_is_banned_is_never_drawn_however_hot_the_row():
    logits = torch.zeros(64, 1000)
    banned = tuple(range(0, 1000, 2))
    rows = [RowSampler(Sampling(1, temperature=50.0, seed=seed, banned_tokens=banned), ()) for seed in range(64)]
    tokens = [token for _ in range(5) for token in sample(logits, rows)]
    assert len(set(tokens)) > 100
    assert all(token is not None and token % 2 for token in tokens)


def test_greedy_rows_neighbours_and_what_is_no_number():
    logits = torch.tensor([[0.0, 5.0, 1.0], [9.0, 0.0, 0.0], [float("nan"), 0.0, 0.0], [0.0, float("nan"), 0.0]])
    samplings = [Sampling(1), Sampling(1, temperature=0.01), Sampling(1, temperature=1.0, top_p=0.5), Sampling(1)]
    rows = [RowSampler(sampling, []) for sampling in samplings]
    assert sample(logits.bfloat16(), rows) == [1, 0, None, None]


def test_logits_of_the_model_are_left_alone():
    logits = torch.randn(2, 300)
    before = logits.clone()
    rows = [RowSampler(Sampling(1, temperature=1.0, top_p=0.5, repetition_penalty=2.0), [5]) for _ in range(2)]
    sample(logits, rows)
    assert torch.equal(logits, before)


def test_repetition_penalty_is_that_of_transformers():
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    prompt = [3, 17, 17, 40, int(logits.argmax())]
    row = RowSampler(Sampling(10, repetition_penalty=5.0), prompt)
    for _ in range(4):
        expected = RepetitionPenaltyLogitsProcessor(5.0)(torch.tensor([prompt]), logits.clone())
        [token] = sample(logits, [row])
        assert token == int(expected.argmax())
        row.accept(token)
        prompt.append(token)


def test_presence_and_frequency_penalties_are_of_the_answer_and_biases_of_tokens():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    row = RowSampler(Sampling(10, presence_penalty=0.7, frequency_penalty=0.5), [0, 0, 0])
    made = []
    for _ in range(5):
        [token] = sample(logits, [row])
        row.accept(token)
        made.append(token)
    # 3, 2 → 1.8, 2 → 1.8, 0.8, 1 → 1.3 …
    assert made == [0, 1, 0, 0, 2]
    assert sample(logits, [RowSampler(Sampling(1, logit_bias=((3, 3.5), (0, -100.0))), [])]) == [3]


def test_many_tokens_are_remembered():
    row = RowSampler(Sampling(10, repetition_penalty=1e6), [])
    logits = torch.linspace(2.0, 1.0, 500)[None]
    made = []
    for _ in range(500):
        [token] = sample(logits, [row])
        row.accept(token)
        made.append(token)
    assert made == list(range(500))


def test_bans_least_lengths_and_allowed_tokens():
    logits = torch.tensor([[9.0, 8.0, 7.0, 6.0, 5.0]])

    def made(count: int, ends=(0,), **sampling) -> list:
        row, tokens = RowSampler(Sampling(10, **sampling), []), []
        for _ in range(count):
            [token] = sample(logits, [row], ends)
            row.accept(token)
            tokens.append(token)
        return tokens

    assert made(3) == [0, 0, 0]
    assert made(3, banned_tokens=(0, 1, 77)) == [2, 2, 2]
    assert made(4, min_new_tokens=2) == [1, 1, 0, 0]
    assert made(4, min_new_tokens=2, stop_tokens=(1,)) == [2, 2, 0, 0]
    assert made(2, allowed_tokens=(3, 4, 99)) == [3, 3]
    assert made(2, allowed_tokens=(3, 4), banned_tokens=(3,)) == [4, 4]
    assert made(1, allowed_tokens=()) == [NOTHING]
    assert made(1, banned_tokens=(0, 1, 2, 3, 4), temperature=1.0) == [NOTHING]
    assert made(1, allowed_tokens=(4,), logit_bias=((0, 100.0),), repetition_penalty=2.0) == [4]


@pytest.mark.parametrize("vocabulary", [31, 32, 128, 300, 1000])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_masks_leave_what_they_allow(vocabulary, temperature):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(6, vocabulary, generator=generator)
    allowed = torch.rand(6, -(-vocabulary // 32) * 32, generator=generator) < 0.1
    allowed[4] = False
    allowed[:, vocabulary:] = False
    bits = (allowed.view(6, -1, 8).int() << torch.arange(8)).sum(-1).to(torch.uint8)
    masked = [0, 2, 4, 5]
    rows = [RowSampler(Sampling(1, temperature=temperature, seed=n, top_p=0.95), ()) for n in range(6)]
    for _ in range(10):
        tokens = sample(logits, rows, masks=Masks(masked, bits[masked]))
        for index in (0, 2, 5):
            if bool(allowed[index].any()):
                assert allowed[index, tokens[index]]
            else:
                assert tokens[index] == NOTHING
        assert tokens[4] == NOTHING
        assert 0 <= tokens[1] < vocabulary


def test_a_mask_that_knows_fewer_tokens_leaves_none_beyond():
    logits = torch.zeros(1, 256)
    logits[0, 200] = 50.0
    bits = torch.tensor([[255] * 4], dtype=torch.uint8)
    [token] = sample(logits, [RowSampler(Sampling(1), ())], masks=Masks([0], bits))
    assert 0 <= token < 32


def test_logprobs_are_of_the_logits_as_they_were():
    logits = torch.randn(3, 400, generator=torch.Generator().manual_seed(5)) * 3
    expected = torch.log_softmax(logits.double(), -1)
    found = logprobs_of(logits.bfloat16().float(), [7, 8, 9], [0, 3, 20])
    assert [each.token for each in found] == [7, 8, 9]
    assert [len(each.top) for each in found] == [0, 3, 20]
    for row, each in enumerate(found):
        assert each.logprob == pytest.approx(float(expected[row, each.token]), abs=0.05)
        likeliest = expected[row].topk(20)
        for (token, value), best in zip(each.top, likeliest.values.tolist(), strict=False):
            assert value == pytest.approx(best, abs=0.05)
            assert float(expected[row, token]) == pytest.approx(best, abs=0.05)


def test_many_hot_rows_among_greedy_ones_leave_them_alone():
    logits = torch.randn(16, 5000, generator=torch.Generator().manual_seed(6))
    rows = [RowSampler(Sampling(1, temperature=3.0 if n % 3 == 0 else 0.0, top_p=0.2, seed=n), ()) for n in range(16)]
    tokens = sample(logits, rows)
    for index in range(16):
        if index % 3:
            assert tokens[index] == int(logits[index].argmax())


class _Waits(TorchDispatchMode):
    """Counts values that the host takes out of tensors one by one: each would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*arguments, **(named or {}))


def test_nothing_is_waited_for_but_the_tokens(request):
    if "together" not in request.node.name:
        pytest.skip("on a CPU there is nothing to wait for")
    logits = torch.randn(8, 1000, generator=torch.Generator().manual_seed(7))
    kinds = [
        {"temperature": 2.0, "top_p": 0.9}, {"temperature": 1.0, "top_k": 7}, {"temperature": 1.0, "min_p": 0.1}, {},
        {"temperature": 1.0, "repetition_penalty": 1.2, "presence_penalty": 0.5, "logit_bias": ((3, 1.0),)},
        {"banned_tokens": (1, 2)}, {"min_new_tokens": 3}, {"temperature": 1.0},
    ]  # fmt: skip
    rows = [RowSampler(Sampling(5, seed=n, **kind), [1, 2, 3]) for n, kind in enumerate(kinds)]
    bits = torch.full((2, 125), 85, dtype=torch.uint8)
    with _Waits() as waits:
        sample(logits, rows, (4,), Masks([0, 7], bits))
    assert waits.count == 0
