"""Digests: equal for equal content."""

import hashlib

import msgspec
from ams_common.resource.spec import ModelDeployment


def digest(value: object) -> str:
    """Of anything that JSON can hold; the same for the same content."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def source_digest(resource: ModelDeployment) -> str:
    """Of what determines the bytes of the weights."""
    return digest([resource.spec.model.source, resource.spec.model.lock])
