"""Calls of tools as models of each family write them, however the text is cut into pieces."""

import itertools
import json

import pytest
from ams_pod.tool_calls import BY_NAME, DIALECTS, HERMES, Call, CallParser, dialect_of
from ams_pod.tool_calls.described import describe
from ams_pod.tool_calls.grammar import calls_or_json, required_calls, strict_calls
from hypothesis import example, given, settings
from hypothesis import strategies as st

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}
FUNCTIONS = {"weather": {"name": "weather", "parameters": CITY}, "now": {"name": "now"}}
PARIS, NOW = ("weather", {"city": "Paris"}), ("now", {})


def new_id():
    return "id"


def read(dialect, pieces, *, eager=False, most=None):
    """(text, calls as (name, arguments), ids) of an answer that comes in these pieces."""
    parser = CallParser(BY_NAME[dialect], FUNCTIONS, new_id, eager=eager, most_calls=most)
    told = [parser.push(piece) for piece in pieces]
    told.append(parser.finish())
    calls = {}
    for delta in (delta for each in told for delta in each.calls):
        if delta.name:
            assert delta.index == len(calls)
            assert delta.id
            calls[delta.index] = [delta.id, delta.name, ""]
        calls[delta.index][2] += delta.arguments
    assert parser.called is bool(calls)
    return "".join(each.text for each in told), [(name, text) for _, name, text in calls.values()]


def values(calls):
    return [(name, json.loads(text)) for name, text in calls]


HERMES_CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
V3 = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>'
V3_NOW = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
V31 = '<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
XML = "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>"

READ = [
    # dialect, text, what is left of it, calls
    ("hermes", "Paris.", "Paris.", []),
    ("hermes", " \n ", " \n ", []),
    ("hermes", HERMES_CALL, "", [PARIS]),
    ("hermes", f"I look.\n\n{HERMES_CALL}", "I look.", [PARIS]),
    ("hermes", f"{HERMES_CALL}\n<tool_call>\n{{\"name\": \"now\"}}\n</tool_call>\n", "", [PARIS, NOW]),
    ("hermes", f"{HERMES_CALL}\nDone.", "Done.", [PARIS]),
    ("hermes", '<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}</tool_call>', "", [PARIS]),
    ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [NOW]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', "", [PARIS]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}', "", [PARIS]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}</tool_call>!', "!", [PARIS]),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call> }"}}</tool_call>', "",
     [("weather", {"city": "</tool_call> }"})]),
    ("hermes", "a < b and <tool", "a < b and <tool", []),
    ("hermes", "say <tool_call> now", "say <tool_call> now", []),
    ("qwen3-coder", f"Look:\n<tool_call>\n{XML}\n</tool_call>", "Look:", [PARIS]),
    ("qwen3-coder", XML, "", [PARIS]),
    ("qwen3-coder", "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [NOW]),
    ("qwen3-coder", "<tool_call><function=weather><parameter=city>\na\n\"b\"\n\n</parameter>"
     "<parameter=days>3</parameter></function></tool_call>", "", [("weather", {"city": 'a\n"b"\n', "days": 3})]),
    ("qwen3-coder", "<function=weather><parameter=days>three</parameter></function>", "",
     [("weather", {"days": "three"})]),
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3", '{"name": "weather", "parameters": {"city": "Paris"}}; {"name": "now", "parameters": {}}', "",
     [PARIS, NOW]),
    ("llama3", '{"name": "Paris", "parameters": {}}', '{"name": "Paris", "parameters": {}}', []),
    ("llama3", '{"capital": "Paris"}', '{"capital": "Paris"}', []),
    ("llama3", 'So: {"name": "now", "parameters": {}}', 'So: {"name": "now", "parameters": {}}', []),
    ("deepseek", f"I look.<｜tool▁calls▁begin｜>{V3}\n{V3_NOW}<｜tool▁calls▁end｜>", "I look.", [PARIS, NOW]),
    ("deepseek-v3.1", f"<｜tool▁calls▁begin｜>{V31}{V31}<｜tool▁calls▁end｜>", "", [PARIS, PARIS]),
    ("deepseek", f"{V31}.", ".", [PARIS]),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
     "", [PARIS, NOW]),
    ("mistral-v11", 'Well.[TOOL_CALLS]weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}',
     "Well.", [PARIS, NOW]),
    ("mistral", "[TOOL_CALLS] none", "[TOOL_CALLS] none", []),
    ("pythonic", '[weather(city="Paris"), now()]', "", [PARIS, NOW]),
    ("pythonic", "<|python_start|>[weather(city='Paris', days=3)]<|python_end|>", "",
     [("weather", {"city": "Paris", "days": 3})]),
    ("pythonic", "[weather(city='Par[i,s', days=None)]", "", [("weather", {"city": "Par[i,s", "days": None})]),
    ("pythonic", "[1, 2] is a list", "[1, 2] is a list", []),
    ("pythonic", "[tomorrow()] I go", "[tomorrow()] I go", []),
]  # fmt: skip
BROKEN = [
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": Paris}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Par'),
    ("hermes", '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"city": "Paris"}}</tool_call>'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("qwen3-coder", "<tool_call><function=weather><parameter=city>Paris"),
    ("llama3", '{"name": "weather", "parameters": {"city": "Par'),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\nParis"),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": Paris}}]'),
    ("pythonic", "[weather(city=Paris)]"),
]


@pytest.mark.parametrize(("dialect", "text", "rest", "calls"), READ)
@pytest.mark.parametrize("eager", [False, True])
def test_calls_are_told_from_text(dialect, text, rest, calls, eager) -> None:
    left, found = read(dialect, [text], eager=eager)
    assert (left, values(found)) == (rest, calls)
    assert read(dialect, list(text), eager=eager) == (left, found)


@pytest.mark.parametrize(("dialect", "text"), BROKEN)
def test_what_is_no_call_is_text(dialect, text) -> None:
    assert read(dialect, [text]) == (text, [])


def test_a_call_is_given_out_while_it_arrives() -> None:
    parser = CallParser(HERMES, FUNCTIONS, new_id, eager=True)
    assert parser.push("I look.").text == "I look."
    assert not parser.push("\n<tool_call>\n").text
    assert not parser.push('{"name": "weather", "arguments": ').calls
    begun, *first = parser.push('{"ci').calls
    assert (begun.index, begun.name, begun.arguments) == (0, "weather", "")
    assert "".join(each.arguments for each in first) == '{"ci'
    assert begun.id == "id"
    told = [parser.push(piece).calls for piece in ('ty": "Pa', 'ris"', "}", "}", "\n</tool_", "call>")]
    assert ["".join(each.arguments for each in calls) for calls in told] == ['ty": "Pa', 'ris"', "}", "", "", ""]
    assert not any(parser.finish().calls)


def test_of_a_call_that_breaks_while_it_is_streamed_the_client_gets_all_that_was_written() -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": ["Paris"}}</tool_call> and so on'
    assert read("hermes", list(text), eager=True) == (" and so on".lstrip(), [("weather", '{"city": ["Paris"}}')])
    text = '<tool_call>{"name": "weather", "arguments": {"city": "Par'
    assert read("hermes", list(text), eager=True) == ("", [("weather", '{"city": "Par')])


def test_there_are_no_more_calls_than_may_be() -> None:
    parser = CallParser(HERMES, FUNCTIONS, new_id, eager=True, most_calls=1)
    told = parser.push(f"{HERMES_CALL}\n{HERMES_CALL}")
    assert parser.full
    assert [each.name for each in told.calls if each.name] == ["weather"]
    assert not parser.push(HERMES_CALL).calls
    assert not parser.finish().text


def test_an_id_that_the_model_gives_is_kept_where_its_template_takes_it() -> None:
    parser = CallParser(BY_NAME["mistral-v11"], FUNCTIONS, new_id, eager=False)
    told = parser.push("[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}[TOOL_CALLS]now[ARGS]{}").calls + parser.finish().calls
    assert [each.id for each in told if each.id] == ["abcdefghi", "id"]


# ---- whatever is written

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.sampled_from(["city", "days", "other"]), JSON, max_size=3)
ODD = st.sampled_from(
    ["<tool_call>", "</tool_call>", '{"name": "weather", "arguments": ', '{"city": "Paris"}', "}", "{", "[", "]", '"',
     "\\", "<function=weather>", "<parameter=city>", "</parameter>", "</function>", "[TOOL_CALLS]", "[ARGS]", "now(",
     "city=", ")", ",", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "function<｜tool▁sep｜>weather\n```json\n",
     "<｜tool▁call▁end｜>", "<|python_tag|>", ";", " ", "\n", "x", "é", '"name"', ":", "null", "'"]
)  # fmt: skip


def pieces_of(text, cuts):
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(BY_NAME)),
    st.lists(ODD, max_size=14).map("".join),
    st.lists(st.integers(0, 400)),
    st.booleans(),
)
@example("hermes", "<tool_call>", [], True)
def test_what_is_read_never_depends_on_the_pieces(dialect, text, cuts, eager) -> None:
    assert read(dialect, pieces_of(text, cuts), eager=eager) == read(dialect, [text], eager=eager)


@settings(max_examples=200)
@given(st.sampled_from(sorted(BY_NAME)), st.lists(ODD, max_size=14).map("".join))
def test_nothing_of_an_answer_without_calls_is_lost(dialect, text) -> None:
    left, calls = read(dialect, [text])
    if not calls:
        assert left == text


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(BY_NAME)),
    st.lists(st.tuples(st.sampled_from(["weather", "now"]), ARGUMENTS), min_size=1, max_size=3),
    st.lists(st.integers(0, 400)),
    st.booleans(),
)  # fmt: skip
def test_what_a_dialect_writes_it_reads(dialect, calls, cuts, eager) -> None:
    if dialect == "qwen3-coder":  # whose values are texts, which may not hold its own tags
        calls = [(name, {key: str(value) for key, value in each.items() if key != "days"}) for name, each in calls]
        calls = [
            (name, {k: v for k, v in each.items() if "<" not in v and not v.endswith("\n")}) for name, each in calls
        ]
    text = BY_NAME[dialect].write([Call(name, each) for name, each in calls])
    left, found = read(dialect, pieces_of(text, cuts), eager=eager)
    assert (left, values(found)) == ("", calls)


# ---- which dialect


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ('{{ \'<tool_call>\\n{"name": "\' }}', "hermes"),
        ("<tool_call>\\n<function=example_function_name>\\n<parameter=example", "qwen3-coder"),
        ("<|start_header_id|>ipython ... '{\"name\": ' ... '\"parameters\": '", "llama3"),
        (
            "'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + '\\n' + '```json'",
            "deepseek",
        ),
        ("'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>'", "deepseek-v3.1"),
        ('{{- "[TOOL_CALLS] [" }}', "mistral"),
        ('{{- "[TOOL_CALLS]" + name + "[ARGS]" }}', "mistral-v11"),
        ("[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]", "pythonic"),
        ("{{ messages }}", "hermes"),
    ],
)
def test_the_template_tells_the_dialect(template, name) -> None:
    assert dialect_of(template).name == name
    assert dialect_of(template, "pythonic").name == "pythonic"
    assert dialect_of(template, knows_tools=False) is HERMES


# ---- grammars


def accepted(constraint, text):
    """How much of the text the grammar takes, and whether it may end there."""
    llguidance = pytest.importorskip("llguidance")
    matcher = llguidance.LLMatcher(
        llguidance.LLTokenizer("byte"), llguidance.LLMatcher.grammar_from_lark(constraint.value)
    )
    assert not matcher.get_error()
    count = matcher.try_consume_tokens(list(text.encode()))
    return len(text.encode()[:count].decode(errors="ignore")), matcher.is_accepting()


STRICT = [
    {"name": "weather", "strict": True, "parameters": {**CITY, "additionalProperties": False}},
    {"name": "now", "strict": True},
]


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_required_calls_are_what_the_dialect_reads(dialect) -> None:
    one, two = dialect.write([Call(*PARIS)]), dialect.write([Call(*PARIS), Call(*NOW)])
    single = required_calls(dialect, STRICT, {}, several=False)
    several = required_calls(dialect, STRICT, {}, several=True)
    assert accepted(single, one) == (len(one), True)
    assert accepted(several, two) == (len(two), True)
    assert accepted(several, one) == (len(one), True)
    assert accepted(single, two)[0] < len(two)
    assert accepted(several, "Paris.")[0] == 0
    assert accepted(several, "")[1] is False
    wrong = dialect.write([Call("weather", {"town": "Paris"})])
    assert accepted(several, wrong)[0] < len(wrong)
    missing = dialect.write([Call("weather", {})])
    assert accepted(several, missing)[0] < len(missing)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_strict_tools_hold_calls_to_their_schemas_and_leave_text_free(dialect) -> None:
    constraint = strict_calls(dialect, STRICT, {}, several=True)
    if not dialect.opening():
        assert constraint is None
        return
    call = "I look. " + dialect.write([Call(*PARIS), Call(*NOW)])
    for text in ("", "Paris, <b> [1] {2}.", call):
        assert accepted(constraint, text) == (len(text), True)
    wrong = dialect.write([Call("weather", {"town": "Paris"})])
    for text in ("I look. " + wrong, f"{call} and {wrong}"):
        assert accepted(constraint, text)[0] < len(text)
    assert accepted(constraint, f"{call} and {call}") == (2 * len(call) + 5, True)


@pytest.mark.parametrize("dialect", [each for each in DIALECTS if each.opening()], ids=lambda dialect: dialect.name)
def test_an_answer_may_be_calls_or_json(dialect) -> None:
    constraint = calls_or_json(dialect, STRICT, {}, CITY, several=True)
    for text in (dialect.write([Call(*PARIS), Call(*NOW)]), '{"city": "Paris"}'):
        assert accepted(constraint, text) == (len(text), True)
    assert accepted(constraint, "Paris")[0] == 0
    assert accepted(constraint, '{"city": 1}')[0] < 11


def test_special_tokens_of_a_grammar_are_themselves() -> None:
    constraint = required_calls(BY_NAME["mistral"], STRICT, {"[TOOL_CALLS]": 5}, several=False)
    assert constraint.value.startswith('start: <[5]> "["')


# ---- tools in words


def test_tools_are_described_where_the_template_knows_none() -> None:
    tool = {"type": "function", "function": FUNCTIONS["now"]}
    call = {"id": "1", "type": "function", "function": {"name": "now", "arguments": {}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "10:00", "tool_call_id": "1"},
        {"role": "tool", "content": "11:00", "tool_call_id": "2"},
    ]
    told = describe(messages, [tool], HERMES)
    assert [each["role"] for each in told] == ["system", "user", "assistant", "user"]
    assert told[0]["content"].startswith("Be brief.\n\nYou may call functions")
    assert '<tools>\n{"type": "function", "function": {"name": "now"}}\n</tools>' in told[0]["content"]
    assert read("hermes", [told[2]["content"]])[1] == [("now", "{}"), ("now", "{}")]
    assert told[3]["content"].count("<tool_response>") == 2
    assert describe(messages[1:], [tool], HERMES)[0]["role"] == "system"
    assert describe(messages[:2], [], HERMES) == messages[:2]
