"""Memory needs and the choice of a quantization, with the real models' sizes."""

import pytest
from ams_common import fit
from ams_common.fit import (
    AUTO_CONTEXT_TOKENS,
    DeviceMemory,
    Need,
    Shape,
    choose_fit,
    fit_on,
    needs,
    shape_of,
    stored_bytes_per_parameter,
)

GIB = 1 << 30
QWEN3_8B = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_the_shape_of_a_plain_and_of_a_nested_configuration() -> None:
    shape = shape_of(QWEN3_8B)
    assert shape == Shape(4096, 36, 8, 128, 151936, 131072, tied=False)
    assert shape.cache_values_per_token == 2 * 36 * 8 * 128
    assert shape_of({"thinker_config": {"text_config": QWEN3_8B}}) == shape
    assert shape_of({"text_config": QWEN3_8B, "hidden_size": 7}) == shape
    assert shape_of({"n_embd": 768, "n_layer": 12, "n_head": 12}).head == 64
    assert shape_of({"hidden_size": "large"}) == Shape()


def test_stored_precision() -> None:
    assert stored_bytes_per_parameter(QWEN3_8B) == 2
    assert stored_bytes_per_parameter({"torch_dtype": "float32"}) == 4
    assert stored_bytes_per_parameter({}) == 2


def test_needs_of_eight_billion_parameters() -> None:
    none, eight, four = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=2048)
    assert round(none.weights_bytes / GIB, 1) == 15.3
    assert none.cache_bytes == eight.cache_bytes == 16 * 2048 * 147456
    assert 8.5 < eight.weights_bytes / GIB < 9.2
    assert 5.5 < four.weights_bytes / GIB < 6.3  # embeddings stay in bfloat16


@pytest.mark.parametrize(
    ("free", "device", "chosen", "fits", "words"),
    [
        (24, "cuda", "none", True, "fits 24.0 GiB"),
        (16, "cuda", "8bit", True, "does not fit 16.0 GiB; "),
        (16, "cpu", "8bit", True, "in 8-bit does"),
        (9, "cpu", "4bit", True, "in 4-bit does"),
        (10, "cuda", "4bit", True, "does not fit 10.0 GiB; "),
        (4, "cuda", "4bit", False, "does not fit 4.0 GiB, the smallest there is"),
    ],
)
def test_auto_takes_the_first_that_fits(free: int, device: str, chosen: str, fits: bool, words: str) -> None:
    given = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=1024)
    chosen_fit = choose_fit(given, free * GIB, device=device)
    assert (chosen_fit.chosen, chosen_fit.fits) == (chosen, fits)
    assert words in chosen_fit.reason


def test_what_is_asked_for_is_taken_even_where_it_does_not_fit() -> None:
    given = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=1024)
    chosen_fit = choose_fit(given, 8 * GIB, wanted="none")
    assert (chosen_fit.chosen, chosen_fit.fits) == ("none", False)
    assert choose_fit(given, 80 * GIB, wanted="4bit").chosen == "4bit"


@pytest.mark.parametrize(
    ("precision", "size"), [("float32", 4), ("bfloat16", 2), ("float16", 2), ("float64", 8), ("int9", 2), (7, 2)]
)
def test_bytes_of_a_stored_parameter(precision: object, size: int) -> None:
    assert stored_bytes_per_parameter({"dtype": precision}) == size
    assert stored_bytes_per_parameter({"text_config": {"torch_dtype": precision}}) == size


@pytest.mark.parametrize("value", [0, -3, True, "64", 64.0, None])
def test_a_number_of_no_sense_is_as_none(value: object) -> None:
    assert shape_of({"num_attention_heads": value, "n_head": 4, "hidden_size": 64}).head == 16
    assert shape_of({**QWEN3_8B, "num_key_value_heads": value}).key_value_heads == 32
    assert shape_of({**QWEN3_8B, "head_dim": value}).head == 128


@pytest.mark.parametrize(
    ("given", "tied"), [({}, True), ({"tie_word_embeddings": False}, False), ({"tie_word_embeddings": None}, True)]
)
def test_embeddings_are_tied_unless_it_is_denied(given: dict[str, object], tied: bool) -> None:
    assert shape_of(given).tied is tied
    assert shape_of({**given, "text_config": {"hidden_size": 4}}).tied is tied


def test_embeddings_take_8_bits_on_a_cpu_and_groups_their_scales() -> None:
    shape = Shape(hidden=5, layers=2, key_value_heads=1, head=3, vocabulary=10, context_tokens=4096, tied=False)
    given = needs(1700, shape, rows=3, context_tokens=7)
    none, eight, four = (need.on("cpu") for need in given)
    assert none == given[0]
    assert (eight.weights_bytes, four.weights_bytes) == (1700 * 34 // 32, int(1600 * 20 / 32 + 100 * 34 / 32))
    assert four.on("cpu") == four
    assert given[2].on("cuda") == given[2]


def test_needs_in_numbers() -> None:
    """100 values of embeddings stay as they are; the others take a little more than a byte, or half of one."""
    shape = Shape(hidden=5, layers=2, key_value_heads=1, head=3, vocabulary=10, context_tokens=4096, tied=False)
    assert shape.embeddings == 100
    none, eight, four = needs(1100, shape, rows=3, context_tokens=7)
    assert (none.weights_bytes, none.cache_bytes) == (2200, 3 * 7 * 12 * 2)
    assert (eight.quantization, four.quantization) == ("8bit", "4bit")
    assert 1000 + 200 <= eight.weights_bytes < 1150 + 200
    assert 500 + 200 <= four.weights_bytes < 600 + 200
    wide = needs(1100, shape, rows=3, context_tokens=7, precision="float32")
    assert (wide[0].weights_bytes, wide[0].cache_bytes) == (4400, 3 * 7 * 12 * 4)
    assert needs(60, shape, rows=1, context_tokens=1)[2].weights_bytes == 120, "all of them are embeddings"


@pytest.mark.parametrize(("own", "tokens"), [(0, 4096), (512, 512), (4096, 4096), (131072, 4096)])
def test_a_context_that_is_chosen_counts_as_much_as_the_pod_takes_at_least(own: int, tokens: int) -> None:
    shape = Shape(hidden=4, layers=1, key_value_heads=1, head=4, vocabulary=8, context_tokens=own, tied=True)
    chosen = needs(100, shape, rows=2, context_tokens=None)[0].cache_bytes
    assert chosen == 2 * min(tokens, AUTO_CONTEXT_TOKENS) * 8 * 2


def test_needs_by_the_number_of_parameters_alone() -> None:
    none, eight, four = needs(8_000_000_000, Shape(), rows=16, context_tokens=1)
    assert none.weights_bytes == 16_000_000_000
    assert none.cache_bytes == int(16_000_000_000 * fit._CACHE_SHARE)
    assert none.weights_bytes > eight.weights_bytes > four.weights_bytes > 4_000_000_000


GPU = 24 * GIB


def test_on_several_gpus_what_no_quantization_fits_into_one_is_spread() -> None:
    given = needs(70_000_000_000, shape_of({**QWEN3_8B, "num_hidden_layers": 80}), rows=4, context_tokens=1024)
    seven = DeviceMemory((GPU,) * 7, 32 * GIB)
    chosen = fit_on(given, seven)
    assert (chosen.fits, chosen.chosen, chosen.spread) == (True, "none", True)
    assert chosen.reason.endswith(": spread over devices")
    assert not fit_on(given, DeviceMemory((GPU,) * 2, 32 * GIB)).fits
    assert not fit_on(given, seven, wanted="4bit").fits
    assert fit_on(given, seven, wanted="none").spread
    assert not fit_on(needs(8_190_735_360, shape_of(QWEN3_8B), rows=1, context_tokens=1024), seven).spread


def test_without_a_gpu_it_is_the_machine() -> None:
    given = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=1024)
    assert fit_on(given, DeviceMemory((), 16 * GIB)).chosen == "8bit"
    assert fit_on(given, DeviceMemory((), 9 * GIB)).chosen == "4bit"
    assert not fit_on(given, DeviceMemory()).fits


def test_a_spread_leaves_each_gpu_room_for_the_cache_of_its_layers() -> None:
    plain = Need("none", "bfloat16", 30_000, 10_000)
    room = fit.spread(plain, DeviceMemory((24_000, 48_000), 11_000))
    headroom = 1 + fit.HEADROOM
    assert room == {0: int(24_000 * 0.75 / headroom), 1: int(48_000 * 0.75 / headroom), "cpu": int(11_000 / headroom)}
    exactly = DeviceMemory((), int(30_000 * headroom) + 1)
    assert fit.spread(plain, exactly) is not None
    assert fit.spread(plain, DeviceMemory((), int(30_000 * headroom) - 2)) is None
    assert fit.spread(plain, DeviceMemory()) is None


def test_what_is_told_of_a_choice() -> None:
    given = (
        Need("none", "bfloat16", 4 * GIB, GIB),
        Need("8bit", "8-bit", 2 * GIB, GIB),
        Need("4bit", "4-bit", GIB, GIB),
    )
    free = {"none": 6 * GIB, "8bit": 3 * GIB, "4bit": 2 * GIB}
    large, cache = given[0].total_bytes, GIB
    assert large > 4 * GIB + cache, "something is left for everything else"
    told = [choose_fit(given, bytes_ + GIB).reason for bytes_ in free.values()]
    assert told[0] == "4.0 GiB in bfloat16 + 1.0 GiB cache fits 7.0 GiB"
    assert told[1] == "4.0 GiB in bfloat16 + 1.0 GiB cache does not fit 4.0 GiB; 2.0 GiB in 8-bit does"
    assert told[2] == "4.0 GiB in bfloat16 + 1.0 GiB cache does not fit 3.0 GiB; 1.0 GiB in 4-bit does"
    asked = choose_fit(given, 100 * GIB, wanted="8bit")
    assert asked.reason == "asked for; 2.0 GiB in 8-bit + 1.0 GiB cache fits 100.0 GiB"
    refused = choose_fit(given, GIB, wanted="8bit")
    assert refused.reason == "2.0 GiB in 8-bit + 1.0 GiB cache does not fit 1.0 GiB"
    assert (refused.fits, choose_fit(given, GIB).reason.endswith(", the smallest there is")) == (False, True)
    assert choose_fit(given, large).chosen == "none", "to the byte"
    assert choose_fit(given, large - 1).chosen == "8bit"
