"""Who owns an object that has a child's name: only the model's own are ever touched."""

from typing import Literal

from ams_common import labels
from ams_common.names import KIND, child_name
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.kinds import Child

Owner = Literal["ours", "predecessor's", "another's"]


def owner_of(child: Child, resource: ModelDeployment) -> Owner:
    """A predecessor is a deleted resource of the same name, whose children are being collected."""
    controller = child.metadata.controller
    if controller is None:
        retained = child.metadata.annotations.get(labels.RETAINED_BY) == resource.metadata.name
        return "ours" if retained else "another's"
    if controller.uid == resource.metadata.uid:
        return "ours"
    if controller.kind == KIND and controller.name == resource.metadata.name:
        return "predecessor's"
    return "another's"


def name_taken_message(kind: str, child: Child, resource: ModelDeployment) -> str:
    """The sentence for an object in the way."""
    controller = child.metadata.controller
    whose = f"belongs to {controller.kind} {controller.name}" if controller else "was not made by this resource"
    return (
        f"The {kind} {child_name(resource.metadata.name)} {whose} and is left alone; delete or rename it,"
        " or give this resource another name."
    )
