"""The text of an answer behind its prompt, token by token: nothing lost at the border, nothing of the prompt in it."""

from typing import Any

import pytest
from ams_pod.engines.prompts.text import StreamDetokenizer
from fakehub.tiny_tokenizer import qwen_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HALF = "\N{REPLACEMENT CHARACTER}"


def sentence_pieces() -> Tokenizer:
    """Llama-2's kind: `▁` is a space, the first one is dropped, and characters it doesn't know are bytes."""
    words = ["▁The", "▁capital", "▁is", "Paris", "▁", ".", "▁▁", "a"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {text: number for number, text in enumerate(["<unk>", "<s>", "</s>", *words, *bytes_])}
    made: Any = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


SENTENCE_PIECES = sentence_pieces()
BYTES: Any = qwen_tokenizer(["<|im_start|>", "<|im_end|>"]).backend_tokenizer
WORDS = [
    SENTENCE_PIECES.token_to_id(text) for text in ("▁The", "▁capital", "▁is", "Paris", "▁", ".", "▁▁", "a", "</s>")
]


def pushed(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> str:
    detokenizer = StreamDetokenizer(tokenizer, prompt)
    return "".join(detokenizer.push(token) for token in answer)


def decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.lists(st.sampled_from(WORDS), max_size=12))
def test_prompt_and_answer_are_the_whole_text(prompt: list[int], answer: list[int]) -> None:
    whole, before = decoded(SENTENCE_PIECES, [*prompt, *answer]), decoded(SENTENCE_PIECES, prompt)
    assert before + pushed(SENTENCE_PIECES, prompt, answer) == whole


TEXT = BYTES.encode("the é🦙 is 漢 a cat 🦙", add_special_tokens=False).ids


@pytest.mark.parametrize("cut", range(len(TEXT) + 1))
def test_a_prompt_that_ends_in_half_a_character_stays_out(cut: int) -> None:
    prompt, answer = TEXT[:cut], TEXT[cut:]
    text = pushed(BYTES, prompt, answer)
    if decoded(BYTES, prompt).endswith(HALF):
        assert text.lstrip(HALF) == decoded(BYTES, answer).lstrip(HALF)
    else:
        assert decoded(BYTES, prompt) + text == decoded(BYTES, TEXT)


@given(st.lists(st.sampled_from(TEXT), max_size=9), st.lists(st.sampled_from(TEXT), min_size=1, max_size=9))
def test_any_bytes_behind_any_bytes(prompt: list[int], answer: list[int]) -> None:
    """Nothing is raised, and what is certain comes: all but an unfinished character at the end."""
    text = pushed(BYTES, prompt, [*answer, *BYTES.encode(" is", add_special_tokens=False).ids])
    assert text.endswith(" is")


def test_without_a_prompt_it_is_the_answer_alone() -> None:
    answer = SENTENCE_PIECES.encode("The capital is").ids
    assert pushed(SENTENCE_PIECES, [], answer) == "The capital is"
