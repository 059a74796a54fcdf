"""Memory needs and the choice of a quantization, with the real models' sizes."""

import pytest
from ams_common.fit import Shape, choose_fit, needs, shape_of, stored_bytes_per_parameter

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
        (16, "cpu", "4bit", True, "in 4-bit does"),
        (10, "cuda", "4bit", True, "does not fit 10.0 GiB; "),
        (4, "cuda", "4bit", False, "does not fit 4.0 GiB, the smallest there is"),
    ],
)
def test_auto_takes_the_first_that_fits(free: int, device: str, chosen: str, fits: bool, words: str) -> None:
    given = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=1024)
    fit = choose_fit(given, free * GIB, device=device)
    assert (fit.chosen, fit.fits) == (chosen, fits)
    assert words in fit.reason


def test_what_is_asked_for_is_taken_even_where_it_does_not_fit() -> None:
    given = needs(8_190_735_360, shape_of(QWEN3_8B), rows=16, context_tokens=1024)
    fit = choose_fit(given, 8 * GIB, wanted="none")
    assert (fit.chosen, fit.fits) == ("none", False)
    assert choose_fit(given, 80 * GIB, wanted="4bit").chosen == "4bit"
