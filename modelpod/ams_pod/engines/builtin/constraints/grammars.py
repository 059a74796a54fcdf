"""A constraint as a grammar that llguidance compiles. Pure."""

import json
import re

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import any_to_lark

from ams_pod.engines.builtin.constraints.schemas import MOST_BYTES, checked_schema, refusal, with_white_space
from ams_pod.engines.port import Constraint

_LONGEST_REGEX = 10_000
_MOST_CHOICES = 2_000
_EMBEDDED = re.compile(r"%json\b\s*")
_DECODER = json.JSONDecoder()


def grammar_of(constraint: Constraint) -> str:
    """For `LLMatcher`. EngineRefusal("invalid-constraint") for one that is none, or too large."""
    value = constraint.value
    match constraint.kind:
        case "json-object":
            return _of_schema({"type": "object"}, constraint)
        case "json-schema":
            return _of_schema(checked_schema(value), constraint)
        case "regex":
            if len(value) > _LONGEST_REGEX:
                raise refusal(f"The regular expression is longer than {_LONGEST_REGEX:,} characters.")
            return str(LLMatcher.grammar_from_regex(_unanchored(value)))
        case "choice":
            return str(LLMatcher.grammar_from_lark(_of_choice(value)))
        case "lark":
            if len(value) > MOST_BYTES:
                raise refusal(f"The grammar is too large: {len(value):,} characters; at most {MOST_BYTES:,}.")
            return str(LLMatcher.grammar_from_lark(_of_lark(value)))


def _of_schema(schema: dict[str, object], constraint: Constraint) -> str:
    spaced = (
        with_white_space(schema) if constraint.white_space is None else with_white_space(schema, constraint.white_space)
    )
    return str(LLMatcher.grammar_from_json_schema(json.dumps(spaced)))


def _unanchored(regex: str) -> str:
    """The whole answer matches anyway; llguidance takes no anchors."""
    regex = regex.removeprefix("^")
    if regex.endswith("$") and (len(regex) - len(regex[:-1].rstrip("\\"))) % 2 == 1:
        regex = regex[:-1]
    return regex


def _of_choice(value: str) -> str:
    try:
        choices = json.loads(value)
    except (ValueError, RecursionError):
        choices = None
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise refusal("The choices are no list of texts that aren't empty.")
    if not choices or len(choices) > _MOST_CHOICES or len(value) > MOST_BYTES:
        raise refusal(f"There must be 1 to {_MOST_CHOICES:,} choices, of {MOST_BYTES:,} characters in all.")
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in dict.fromkeys(choices))


def _of_lark(text: str) -> str:
    """A grammar in Lark or GBNF, with the schemas in it checked."""
    try:
        lark = str(any_to_lark(text))
    except Exception as error:  # the converter raises what it likes
        raise refusal(f"The grammar can't be read: {str(error)[:200]}") from None
    made, at = "", 0
    while (found := _EMBEDDED.search(lark, at)) is not None:
        try:
            _, end = _DECODER.raw_decode(lark, found.end())
        except (ValueError, RecursionError):
            raise refusal("The grammar has a %json that no JSON Schema follows.") from None
        schema = json.dumps(with_white_space(checked_schema(lark[found.end() : end])))
        made += lark[at : found.start()] + "%json " + schema
        at = end
    return made + lark[at:]
