"""Grammars for llama.cpp say what the Lark and the schemas said that they were made of."""

import functools
import json
import re

import jsonschema
import pytest
from ams_pod.engines.openai import gbnf
from ams_pod.tool_calls import dialect_of
from ams_pod.tool_calls.grammar import calls_or_json, required_calls, strict_calls

WEATHER = {
    "name": "weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "where"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
SPECIAL = {"<tool_call>": 5, "</tool_call>": 6}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "unit": "C"}}\n</tool_call>'
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_PART = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<of>\[(?:[^\]\\]|\\.)*\])|(?P<name>\w+)|(?P<times>\{\d+,\d*\}|[*?+])'
    r"|(?P<mark>[()|]))"
)


def matches(grammar: str, text: str) -> bool:
    """Whether a grammar takes a text: a recognizer of the part of GBNF that is written here."""
    rules = {}
    for line in grammar.strip().splitlines():
        name, _, body = line.partition(" ::= ")
        rules[name], rest = _options([found for found in _PART.finditer(body) if found[0].strip()])
        assert not rest, rest

    @functools.cache
    def ends(node, at: int) -> frozenset[int]:
        kind, *parts = node
        if kind == "text":
            return frozenset({at + len(parts[0])} if text.startswith(parts[0], at) else ())
        if kind == "of":
            return frozenset({at + 1} if at < len(text) and re.fullmatch(parts[0], text[at], re.S) else ())
        if kind == "rule":
            return ends(rules[parts[0]], at)
        if kind == "any":
            return frozenset().union(*(ends(each, at) for each in parts[0]))
        if kind == "all":
            found = frozenset({at})
            for each in parts[0]:
                found = frozenset().union(*(ends(each, start) for start in found))
            return found
        inner, least, most = parts
        found, reached = frozenset({at}), frozenset({at} if least == 0 else ())
        for count in range(1, most + 1):
            found = frozenset().union(*(ends(inner, start) for start in found))
            if not found or (found <= reached and count > least):
                break
            reached |= found if count >= least else frozenset()
        return reached

    return len(text) in ends(("rule", "root"), 0)


def _options(parts):
    options, sequence = [], []
    while parts and parts[0]["mark"] != ")":
        part = parts.pop(0)
        if part["mark"] == "|":
            options.append(("all", tuple(sequence)))
            sequence = []
        elif part["mark"] == "(":
            inner, parts = _options(parts)
            assert parts.pop(0)["mark"] == ")"
            sequence.append(inner)
        elif part["text"]:
            unescaped = re.sub(
                r"\\(.)", lambda e: {"n": "\n", "t": "\t", "r": "\r"}.get(e[1], e[1]), part["text"][1:-1]
            )
            sequence.append(("text", unescaped))
        elif part["of"]:
            sequence.append(("of", part["of"]))
        elif part["name"]:
            sequence.append(("rule", part["name"]))
        else:
            times = part["times"]
            least, most = {"*": (0, 99), "?": (0, 1), "+": (1, 99)}.get(times) or (
                int(times[1:-1].split(",")[0]), int(times[1:-1].split(",")[1] or 99),
            )  # fmt: skip
            sequence[-1] = ("times", sequence[-1], least, most)
    return ("any", (*options, ("all", tuple(sequence)))), parts


def of_calls(make, special=SPECIAL, **more) -> str:
    dialect = dialect_of("", "hermes", knows_tools=True)
    lark = make(dialect, [WEATHER], special, **more, several=True).value
    return gbnf.from_lark(lark, {number: name for name, number in special.items()}.__getitem__)


@pytest.mark.parametrize("special", [SPECIAL, {}])
def test_required_calls_are_calls_and_nothing_else(special):
    grammar = of_calls(required_calls, special)
    assert matches(grammar, CALL)
    assert matches(grammar, f"{CALL}\n{CALL}")
    for wrong in ("", "hello", CALL.replace("Rome", 'R"ome'), CALL.replace('"C"', '"K"'), CALL + "x", "x" + CALL):
        assert not matches(grammar, wrong), wrong


@pytest.mark.parametrize("special", [SPECIAL, {}])
def test_strict_calls_stand_in_any_text_and_hold_to_their_schema(special):
    grammar = of_calls(strict_calls, special)
    for text in ("", "It rains.\n<tool", "<<tool_cal<tool_", CALL, f"So: {CALL} and <tool_ca {CALL}\nmore"):
        assert matches(grammar, text), text
    wrong = CALL.replace('"C"', '"K"')
    for text in ("<tool_call>", f"{wrong}", f"a {CALL} b {wrong}", "<<tool_call>x", CALL.replace("weather", "other")):
        assert not matches(grammar, text), text


def test_no_code_of_a_character_goes_on_as_more_digits():
    """llama.cpp reads two digits, xgrammar all that there are: it would read `\\x5Fac` as one character."""
    for grammar in (of_calls(strict_calls, SPECIAL), of_calls(strict_calls, {}), of_calls(required_calls, SPECIAL)):
        assert not re.search(r"\\x[0-9A-F]{2}[0-9A-Fa-f]", grammar)


def test_calls_or_an_answer_in_json():
    grammar = of_calls(calls_or_json, schema={"type": "object", "properties": {"a": {"type": "null"}}})
    assert matches(grammar, CALL)
    assert matches(grammar, '{"a": null}')
    assert not matches(grammar, '{"a": 1}')


SCHEMAS = [
    ({"type": "integer"}, ["0", "-12"], ["01", "1.5", '"1"', ""]),
    ({"type": ["number", "null"]}, ["1.5e3", "null"], ["true"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"a\\nb"'], ['"a"', '"abcd"']),
    ({"const": "a\"b"}, ['"a\\"b"'], ['"a"']),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, ["[true]", "[true, false]"],
     ["[]", "[true,true,true]", "[1]"]),
    ({"type": "array", "items": {"type": "boolean"}}, ["[]", "[true , false,true]"], ["[true,]"]),
    ({"type": "object"}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", '{"a"}']),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"a": 1}'], ['{"a": "x"}']),
    ({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}, "required": ["b"]},
     ['{"b":1}', '{"a":1,"b":2}', '{"b":2, "c":3}', '{"a":1,"b":2,"c":3}'], ['{"a":1}', "{}", '{,"b":1}', '{"b":1,}']),
    ({"anyOf": [{"type": "null"}, {"enum": [1, "x"]}]}, ["null", "1", '"x"'], ["2"]),
    ({"$defs": {"n": {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                      "required": ["next"]}}, "$ref": "#/$defs/n"},
     ['{"next": null}', '{"next": {"next": null}}'], ['{"next": 1}', "{}"]),
    (True, ["1", '{"a": []}'], ["x"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "right", "wrong"), SCHEMAS)
def test_values_of_a_schema(schema, right, wrong):
    grammar = gbnf.from_schema(schema)
    for text in right:
        jsonschema.validate(json.loads(text), schema)
        assert matches(grammar, text), text
    for text in wrong:
        assert not matches(grammar, text), text


@pytest.mark.parametrize(
    "schema",
    [False, {"type": "integer", "minimum": 3}, {"type": "string", "pattern": "a+"}, {"not": {}}, {"$ref": "http://x/y"},
     {"$ref": "#/nowhere"}, {"type": "object", "required": ["a"]}, {"allOf": [{"type": "null"}, {"type": "string"}]},
     {"type": "thing"}, {"enum": []}, {"type": "array", "minItems": 3, "maxItems": 2},
     {"type": "string", "maxLength": 1e9},
     functools.reduce(lambda inner, _: {"type": "array", "items": inner}, range(100), True),
     {"anyOf": [{"type": "array", "items": {"const": number}} for number in range(3000)]}],
)  # fmt: skip
def test_what_cant_be_held_to_is_refused_and_never_dropped(schema):
    with pytest.raises(gbnf.Unwritable):
        gbnf.from_schema(schema)


@pytest.mark.parametrize(
    "lark", ["", "start: /a+/", "start: other", "rule: start", 'start[x]: "a"', "start: %json {", "x"]
)
def test_lark_of_another_kind_is_refused(lark):
    with pytest.raises(gbnf.Unwritable):
        gbnf.from_lark(lark, str)
