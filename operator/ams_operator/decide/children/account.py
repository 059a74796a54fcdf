"""The ServiceAccount of the model's pods, which may do nothing."""

from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.common import ObjectBody, child_metadata


def account(resource: ModelDeployment) -> ObjectBody | None:
    """None where the resource names an account of its own."""
    if resource.spec.service_account_name is not None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": child_metadata(resource),
        "automountServiceAccountToken": False,
    }
