"""What people are told to do can be done: the commands and fields that helps name exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ams_cli.arguments import command_line
from ams_common.crd import definition
from ams_common.reasons import ROWS as REASONS
from ams_common.why.causes import ROWS as CAUSES

HELPS = {str(code): row.help for rows in (REASONS, CAUSES) for code, row in rows.items()}
SPEC = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]

_CHART = Path(__file__).parents[2] / "charts" / "ai-model-server"
VALUES = json.loads((_CHART / "values.schema.json").read_text())


def quoted(help: str) -> list[str]:
    return re.findall(r"`([^`]+)`", help)


def names(value: str) -> bool:
    """Whether a text in a help is a field, with or without its value."""
    return re.fullmatch(r"(spec\.)?[a-z][A-Za-z]*(\.[a-z][A-Za-z.]*)+(: [^,]+)?", value) is not None


@pytest.mark.parametrize("code", HELPS)
def test_commands_of_helps_are_there(code: str) -> None:
    for command in quoted(HELPS[code]):
        if command.startswith("ams "):
            words = ["name" if word.isupper() else word for word in command.split()[1:]]
            if words[-1].startswith("-"):
                words.append("1")
            command_line().parse_args(words)  # ends the program, and the test, for what isn't there


@pytest.mark.parametrize("code", HELPS)
def test_fields_of_helps_are_there(code: str) -> None:
    """Fields of the resource, or values of the chart."""
    for text in filter(names, quoted(HELPS[code])):
        path, _, value = text.removeprefix("spec.").partition(": ")
        top = path.split(".")[0]
        if top in {*SPEC["properties"], *VALUES["properties"]}:
            assert holds(SPEC, path, value) or holds(VALUES, path, value), text


def holds(schema: dict[str, Any], path: str, value: str) -> bool:
    for name in path.split("."):
        if "properties" not in schema:  # anything may be below it
            return True
        if name not in schema["properties"]:
            return False
        schema = schema["properties"][name]
    return not value or "enum" not in schema or value in schema["enum"]
