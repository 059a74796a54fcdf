"""Digests by which sameness is told."""

import hashlib

import msgspec
from ams_common.resource.spec import ModelDeployment


def digest(value: object) -> str:
    """Of anything that JSON can hold; the same for the same content."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def source_digest(resource: ModelDeployment) -> str:
    """Of what says which bytes the weights are."""
    return digest([resource.spec.model.source, resource.spec.model.lock])
