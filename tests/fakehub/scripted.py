"""Checkpoints of real architectures whose greedy answer is known: each token of it makes the next one likeliest."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakehub.tiny_tokenizer import REASONING, qwen_tokenizer

_HIDDEN = 64


def thinker(folder: Path) -> Path:
    """It reasons like DeepSeek-R1: `<think>\\n hm STOP</think>\\n\\nParis. Done` after `<｜Assistant｜>`."""
    end = "<｜end▁of▁sentence｜>"
    tokenizer = qwen_tokenizer(
        ["<｜begin▁of▁sentence｜>", end, "<｜User｜>", "<｜Assistant｜>"],
        bos="<｜begin▁of▁sentence｜>", eos=end, pad=end, template=REASONING,
    )  # fmt: skip
    script = ["<think>", "\n", " hm", " STOP", "</think>", "\n\n", "Paris", ".", " Done"]
    ids = tokenizer.convert_tokens_to_ids
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.add_tokens([text for text in script if len(tokenizer(text).input_ids) != 1])
    said = [tokenizer(text).input_ids[-1] for text in script]
    return _save(tokenizer, [ids("<｜Assistant｜>"), *said, tokenizer.eos_token_id], folder)


def endless(folder: Path, context: int = 200_000) -> Path:
    """It never ends: ` on and on and on`, to the end of its context."""
    tokenizer = qwen_tokenizer(
        ["<s>", "</s>", "<｜User｜>", "<｜Assistant｜>"], bos="<s>", eos="</s>", pad="</s>", template=REASONING
    )
    words = [" on", " and"]
    tokenizer.add_tokens([text for text in words if len(tokenizer(text).input_ids) != 1])
    said = [tokenizer(text).input_ids[-1] for text in words]
    return _save(
        tokenizer, [tokenizer.convert_tokens_to_ids("<｜Assistant｜>"), *said], folder, context=context, again=1
    )


def writer(folder: Path, thoughts: Sequence[str], answer: Sequence[str]) -> Path:
    """It thinks and writes these pieces, all different, whatever it is asked."""
    end = "<｜end▁of▁sentence｜>"
    tokenizer = qwen_tokenizer(
        ["<｜begin▁of▁sentence｜>", end, "<｜User｜>", "<｜Assistant｜>"],
        bos="<｜begin▁of▁sentence｜>", eos=end, pad=end, template=REASONING,
    )  # fmt: skip
    script = ["<think>", "\n", *thoughts, "</think>", *answer]
    ids = tokenizer.convert_tokens_to_ids
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.add_tokens([text for text in script if len(tokenizer(text).input_ids) != 1])
    said = [tokenizer(text).input_ids[-1] for text in script]
    return _save(tokenizer, [ids("<｜Assistant｜>"), *said, tokenizer.eos_token_id], folder)


def spaces(folder: Path) -> Path:
    """Llama-2's kind of tokenizer, whose decoder drops the first space: `The capital of France` is Paris."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["▁The", "▁capital", "▁of", "▁France", "▁is", "▁Paris", ".", "▁and", "▁"]
    vocabulary = {text: number for number, text in enumerate(["<unk>", "<s>", "</s>", *words])}
    made: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    chain = [vocabulary[word] for word in ("▁France", "▁is", "▁Paris", ".", "</s>")]
    return _save(tokenizer, chain, folder)


def _save(tokenizer: Any, chain: Sequence[int], folder: Path, *, context: int = 512, again: int | None = None) -> Path:
    """A Llama whose layers add nothing: the embedding of each token of the chain is the next one's direction.

    After the last one comes the one at `again`, if that is given.
    """
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    assert len(set(chain)) == len(chain) < _HIDDEN
    pairs = [*itertools.pairwise(chain), *([] if again is None else [(chain[-1], chain[again])])]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=_HIDDEN, intermediate_size=_HIDDEN, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=context, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
        embeddings.zero_()
        head.zero_()
        embeddings[:, -1] = 1
        head[tokenizer.eos_token_id, -1] = 5
        for number, (token, following) in enumerate(pairs):
            embeddings[token].zero_()
            embeddings[token, number] = 1
            head[following, number] = 20
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    return folder
