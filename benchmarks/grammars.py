"""llguidance against xgrammar: compiling JSON Schemas, masks, and whether what they allow is valid.

    pip install --target PEERS/grammars --no-deps xgrammar apache-tvm-ffi
    python benchmarks/grammars.py --tokenizer FOLDER/tokenizer.json --tiktoken qwen.tiktoken --peers PEERS/grammars

Answers are random walks of at most 150 tokens through what the masks allow; those that end are parsed and validated.
The schemas are those of the tests, and some with keywords that are rarely enforced. A vocabulary of 152k tokens is read
from a file of tiktoken's form, such as the one in the package dashscope. One thread.
"""

import argparse
import base64
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / "test_pod")]
from constraint_cases import SCHEMAS, closed  # noqa: E402

RARE = {
    "not": {"type": "string", "maxLength": 5, "not": {"const": "abc"}},
    "uniqueItems": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "maxItems": 3},
    "if": closed({"a": {"type": "boolean"}})
    | {"if": {"properties": {"a": {"const": True}}}, "then": {"required": ["b"]}},
    "dependentRequired": closed({"a": {"type": "integer"}, "b": {"type": "integer"}}, [])
    | {"dependentRequired": {"a": ["b"]}},
    "contains": {"type": "array", "items": {"type": "integer"}, "contains": {"const": 3}, "maxItems": 3},
}


@dataclass
class Vocabulary:
    """`texts` of the tokens, `end` the one that ends an answer."""

    name: str
    texts: list[bytes]
    end: int
    llguidance: Any


@dataclass
class Seen:
    """Of one library: seconds of compiling and of masks, and how answers ended."""

    compiling: list[float] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    wrong: set[str] = field(default_factory=set)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--tiktoken", type=Path)
    parser.add_argument("--peers", type=Path)
    arguments = parser.parse_args()
    if arguments.peers:
        sys.path.insert(0, str(arguments.peers))
    vocabularies = [of_tokenizer(arguments.tokenizer)]
    if arguments.tiktoken:
        vocabularies.append(of_tiktoken(arguments.tiktoken))
    for vocabulary in vocabularies:
        for name, compiles in {"llguidance": with_llguidance, "xgrammar": with_xgrammar}.items():
            try:
                show(vocabulary, name, measure(vocabulary, compiles(vocabulary)))
            except ImportError as reason:
                print(f"skipped: {name}: {reason}")


def of_tokenizer(path: Path) -> Vocabulary:
    tokenizer = llguidance.LLTokenizer(str(path))
    texts = [tokenizer.decode_bytes([token]) for token in range(tokenizer.vocab_size)]
    return Vocabulary(f"{len(texts):,} tokens", texts, tokenizer.eos_token, tokenizer)


def of_tiktoken(path: Path) -> Vocabulary:
    texts = [base64.b64decode(line.split()[0]) for line in path.read_bytes().splitlines()]
    ids = {text: token for token, text in enumerate(texts)}
    end = len(texts)

    class Greedy:
        eos_token_id, bos_token_id = end, None
        tokens, special_token_ids = [*texts, b"<|endoftext|>"], [end]

        def __call__(self, text: bytes) -> list[int]:
            found, at = [], 0
            while at < len(text):
                stop = next(stop for stop in range(min(len(text), at + 24), at, -1) if text[at:stop] in ids)
                found.append(ids[text[at:stop]])
                at = stop
            return found

    made = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Greedy()))
    return Vocabulary(f"{end + 1:,} tokens", Greedy.tokens, end, made)


Compiles = Callable[[Any], Callable[[], tuple[Callable[[np.ndarray[Any, Any]], None], Callable[[int], bool]]]]
"""From a schema to what begins an answer: (fill a mask of 32-bit words, take a token). ValueError for a refusal."""


def with_llguidance(vocabulary: Vocabulary) -> Compiles:
    def compiled(schema: Any) -> Any:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
        first = llguidance.LLMatcher(vocabulary.llguidance, grammar, log_level=0)
        if first.is_error():
            raise ValueError(first.get_error())

        def begin() -> Any:
            matcher = first.deep_copy()
            fill = lambda mask: matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)  # noqa: E731
            return fill, matcher.consume_token

        return begin

    return compiled


def with_xgrammar(vocabulary: Vocabulary) -> Compiles:
    import torch
    import xgrammar

    info = xgrammar.TokenizerInfo(
        vocabulary.texts, xgrammar.VocabType.RAW, vocab_size=len(vocabulary.texts), stop_token_ids=[vocabulary.end]
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compiled(schema: Any) -> Any:
        grammar = compiler.compile_json_schema(json.dumps(schema), strict_mode=False)

        def begin() -> Any:
            matcher = xgrammar.GrammarMatcher(grammar)
            fill = lambda mask: matcher.fill_next_token_bitmask(torch.from_numpy(mask)[None])  # noqa: E731
            return fill, matcher.accept_token

        return begin

    return compiled


def measure(vocabulary: Vocabulary, compiles: Compiles) -> Seen:
    seen, chance = Seen(), np.random.default_rng(1)
    for name, schema in (SCHEMAS | RARE).items():
        started = time.perf_counter()
        try:
            begin = compiles(schema)
        except (ValueError, RuntimeError):
            seen.ends["refused"] += 1
            continue
        seen.compiling.append(time.perf_counter() - started)
        for _ in range(12):
            text = walk(vocabulary, *begin(), chance, seen.masks)
            if text is None:
                seen.ends["cut"] += 1
            elif valid(text, schema):
                seen.ends["valid"] += 1
            else:
                seen.ends["invalid"] += 1
                seen.wrong.add(name)
    return seen


def walk(vocabulary: Vocabulary, fill: Any, take: Any, chance: Any, seconds: list[float]) -> bytes | None:
    """A random answer, which is rather short; None where it was cut."""
    mask = np.zeros(-(-len(vocabulary.texts) // 32), np.int32)
    text = b""
    for _ in range(150):
        started = time.perf_counter()
        fill(mask)
        seconds.append(time.perf_counter() - started)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(vocabulary.texts)])
        some = chance.choice(allowed, min(len(allowed), 200), replace=False)
        closing = [token for token in some if any(byte in vocabulary.texts[token] for byte in b'"}],')]
        token = int(closing[0] if closing and chance.random() < 0.5 else some[0])
        if vocabulary.end in allowed and chance.random() < 0.5:
            token = vocabulary.end
        if token == vocabulary.end:
            return text
        take(token)
        text += vocabulary.texts[token]
    return None


def valid(text: bytes, schema: Any) -> bool:
    try:
        jsonschema.validate(json.loads(text.decode()), schema, format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def show(vocabulary: Vocabulary, name: str, seen: Seen) -> None:
    masks, compiling = np.array(seen.masks) * 1e3, np.array(seen.compiling) * 1e3
    print(
        f"{vocabulary.name:16} {name:10} compiling {statistics.median(compiling):.1f} ms, "
        f"longest {compiling.max():.0f}; "
        f"masks {np.median(masks):.3f} ms, mean {masks.mean():.3f}, p99 {np.percentile(masks, 99):.2f}; "
        f"answers {dict(seen.ends)} {sorted(seen.wrong)}"
    )


if __name__ == "__main__":
    main()
