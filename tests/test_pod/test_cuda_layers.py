"""The layers and graphs for GPUs, with what stands in for their kernels: where keys lie, and rows that are nobody's."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ams_pod.engines.builtin.model import decoder as decoder_module
from ams_pod.engines.builtin.model.cuda import graphs as graphs_module
from ams_pod.engines.builtin.model.cuda import tables
from ams_pod.engines.builtin.model.cuda.graphs import SIZES
from ams_pod.engines.builtin.model.cuda.kernels import Heads, KernelsUnavailable, compile_kernels, why_not
from ams_pod.engines.builtin.model.cuda.layers import CudaLayers, heads_of
from ams_pod.engines.builtin.model.cuda.tables import as_rows, graph_table, token_table
from ams_pod.engines.builtin.model.extents import Extent
from ams_pod.engines.builtin.scheduler import schedule
from engine_harness import Driver, forward_of, load_model, prompts, reference
from fakehub import checkpoints
from torch_kernels import TorchKernels

ROWS, LENGTH = 5, 160


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make(request.param, tmp_path_factory.mktemp("layers") / request.param)


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Decoders have the layers for GPUs and their graphs. The sizes of replayed graphs are told."""
    replayed: list[int] = []

    def record(compute: Callable[[], torch.Tensor], pool: object) -> tuple[Callable[[], None], torch.Tensor, object]:
        result = compute()

        def replay() -> None:
            replayed.append(len(result))
            result.copy_(compute())

        return replay, result, pool

    monkeypatch.setattr(graphs_module, "record", record)
    monkeypatch.setattr(
        decoder_module,
        "_layers_for",
        lambda stack, report: (CudaLayers(stack, report, TorchKernels(heads_of(stack))), ""),
    )
    return replayed


def test_a_mixed_batch_equals_generate(folder: Path, as_on_a_gpu: list[int]) -> None:
    model = load_model(folder)
    wanted = prompts(9, seed=4)
    expected = [reference(model, ids, 12) for ids in wanted]
    driver = Driver(forward_of("flat", load_model(folder), ROWS, LENGTH))
    outcomes = [driver.submit(ids, 12)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected
    assert set(as_on_a_gpu) <= set(SIZES)
    assert len(as_on_a_gpu) >= 10


def test_prompts_are_read_in_pieces(folder: Path, as_on_a_gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 24)
    model = load_model(folder)
    wanted = [list(range(10, 10 + length)) for length in (140, 90, 37)]
    expected = [reference(model, ids, 8) for ids in wanted]
    driver = Driver(forward_of("flat", load_model(folder), ROWS, LENGTH))
    outcomes = [driver.submit(ids, 8)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected
    assert as_on_a_gpu


def test_rows_that_nobody_has_leave_the_cache_as_it_is(folder: Path, as_on_a_gpu: list[int]) -> None:
    """Three rows go through a graph of four."""
    forward: Any = forward_of("flat", load_model(folder), ROWS, LENGTH)
    driver = Driver(forward)
    for ids in prompts(3, seed=8):
        driver.submit(ids, 8)
    driver.run()
    assert 4 in as_on_a_gpu
    cache = forward.cache
    for layer in cache.layers:
        for half in layer.view(2, -1, cache.head_size):
            assert not half[3 * 64 * cache.heads :].any()  # behind the three extents of 64 tokens


def test_steps_that_no_graph_is_for_are_computed_alike(
    folder: Path, as_on_a_gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that read keys too often, between rows and chunks that don't."""
    monkeypatch.setattr(tables, "_KEYS_OF_A_CHUNK", 50 * 50)
    model = load_model(folder)
    wanted = [list(range(10, 10 + length)) for length in (20, 140, 30, 120, 25)]
    expected = [reference(model, ids, 8) for ids in wanted]
    driver = Driver(forward_of("flat", load_model(folder), ROWS, LENGTH))
    outcomes = [driver.submit(ids, 8)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected
    assert as_on_a_gpu
    assert max(as_on_a_gpu) <= 8  # the prompts were read otherwise


def test_chunks_are_read_as_rows_while_that_costs_little() -> None:
    extent = Extent(0, 8192)
    assert as_rows([(extent, 0, 100), (extent, 0, 2000), (extent, 3000, 3008)]) == [True, False, True]
    assert as_rows([(extent, 0, 180)] * 6) == [True] * 4 + [False] * 2  # of a step, no more than so many keys


def test_the_table_of_a_step() -> None:
    tokens = token_table([(Extent(64, 128), 10, 11), (Extent(192, 64), 3, 5)], heads=2)
    assert graph_table(4, [7, 8, 9], [10, 3, 4], tokens).tolist() == [
        [7, 8, 9, 0],
        [10, 3, 4, 0],
        [64 * 2 + 10, 192 * 2 + 3, 192 * 2 + 4, -1],
        [128, 64, 64, 0],
        [128, 384, 384, 0],
        [128, 64, 64, 0],
        [11, 4, 5, 0],
    ]
    assert graph_table(2, [], [], token_table([], heads=2))[2].tolist() == [-1, -1]


def test_query_heads_are_divided_so_that_a_block_holds_them() -> None:
    for queries, keys, group, parts in ((32, 8, 4, 1), (9, 3, 3, 1), (28, 4, 7, 1), (16, 1, 8, 2), (40, 2, 5, 4)):
        heads = Heads(128, queries, keys)
        assert (heads.group, heads.parts) == (group, parts)
        assert heads.group * heads.parts * keys == queries


def test_what_the_kernels_do_not_know_is_said() -> None:
    heads = Heads(128, 8, 2)
    assert why_not(torch.bfloat16, heads, [64, 4096]) == ""
    assert "float64" in why_not(torch.float64, heads, [64])
    assert "heads of 96" in why_not(torch.bfloat16, Heads(96, 8, 2), [64])
    assert "one of 36" in why_not(torch.float16, heads, [64, 36])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("heads", [Heads(16, 8, 2), Heads(128, 28, 4), Heads(256, 16, 1)])
def test_the_kernels_compile(dtype: torch.dtype, heads: Heads) -> None:
    pytest.importorskip("cuda.bindings", reason="NVIDIA's cuda-bindings, which come with torch for CUDA, are not there")
    if why_not(dtype, heads, [64]):
        assert dtype == torch.float32
        return
    assert compile_kernels(dtype, heads, "sm_80")[:4] == b"\x7fELF"
    with pytest.raises(KernelsUnavailable):
        compile_kernels(dtype, heads, f"sm_{random.Random(1).randint(900, 999)}")
