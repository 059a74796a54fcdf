"""Which object where: a kind ties an API path to the struct that is read of it."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote


class Named(Protocol):
    """The least that a watched object's metadata tells."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...


class KubeObject(Protocol):
    """Any msgspec struct with `metadata`; fields that it doesn't name are not read."""

    @property
    def metadata(self) -> Named: ...


T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """`Kind("apps/v1", "Deployment", "deployments", Deployment)`; `type` is what answers are decoded as."""

    api_version: str
    name: str
    plural: str
    type: type[T]

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str = "") -> str:
        """The URL's path; without a namespace all of them."""
        root = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [root + self.api_version]
        if namespace is not None:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


def key_of(metadata: Named) -> str:
    """`namespace/name`: how objects of one kind are told apart."""
    return f"{metadata.namespace}/{metadata.name}"
