"""The part of the chart's values.schema.json that checks `models`: `python -m ams_common.values_schema FILE` renews it.

What the API server takes and drops, as a field that is misspelt, is refused here: values are somebody's text.
"""

import json
import sys
from typing import Any

from ams_common.crd import definition

Schema = dict[str, Any]

_TAKEN_OVER = (
    *("type", "enum", "minimum", "maximum", "minLength", "maxLength", "pattern", "minItems", "maxItems"),
    *("required", "anyOf", "maxProperties"),
)


def models_schema() -> Schema:
    """Of a map of names to specs of ModelDeployments, as JSON Schema of draft 7."""
    version = definition()["spec"]["versions"][0]
    return {
        "type": "object",
        "propertyNames": {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50},
        "additionalProperties": _plain(version["schema"]["openAPIV3Schema"]["properties"]["spec"]),
    }


def _plain(schema: Schema) -> Schema:
    result = {name: schema[name] for name in _TAKEN_OVER if name in schema}
    if "properties" in schema:
        result["properties"] = {name: _plain(inner) for name, inner in schema["properties"].items()}
        result["additionalProperties"] = False
    elif isinstance(inner := schema.get("additionalProperties"), dict):
        result["additionalProperties"] = _plain(inner)
    if "items" in schema:
        result["items"] = _plain(schema["items"])
    return result


def renewed(text: str) -> str:
    """A values.schema.json with this part as it is now."""
    schema = json.loads(text)
    schema["properties"]["models"] = models_schema()
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        content = file.read()
    sys.stdout.write(renewed(content))
