"""Answers that are held to a form have it, whatever a model with random weights would rather say."""

import ctypes
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import torch
from ams_pod.engines.builtin.constraints.compiling import Compiled, Compiler
from ams_pod.engines.builtin.constraints.guide import Guide
from ams_pod.engines.builtin.constraints.vocabulary import read_vocabulary
from ams_pod.engines.port import Constraint, EngineRefusal, Prepared
from constraint_cases import SCHEMAS, closed
from engine_harness import Driver, forward_of, load_model
from fakehub import checkpoints
from tokenizers import Tokenizer

TEMPERATURES = (0.0, 0.7, 1.0, 2.0, 5.0)
CHOICES = ["red", 'green "light"', "ü€\U0001f600"]
ROWS, LENGTH, NEW = 16, 700, 600


class Model:
    """A tiny checkpoint, its tokenizer, and what compiles constraints for it."""

    def __init__(self, folder, thinks=False):
        self.folder = folder
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = json.loads((folder / "config.json").read_text())
        self.ends = frozenset({config["eos_token_id"]})
        size = config["vocab_size"]
        self.compiler = Compiler(lambda: read_vocabulary(self.tokenizer, size, self.ends, thinks=thinks))

    def driver(self, kind="flat") -> Driver:
        return Driver(forward_of(kind, load_model(self.folder), ROWS, LENGTH), self.ends)

    def compiled(self, kind, value="", **more) -> Compiled:
        return self.compiler.prepare(Constraint(kind, value, **more))

    def schema(self, schema, **more) -> Compiled:
        return self.compiled("json-schema", json.dumps(schema), **more)

    def text(self, tokens) -> str:
        return self.tokenizer.decode([token for token in tokens if token not in self.ends], skip_special_tokens=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Model(checkpoints.make("llama", tmp_path_factory.mktemp("checkpoints") / "llama"))


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory):
    return Model(checkpoints.make("qwen3", tmp_path_factory.mktemp("checkpoints") / "qwen3"), thinks=True)


def test_all_of_500_answers_follow_their_schema(llama):
    """At any temperature, in batches mixed with free text; 5 of each schema at each temperature."""
    driver = llama.driver()
    cases = []
    for number in range(5):
        for temperature in TEMPERATURES:
            for schema in SCHEMAS.values():
                more = {"temperature": temperature, "seed": number, "constraint": llama.schema(schema)}
                cases.append((schema, driver.submit([7 + number, 9, len(cases) % 90 + 10], NEW, **more)[1]))
            driver.submit([5, 6, 7], 30, temperature=temperature)
    driver.run()
    assert len(cases) == 500
    complete = 0
    for schema, outcome in cases:
        assert outcome.finish in ("stop", "length"), outcome.error
        if outcome.finish == "stop":
            answer = json.loads(llama.text(outcome.tokens))
            jsonschema.validate(answer, schema, format_checker=jsonschema.FormatChecker())
            complete += 1
    assert complete >= 490, complete


def test_the_end_comes_only_where_the_form_allows_it_and_by_itself_where_nothing_may_follow(llama):
    end = min(llama.ends)
    driver = llama.driver()
    # The bias makes the model want to end at once.
    outcomes = [
        driver.submit([5, 6], 40, constraint=llama.compiled(*form), logit_bias=((end, 100.0),))[1]
        for form in (("regex", "[ab]{3}"), ("regex", "[ab]{3,}"), ("choice", '["yes", "no"]'))
    ]
    driver.run()
    texts = [llama.text(outcome.tokens) for outcome in outcomes]
    assert re.fullmatch("[ab]{3}", texts[0])
    assert re.fullmatch("[ab]{3,}", texts[1])
    assert texts[2] in ("yes", "no")
    assert [outcome.finish for outcome in outcomes] == ["stop"] * 3
    assert outcomes[1].tokens[-1] == end
    assert end not in outcomes[0].tokens


@pytest.mark.parametrize(("kind", "value", "fits"), [
    ("regex", r"^\d{3}-[A-Z]{2}$", lambda text: re.fullmatch(r"\d{3}-[A-Z]{2}", text)),
    ("choice", json.dumps(CHOICES), lambda text: text in CHOICES),
    ("lark", 'start: "a" %json {"type": "boolean"} /[xy]+z/', lambda text: re.fullmatch("a(true|false)[xy]+z", text)),
    ("lark", 'root ::= "(" ("a" | root) ")"', lambda text: re.fullmatch(r"\(+a\)+", text)),
    ("json-object", "", lambda text: isinstance(json.loads(text), dict)),
])  # fmt: skip
def test_other_forms(llama, kind, value, fits):
    driver = llama.driver()
    compiled = llama.compiled(kind, value)
    outcomes = [
        driver.submit([8, 9, 10 + seed], 400, temperature=temperature, seed=seed, constraint=compiled)[1]
        for seed in range(4)
        for temperature in TEMPERATURES
    ]
    driver.run()
    complete = [llama.text(outcome.tokens) for outcome in outcomes if outcome.finish == "stop"]
    assert len(complete) >= 5
    assert all(fits(text) for text in complete)
    assert {outcome.finish for outcome in outcomes} <= {"stop", "length"}


def test_too_few_tokens_are_told_as_length(llama):
    driver = llama.driver()
    _, outcome = driver.submit([5, 6], 4, constraint=llama.compiled("regex", "[ab]{30}"))
    driver.run()
    assert (outcome.finish, len(outcome.tokens)) == ("length", 4)


def test_the_form_wins_over_least_lengths_and_ignored_ends(llama):
    driver = llama.driver()
    yes = llama.compiled("choice", '["yes"]')
    least = driver.submit([5, 6], 40, constraint=yes, min_new_tokens=30)[1]
    ignoring = driver.submit([5, 6], 40, constraint=llama.compiled("regex", "a|ab|abc"), ignore_eos=True)[1]
    driver.run()
    assert (llama.text(least.tokens), least.finish) == ("yes", "stop")
    assert (llama.text(ignoring.tokens) in ("a", "ab", "abc"), ignoring.finish) == (True, "stop")


def test_a_row_that_may_choose_nothing_ends_alone(llama):
    driver = llama.driver()
    compiled = llama.compiled("choice", '["yes"]')
    stuck = driver.submit([5, 6], 40, constraint=compiled, allowed_tokens=(5,))[1]
    banned = driver.submit([5, 6], 40, allowed_tokens=())[1]
    fine = driver.submit([5, 6], 40, constraint=compiled)[1]
    driver.run()
    assert (stuck.finish, stuck.tokens) == ("failed", [])
    assert isinstance(stuck.error, EngineRefusal)
    assert (banned.finish, banned.tokens) == ("stop", [])
    assert (llama.text(fine.tokens), fine.finish) == ("yes", "stop")


@pytest.mark.parametrize("opened", [True, False])
def test_reasoning_is_free_and_the_form_begins_behind_it(reasoner, opened):
    opening, closing = (reasoner.tokenizer.token_to_id(tag) for tag in ("<think>", "</think>"))
    schema = closed({"n": {"type": "integer", "minimum": 1, "maximum": 9}})
    compiled = reasoner.schema(schema)
    driver = reasoner.driver()
    outcomes = [
        driver.submit_prepared(
            Prepared([5, 6, 20 + seed], thinking=opened), NEW, temperature=temperature, seed=seed, constraint=compiled,
            logit_bias=((closing, 3.0), (opening, 6.0)),
        )[1]
        for seed in range(20)
        for temperature in TEMPERATURES
    ]  # fmt: skip
    driver.run()
    thoughts = 0
    for outcome in outcomes:
        if outcome.finish == "length":
            continue
        assert outcome.finish == "stop", outcome.error
        tokens = outcome.tokens
        if not opened and tokens[0] == opening:
            tokens = tokens[1:]
            thoughts += closing in tokens
        elif opened:
            thoughts += 1
        answer = tokens[tokens.index(closing) + 1 :] if closing in tokens else tokens
        jsonschema.validate(json.loads(reasoner.text(answer)), schema)
    assert thoughts >= 10


def test_a_raw_answer_has_no_reasoning_block(reasoner):
    opening = reasoner.tokenizer.token_to_id("<think>")
    driver = reasoner.driver()
    compiled = reasoner.compiled("regex", "[ab]{3}", reasoning=False)
    _, outcome = driver.submit([5, 6], 40, constraint=compiled, logit_bias=((opening, 100.0),))
    driver.run()
    assert re.fullmatch("[ab]{3}", reasoner.text(outcome.tokens))


def test_setbacks_leave_answers_as_they_are(llama, monkeypatch):
    """A row that is read again, with what it made, goes on in its form."""
    compiled = llama.schema(SCHEMAS["nested"])
    asked = {"temperature": 1.0, "seed": 3, "constraint": compiled}
    undisturbed = llama.driver()
    expected = undisturbed.submit([5, 6, 7], 200, **asked)[1]
    undisturbed.run()
    driver = llama.driver()
    outcome = driver.submit([5, 6, 7], 200, **asked)[1]
    for _ in range(8):
        driver.engine.step()
    [row] = driver.engine._slots.rows()
    driver.engine._slots.vacate(row)
    row.set_aside()
    driver.engine._waiting.appendleft(row)
    driver.run()
    assert (outcome.tokens, outcome.finish) == (expected.tokens, expected.finish)


def test_a_failed_step_takes_no_matcher_along(llama):
    driver = llama.driver()
    compiled = llama.schema(SCHEMAS["person"])
    outcomes = [driver.submit([5, 6, 7 + n], 300, temperature=1.0, seed=n, constraint=compiled)[1] for n in range(3)]
    for _ in range(3):
        driver.engine.step()
    forward, broken = driver.engine._forward, []

    def step(batch, own=forward.step):
        if not broken:
            broken.append(True)
            raise torch.OutOfMemoryError("out of memory")
        return own(batch)

    forward.step = step
    driver.run()
    assert broken
    for outcome in outcomes:
        assert outcome.finish == "stop", outcome.error
        jsonschema.validate(json.loads(llama.text(outcome.tokens)), SCHEMAS["person"])


def test_cancelled_answers_leave_others_alone(llama):
    driver = llama.driver()
    compiled = llama.schema(SCHEMAS["person"])
    ticket, gone = driver.submit([5, 6], 300, temperature=1.0, constraint=compiled)
    _, stays = driver.submit([5, 6], 300, temperature=1.0, seed=1, constraint=compiled)
    driver.engine.step()
    driver.engine.cancel(ticket)
    driver.run()
    assert gone.finish == "cancelled"
    jsonschema.validate(json.loads(llama.text(stays.tokens)), SCHEMAS["person"])


def nested(depth, make):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = make(schema)
    return schema


HOSTILE = {
    "deep": ("json-schema", nested(65, lambda inner: closed({"a": inner}))),
    "very deep": ("json-schema", "[" * 100_000),
    "large": ("json-schema", {"enum": ["x" * 200_000]}),
    "many properties": ("json-schema", closed({f"p{n}": {"type": "string"} for n in range(501)})),
    "many values": ("json-schema", {"enum": list(range(20_000))}),
    "large values": ("json-schema", {"enum": [{"a": n, "b": [n] * 5} for n in range(2_500)]}),
    "many patterns": ("json-schema", {"patternProperties": {f"^a{n}.*b$": {"type": "integer"} for n in range(300)}}),
    "a huge multiple": ("json-schema", {"type": "integer", "multipleOf": 1_000_003}),
    "many multiples": ("json-schema", {"allOf": [{"type": "integer", "multipleOf": n} for n in (1009, 1013, 1019)]}),
    "a product of unions": ("json-schema", {"allOf": [{"anyOf": [
        {"type": "object", "properties": {f"a{n}": {"const": m}}, "required": [f"a{n}"]} for m in range(4)
    ]} for n in range(12)]}),
    "itself": ("json-schema", {"$ref": "#"}),
    "each other": ("json-schema", {"$ref": "#/$defs/a", "$defs": {
        "a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"},
    }}),
    "elsewhere": ("json-schema", {"$ref": "https://example.com/schema.json"}),
    "nothing": ("json-schema", False),
    "no schema": ("json-schema", "7"),
    "a deep regex": ("regex", "(" * 4_000 + "a" + ")" * 4_000),
    "a long regex": ("regex", "a" * 20_000),
    "many choices": ("choice", json.dumps([f"c{n}" for n in range(5_000)])),
    "half a pair": ("choice", '["\\ud800"]'),
    "a deep grammar": ("lark", "start: " + "(" * 5_000 + '"a"' + ")" * 5_000),
    "a schema in a grammar": ("lark", 'start: %json {"type": "integer", "multipleOf": 1000003}'),
    "no grammar": ("lark", "start: foo"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_cost_too_much_is_refused_within_a_second(llama, name):
    llama.compiled("json-object")  # the vocabulary is read once
    kind, value = HOSTILE[name]
    started = time.monotonic()
    with pytest.raises(EngineRefusal) as refused:
        llama.compiled(kind, value if isinstance(value, str) else json.dumps(value))
    assert time.monotonic() - started < 1.0
    assert refused.value.kind == "invalid-constraint"
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("value", [
    {"type": "string", "pattern": "((((a{1,50}){1,50}){1,50}){1,50})"},
    {"type": "string", "pattern": "^(a|b)*a(a|b){18}$"},
    {"type": "string", "minLength": 10**6},
    {"type": "array", "items": {"type": "integer"}, "minItems": 10**6},
    {"type": "array", "items": {"$ref": "#"}},
    {"enum": [{"a": n, "b": [n] * 5} for n in range(400)]},
    closed({f"p{n}": {"type": "string"} for n in range(500)}, []),
])  # fmt: skip
def test_what_is_large_and_can_be_followed_stalls_nobody(llama, value):
    """Compiled within a second; no step of others takes long, and the answer ends, complete or as too costly."""
    started = time.monotonic()
    compiled = llama.schema(value)
    assert time.monotonic() - started < 1.0
    driver = llama.driver()
    held = [driver.submit([5, 6], 300, temperature=2.0, seed=n, constraint=compiled)[1] for n in range(4)]
    longest = 0.0
    while True:
        started = time.monotonic()
        if not driver.engine.step():
            break
        longest = max(longest, time.monotonic() - started)
    assert longest < 1.0
    assert {outcome.finish for outcome in held} <= {"stop", "length", "failed"}


@pytest.mark.parametrize("keyword", [
    {"not": {}}, {"if": {}, "then": {}}, {"contains": {}}, {"uniqueItems": True}, {"dependentRequired": {"a": ["b"]}},
    {"unevaluatedProperties": False}, {"propertyNames": {"minLength": 3}},
])  # fmt: skip
def test_what_cannot_be_enforced_is_named(llama, keyword):
    schema = closed({"deep": {"type": "array", "items": {**keyword}}})
    with pytest.raises(EngineRefusal, match=re.escape(next(iter(keyword)) + " at $.properties.deep.items")):
        llama.schema(schema)


def test_compiled_forms_are_kept_and_bounded(llama):
    compiler = Compiler(lambda: llama.compiled("json-object").vocabulary)
    first = compiler.prepare(Constraint("regex", "a"))
    assert compiler.prepare(Constraint("regex", "a")) is first
    for number in range(100):
        compiler.prepare(Constraint("regex", f"b{number}"))
    assert len(compiler._kept) == 64
    assert compiler.prepare(Constraint("regex", "a")) is not first
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: compiler.prepare(Constraint("regex", f"c{n % 3}")), range(40)))
    assert len(made) == 40


def test_white_space_is_bounded_or_as_asked(llama):
    driver = llama.driver()
    schema = json.dumps(SCHEMAS["person"])
    bias = tuple((token, 50.0) for token in range(600) if not llama.tokenizer.decode([token]).strip())
    free = driver.submit([5, 6], NEW, constraint=llama.compiled("json-schema", schema), logit_bias=bias)[1]
    none = driver.submit(
        [5, 6], NEW, constraint=llama.compiled("json-schema", schema, white_space="[ ]?"), logit_bias=bias
    )[1]
    driver.run()
    for outcome in (free, none):
        assert outcome.finish == "stop"
        jsonschema.validate(json.loads(llama.text(outcome.tokens)), SCHEMAS["person"])
    assert not re.search(r"[\n\t]|  ", re.sub(r'"[^"]*"', '""', llama.text(none.tokens)))


class Panic(BaseException):
    """As one of a library in Rust looks like."""


class Panicking:
    def __init__(self, where):
        self._where = where

    def unsafe_compute_mask_ptr(self, pointer, size):
        if self._where == "mask":
            raise Panic("at the disco")
        ctypes.memset(pointer, 255, size)

    def consume_token(self, token):
        raise Panic("at the disco")

    def is_error(self):
        return False

    def is_accepting(self):
        return False


@pytest.mark.parametrize("where", ["mask", "token"])
def test_a_panic_ends_one_answer(llama, where):
    vocabulary = llama.compiled("json-object").vocabulary

    class Broken:
        def guide(self, *, thinking):
            return Guide(Panicking(where), vocabulary, thinking=thinking, reasoning=True)

    driver = llama.driver()
    broken = driver.submit([5, 6], 20, constraint=Broken())[1]
    fine = driver.submit([5, 6], 20, constraint=llama.compiled("choice", '["yes"]'))[1]
    driver.run()
    assert (broken.finish, llama.text(fine.tokens), fine.finish) == ("failed", "yes", "stop")
    assert isinstance(broken.error, EngineRefusal)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_forms_whatever_computes(reasoner, kind):
    driver = reasoner.driver(kind)
    compiled = reasoner.compiled("regex", "[0-9]{4}", reasoning=False)
    outcomes = [driver.submit([5, 6, 7 + n], 30, temperature=2.0, seed=n, constraint=compiled)[1] for n in range(20)]
    driver.run()
    assert all(re.fullmatch("[0-9]{4}", reasoner.text(outcome.tokens)) for outcome in outcomes)
