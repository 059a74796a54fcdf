"""A decoded YAML or JSON document as a ModelDeployment, or every reason why it isn't one."""

from typing import Any

import msgspec

from ams_common.resource.check import FieldProblem, check_document
from ams_common.resource.rules import broken
from ams_common.resource.spec import ModelDeployment


class InvalidResource(ValueError):
    """A document that is not a valid ModelDeployment; `problems` name the places, `str()` is one line for each."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def parse_model_deployment(document: Any) -> ModelDeployment:
    """Read a document strictly, as `kubectl apply` would; its `status` is not the user's and is dropped."""
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != "status"}
    checked, problems = check_document(document, ModelDeployment)
    if isinstance(document, dict):
        for name in ("kind", "apiVersion"):
            if document.get(name) is None:
                problems.insert(0, FieldProblem(name, "is required"))
    if problems:
        raise InvalidResource(problems)
    resource = msgspec.convert(checked, ModelDeployment)
    if problems := broken(resource):
        raise InvalidResource(problems)
    return resource
