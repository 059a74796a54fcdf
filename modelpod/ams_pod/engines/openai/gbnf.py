"""Grammars for llama.cpp: GBNF of the Lark that calls of tools are written in here, and of the schemas in it. Pure.

A text is never held to less than what was asked for: what can't be written in GBNF is `Unwritable`. Sources:
llama.cpp's grammars/README.md, and llguidance's docs/syntax.md for Lark.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_MOST_RULES = 2000
_DEEPEST = 40
_TOKEN = re.compile(
    r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<token><\[(?P<id>\d+)\]>)|(?P<json>%json\s*)|(?P<regex>/(?:[^/\\]|\\.)+/)'
    r"|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()|*?+&~]))"
)
_RULE = re.compile(r"^(?P<name>[A-Za-z_]\w*)(?:\[(?P<attributes>[^\]]*)\])?\s*:\s?", re.M)
_ANYTHING = r"/(.|\n)*/"
_WITHOUT = re.compile(r"/\(\.\|\\n\)\*(?P<literal>(?:[^\W_]|\\x\{[0-9a-f]+\})+)\(\.\|\\n\)\*/")
# Any text, and calls wherever their mark comes up in it; `up_to` is a rule for text up to the mark.
_CALLS_IN_TEXT = re.compile(
    r'\((?:\(\w+ (?:\([^()]*\)|"[^"]*") \| (?P<up_to>up_to_\w+)\)|(?P<only>up_to_\w+)) (?P<calls>.*)\)\* TEXT_\w+', re.S
)
_CODE = re.compile(r"\\x\{([0-9a-f]+)\}")
# Of a schema, that say nothing of the value's text, or nothing that has to hold.
_WORDS = {
    "title", "description", "default", "examples", "format", "deprecated", "readOnly", "writeOnly", "$comment",
    "$schema", "$id", "$defs", "definitions", "strict",
}  # fmt: skip
_BASE = {
    "ws": r"[ \t\n]{0,20}",
    "string": r'"\"" char* "\""',
    "char": r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})',
    "integer": r'"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": r'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": r'"true" | "false"',
    "null": r'"null"',
    "value": "object | array | string | number | boolean | null",
    "object": r'"{" ws (string ws ":" ws value ws ("," ws string ws ":" ws value ws)*)? "}"',
    "array": r'"[" ws (value ws ("," ws value ws)*)? "]"',
}


class Unwritable(ValueError):
    """What was asked for can't be written in GBNF; the message says what, for the end of a sentence."""


def is_gbnf(text: str) -> bool:
    """Whether a grammar that a client sent is in GBNF already."""
    return re.search(r"^\s*root\s*::=", text, re.M) is not None


def from_lark(text: str, token_text: Callable[[int], str]) -> str:
    """A grammar in GBNF; `token_text` gives what a special token is spelled. Unwritable for Lark that isn't ours."""
    found = list(_RULE.finditer(text))
    if not found or text[: found[0].start()].strip():
        raise Unwritable("it begins with no rule")
    grammar = _Grammar()
    names = {each["name"]: f"r{number}" for number, each in enumerate(found)}
    if "start" not in names:
        raise Unwritable("it has no rule `start`")
    bodies = [
        text[each.end() : after] for each, after in zip(found, [*(e.start() for e in found[1:]), None], strict=True)
    ]
    for each, body in zip(found, bodies, strict=True):
        lazy = (each["attributes"] or "") == "lazy"
        if each["attributes"] and not lazy:
            raise Unwritable(f"the attribute {each['attributes']}")
        if in_text := _CALLS_IN_TEXT.fullmatch(body.strip()):
            # One way through the text instead of several that only part at its end, which llama.cpp follows all.
            up_to = in_text["up_to"] or in_text["only"]
            mark = next(text for other, text in zip(found, bodies, strict=True) if other["name"] == up_to)
            mark = json.loads(mark.strip().removeprefix(_ANYTHING))
            calls = _body(in_text["calls"], names, token_text, grammar, lazy=False)
            written = _states(mark, grammar, ends=True, calls=calls)
        else:
            written = _body(body.strip(), names, token_text, grammar, lazy=lazy)
        grammar.put(names[each["name"]], written)
    return grammar.text(f"root ::= {names['start']}")


def from_schema(schema: Any) -> str:
    """A grammar of the JSON values of a schema. Unwritable where a keyword can't be held to."""
    grammar = _Grammar()
    return grammar.text(f"root ::= {_Schemas(grammar, schema).rule(schema)}")


class _Grammar:
    """Rules by name."""

    def __init__(self) -> None:
        self._rules = dict(_BASE)
        self._numbers = 0

    def put(self, name: str, body: str) -> str:
        if len(self._rules) >= _MOST_RULES:
            raise Unwritable(f"more than {_MOST_RULES} rules")
        self._rules[name] = body
        return name

    def new(self, body: str) -> str:
        """The name of a rule of its own."""
        return self.put(self.reserved(), body)

    def reserved(self) -> str:
        self._numbers += 1
        return f"x{self._numbers}"

    def text(self, root: str) -> str:
        return "\n".join([root, *(f"{name} ::= {body}" for name, body in self._rules.items())]) + "\n"


def _body(
    body: str, names: Mapping[str, str], token_text: Callable[[int], str], grammar: _Grammar, *, lazy: bool
) -> str:
    parts: list[str] = []
    at = 0
    if body.startswith(_ANYTHING):
        return _any_text(body.removeprefix(_ANYTHING).strip(), grammar, lazy=lazy)
    if lazy:
        raise Unwritable("a lazy rule of another form")
    while at < len(body):
        found = _TOKEN.match(body, at)
        if found is None:
            if not body[at:].strip():
                break
            raise Unwritable(f"{body[at : at + 40].strip()!r}")
        at = found.end()
        if found["text"]:
            parts.append(quoted(json.loads(found["text"])))
        elif found["token"]:
            parts.append(quoted(token_text(int(found["id"]))))
        elif found["json"]:
            schema, at = _schema_at(body, at)
            parts.append(_Schemas(grammar, schema).rule(schema))
        elif found["name"]:
            if found["name"] not in names:
                raise Unwritable(f"the unknown rule {found['name']}")
            parts.append(names[found["name"]])
        elif found["mark"] and found["mark"] not in "&~":
            parts.append(found["mark"])
        else:
            raise Unwritable(f"{found[0].strip()[:40]!r}")
    return " ".join(parts).replace(" *", "*").replace(" ?", "?").replace(" +", "+") or '""'


def _schema_at(body: str, at: int) -> tuple[Any, int]:
    try:
        schema, end = json.JSONDecoder().raw_decode(body, at)
    except (ValueError, RecursionError):
        raise Unwritable("a schema that is no JSON") from None
    return schema, end


def _any_text(rest: str, grammar: _Grammar, *, lazy: bool) -> str:
    """Any text up to and with a mark, or without one."""
    if lazy and re.fullmatch(r'"(?:[^"\\]|\\.)*"', rest):
        return _states(json.loads(rest), grammar, ends=False, calls="")
    if not lazy and rest.startswith("&"):
        inner = rest.removeprefix("&").strip()
        if inner.startswith("~") and (found := _WITHOUT.fullmatch(inner.removeprefix("~").strip())):
            return _states(_CODE.sub(lambda code: chr(int(code[1], 16)), found["literal"]), grammar, ends=True)
    raise Unwritable("a regular expression")


def _states(mark: str, grammar: _Grammar, *, ends: bool, calls: str | None = None) -> str:
    """Rules that follow a text and know how much of `mark` its end is, as Knuth, Morris and Pratt do.

    `ends`: the text may end anywhere. With the mark it ends too, where `calls` is empty, or goes on behind `calls`;
    where that is None the text never holds the mark.
    """
    states = [grammar.reserved() for _ in mark]
    letters = sorted(set(mark))
    others = _none_of(letters)
    for known, name in enumerate(states):
        options = [f"{others} {states[0]}"]
        for letter in letters:
            seen = mark[:known] + letter
            longest = next(size for size in range(min(len(seen), len(mark)), -1, -1) if seen.endswith(mark[:size]))
            if longest < len(mark):
                options.append(f"{quoted(letter)} {states[longest]}")
            elif calls is not None:
                options.append(f"{quoted(letter)} {calls} {states[0]}" if ends else quoted(letter))
        grammar.put(name, " | ".join([*options, '""'] if ends else options))
    return states[0]


class _Schemas:
    """Rules of one schema and those that it refers to in itself."""

    def __init__(self, grammar: _Grammar, root: Any) -> None:
        self._grammar, self._root = grammar, root
        self._references: dict[str, str] = {}

    def rule(self, schema: Any, depth: int = 0) -> str:
        """The name of a rule for the values of `schema`."""
        if depth > _DEEPEST:
            raise Unwritable(f"a schema deeper than {_DEEPEST}")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise Unwritable("a schema that allows nothing")
        if "$ref" in schema:
            return self._reference(schema, depth)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            self._check(schema, {"const", "enum", "type"})
            if not isinstance(values, list) or not values:
                raise Unwritable("an enum without values")
            return self._grammar.new(" | ".join(quoted(json.dumps(value, ensure_ascii=False)) for value in values))
        for name in ("anyOf", "oneOf", "allOf"):
            if name in schema:
                return self._options(schema, name, depth)
        types = schema.get("type", _implied(schema))
        types = [types] if isinstance(types, str) else types
        if not types:
            self._check(schema, set())
            return "value"
        if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
            raise Unwritable("a type that is no text")
        known: set[str] = set().union(*(_KEYWORDS.get(each, set()) for each in types), {"type"})
        self._check(schema, known)
        return self._grammar.new(" | ".join(self._of_type(each, schema, depth) for each in types))

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int) -> str:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, depth)
            case "string":
                least, most = _bounds(schema, "minLength", "maxLength")
                return "string" if (least, most) == (0, None) else f'"\\"" char{_times(least, most)} "\\""'
            case "integer" | "number" | "boolean" | "null":
                return kind
        raise Unwritable(f"the type {kind!r}")

    def _object(self, schema: Mapping[str, Any], depth: int) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise Unwritable("properties that are none")
        more = schema.get("additionalProperties", True)
        if missing := [name for name in required if name not in properties]:
            raise Unwritable(f"the required property {missing[0]!r}, which has no schema")
        if not properties:
            if more is False:
                return '"{" ws "}"'
            member = f'string ws ":" ws {self.rule(more, depth + 1)} ws'
            return f'"{{" ws ({member} ("," ws {member})*)? "}}"'
        members = [
            (
                f'{quoted(json.dumps(name, ensure_ascii=False))} ws ":" ws {self.rule(each, depth + 1)} ws',
                name in required,
            )
            for name, each in properties.items()
        ]
        return f'"{{" ws {self._members(members)} "}}"'

    def _members(self, members: Sequence[tuple[str, bool]]) -> str:
        """In their order, those that aren't required left out at will; a comma stands between two."""
        first, behind = '""', '""'
        for member, required in reversed(members):
            with_first = f"{member} {behind}"
            with_comma = f'"," ws {member} {behind}'
            first = self._grammar.new(with_first if required else f"{with_first} | {first}")
            behind = self._grammar.new(with_comma if required else f"{with_comma} | {behind}")
        return first

    def _array(self, schema: Mapping[str, Any], depth: int) -> str:
        item = f"{self.rule(schema.get('items', True), depth + 1)} ws"
        least, most = _bounds(schema, "minItems", "maxItems")
        if most == 0:
            return '"[" ws "]"'
        more = f'{item} ("," ws {item}){_times(max(0, least - 1), None if most is None else most - 1)}'
        return f'"[" ws {more} "]"' if least else f'"[" ws ({more})? "]"'

    def _options(self, schema: Mapping[str, Any], name: str, depth: int) -> str:
        self._check(schema, {name, "type"})
        options = schema[name]
        if not isinstance(options, list) or not options or (name == "allOf" and len(options) > 1):
            raise Unwritable(f"this use of {name!r}")
        return self._grammar.new(" | ".join(self.rule(each, depth + 1) for each in options))

    def _reference(self, schema: Mapping[str, Any], depth: int) -> str:
        self._check(schema, {"$ref"})
        path = schema["$ref"]
        if not isinstance(path, str) or not path.startswith("#"):
            raise Unwritable("a reference to another document")
        if path in self._references:
            return self._references[path]
        found = self._root
        for part in path.removeprefix("#").strip("/").split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            if part and not (isinstance(found, dict) and part in found):
                raise Unwritable(f"the reference {path[:100]!r}, which leads nowhere")
            found = found[part] if part else found
        name = self._references[path] = self._grammar.reserved()
        self._grammar.put(name, self.rule(found, depth + 1))
        return name

    @staticmethod
    def _check(schema: Mapping[str, Any], known: set[str]) -> None:
        if strange := sorted(set(schema) - known - _WORDS):
            raise Unwritable(f"the schema's {strange[0]!r}")


_KEYWORDS: Mapping[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
}


def _implied(schema: Mapping[str, Any]) -> list[str]:
    """The type that keywords without one are about; a value of another type would satisfy them too, and isn't made."""
    return [kind for kind, words in _KEYWORDS.items() if words & set(schema)][:1]


def _bounds(schema: Mapping[str, Any], least: str, most: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    for each in (low, high):
        if each is not None and (type(each) is not int or not 0 <= each <= 1000):
            raise Unwritable(f"{least} or {most} outside of 0 to 1000")
    if high is not None and high < low:
        raise Unwritable(f"a {most} below {least}")
    return low, high


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _none_of(letters: Iterable[str]) -> str:
    """Any character but these. Codes come last: to xgrammar, a code goes on as long as there are hexadecimal digits."""
    return f"[^{''.join(map(_in_class, sorted(letters, key=lambda letter: (not letter.isalnum(), letter))))}]"


def _in_class(letter: str) -> str:
    """As one of a class of characters."""
    return letter if letter.isalnum() else f"\\x{ord(letter):02X}" if ord(letter) < 256 else f"\\u{ord(letter):04X}"


def quoted(text: str) -> str:
    """As a text of GBNF."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(each, each) for each in text) + '"'
