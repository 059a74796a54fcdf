"""What all containers of a model's pod have in common: folders, security, variables and resources."""

from collections.abc import Mapping, Sequence

from ams_common.resource.core import EnvVar, ResourceRequirements

from ams_operator.decide.children.common import ObjectBody

SERVE_PORT = 8080
MODELS_DIR = "/models"
TERMINATION_LOG = "/dev/termination-log"

CONTAINER_SECURITY: ObjectBody = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def literally(variables: Mapping[str, str]) -> dict[str, ObjectBody]:
    """The kubelet reads $(NAME) as another variable, and $$ as one dollar."""
    return {name: {"value": literal(value)} for name, value in variables.items()}


def literal(text: str) -> str:
    """As the kubelet gives it to the program, in commands, arguments and variables."""
    return text.replace("$", "$$")


def given(variables: Sequence[EnvVar]) -> dict[str, ObjectBody]:
    """Those of the resource, by name, as they are."""
    return {
        variable.name: {
            **({"value": variable.value} if variable.value is not None else {}),
            **({"valueFrom": variable.value_from} if variable.value_from is not None else {}),
        }
        for variable in variables
    }


def as_list(variables: Mapping[str, ObjectBody]) -> list[ObjectBody]:
    return [{"name": name, **value} for name, value in variables.items()]


def asked(resources: ResourceRequirements) -> ObjectBody:
    """A container's resources; of claims their names, as the pod has the rest."""
    body: ObjectBody = {}
    if resources.limits:
        body["limits"] = resources.limits
    if resources.requests:
        body["requests"] = resources.requests
    if resources.claims:
        body["claims"] = [{"name": claim.get("name", "")} for claim in resources.claims]
    return body
