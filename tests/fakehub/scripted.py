"""Checkpoints of real architectures whose greedy answer is known: each token of it makes the next one likeliest."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakehub.tiny_tokenizer import HERMES, REASONING, qwen_tokenizer

_HIDDEN = 64
_CALL_ENDS = "</tool_call>"  # and with it the answer, in all scripts


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
    return _save(tokenizer, _chain([ids("<｜Assistant｜>"), *said, tokenizer.eos_token_id]), folder)


def endless(folder: Path, context: int = 200_000) -> Path:
    """It never ends: ` on and on and on`, to the end of its context."""
    tokenizer = qwen_tokenizer(
        ["<s>", "</s>", "<｜User｜>", "<｜Assistant｜>"], bos="<s>", eos="</s>", pad="</s>", template=REASONING
    )
    words = [" on", " and"]
    tokenizer.add_tokens([text for text in words if len(tokenizer(text).input_ids) != 1])
    said = [tokenizer(text).input_ids[-1] for text in words]
    chain = [tokenizer.convert_tokens_to_ids("<｜Assistant｜>"), *said]
    return _save(tokenizer, [*_chain(chain), (chain[-1], chain[1])], folder, context=context)


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
    return _save(tokenizer, _chain([ids("<｜Assistant｜>"), *said, tokenizer.eos_token_id]), folder)


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
    return _save(tokenizer, _chain(chain), folder)


def agent(folder: Path, scripts: Sequence[tuple[str, Sequence[str]]], context: int = 8192) -> Path:
    """It answers by the first script whose condition, in Jinja, its messages and tools meet; each piece is one token.

    Its chat template is of Qwen's kind: it knows tools, and writes calls as Hermes does.
    """
    chosen = "".join(
        f"{{%- {'if' if number == 0 else 'elif'} {condition} %}}{{{{- '<|script{number}|>' }}}}"
        for number, (condition, _) in enumerate(scripts)
    )
    names = [f"<|script{number}|>" for number in range(len(scripts))]
    template = HERMES + "{%- if add_generation_prompt %}" + chosen + "{%- endif %}{%- endif %}"
    tokenizer = qwen_tokenizer(["<|im_start|>", "<|im_end|>", *names], template=template)
    pieces = [piece for _, said in scripts for piece in said if piece != _CALL_ENDS]
    assert len(set(pieces)) == len(pieces), "a token is followed by one token only"
    tokenizer.add_tokens(["<tool_call>", _CALL_ENDS, *pieces])
    ids = tokenizer.convert_tokens_to_ids
    chains = [
        [ids(name), *map(ids, said), tokenizer.eos_token_id] for name, (_, said) in zip(names, scripts, strict=True)
    ]
    return _save(tokenizer, [pair for chain in chains for pair in itertools.pairwise(chain)], folder, context=context)


def call(name: str, arguments: str) -> list[str]:
    """The pieces of one call."""
    return [f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n', _CALL_ENDS]


def steps(count: int, name: str, last: str) -> list[tuple[str, Sequence[str]]]:
    """Scripts of an agent that calls `name` with {"number": 1}, then 2 and so on, and then says `last`.

    For a chat whose first tool has this name.
    """
    results = "(messages | selectattr('role', 'equalto', 'tool') | list | length)"
    has = f"tools and tools[0].function.name == '{name}' and {results}"
    made: list[tuple[str, Sequence[str]]] = []
    for number in range(count):
        call = f'<tool_call>\n{{"name": "{name}", "arguments": {{"number": {number + 1}'
        made.append((f"{has} == {number}", [call, "}}\n</tool_call>" + " " * number]))
    return [*made, (f"{has} == {count}", [last])]


def _chain(chain: Sequence[int]) -> list[tuple[int, int]]:
    """Each token and the next."""
    assert len(set(chain)) == len(chain)
    return [*itertools.pairwise(chain)]


def _save(tokenizer: Any, pairs: Sequence[tuple[int, int]], folder: Path, *, context: int = 512) -> Path:
    """A Llama whose layers add nothing: the embedding of the first token of a pair is the direction of the second."""
    directions = {token: number for number, token in enumerate(dict.fromkeys(first for first, _ in pairs))}
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    hidden = _HIDDEN
    while hidden <= len(directions):
        hidden *= 2
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=_HIDDEN, num_hidden_layers=1,
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
        for token, number in directions.items():
            embeddings[token].zero_()
            embeddings[token, number] = 1
        for token, following in pairs:
            head[following, directions[token]] = 20
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    return folder
