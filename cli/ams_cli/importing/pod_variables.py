"""A container's variables, with what ConfigMaps among the files hold."""

from collections.abc import Mapping, Sequence
from typing import Any

from ams_cli.importing.reading import Section
from ams_cli.importing.references import written_out
from ams_cli.importing.results import Draft

_LONGEST_VALUE = 1 << 12  # of a variable that holds others


def values_in(document: Any) -> dict[str, dict[str, str]]:
    """The values of a ConfigMap, by its name; nothing of any other document."""
    if (
        not isinstance(document, dict)
        or document.get("kind") != "ConfigMap"
        or not isinstance(document.get("data"), dict)
    ):
        return {}
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return {
        str(name): {
            str(key): str(each) for key, each in document["data"].items() if isinstance(each, str | int | float)
        }
    }


def variables_of(container: Section, configs: Mapping[str, Mapping[str, str]]) -> list[Any]:
    """A container's variables, with what ConfigMaps among the files hold; its own count more."""
    result: list[Any] = []
    for source in container.sections("envFrom"):
        name, prefix = source.section("configMapRef").text("name"), source.text("prefix")
        result += [{"name": f"{prefix}{key}", "value": value} for key, value in configs.get(name, {}).items() if value]
    for each in container.items("env"):
        reference = each.get("valueFrom") if isinstance(each, dict) else None
        config = reference.get("configMapKeyRef") if isinstance(reference, dict) else None
        found = configs.get(str(config.get("name")), {}) if isinstance(config, dict) else {}
        if isinstance(config, dict) and config.get("key") in found:
            result.append({"name": each.get("name"), "value": found[config["key"]]})
        else:
            result.append(each)
    return _written_out(result)


def _written_out(variables: Sequence[Any]) -> list[Any]:
    """Variables that hold others before them, as in $(NAME), written out once."""
    known: dict[str, str] = {}
    result: list[Any] = []
    for each in variables:
        value = each.get("value") if isinstance(each, dict) else None
        if isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(value, str | int | float):
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if "$(" in text and (whole := written_out(text, known, _LONGEST_VALUE)) is not None:
                text = whole
            known[each["name"]] = text
            result.append({"name": each["name"], "value": text})
        else:
            result.append(each)
    return result


def tell_source(draft: Draft, container: Section, source: Any, configs: Mapping[str, Any]) -> None:
    inner = source if isinstance(source, dict) else {}
    for kind in ("configMapRef", "secretRef"):
        if not isinstance(found := inner.get(kind), dict):
            continue
        at = f"{container.at('envFrom')} ({found.get('name')})"
        if kind == "secretRef":
            draft.lose(
                at, "variables of a whole Secret: name each in engine.env, the hub's token in model.tokenSecretRef"
            )
        elif str(found.get("name")) in configs:
            draft.say(at, "its variables are written out")
        else:
            draft.lose(at, "the ConfigMap isn't among the files: import again with it as a further file")
