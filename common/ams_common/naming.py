"""Which of several models that claim a name gets it: gateways route by this rule, the operator tells the outcome."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ams_common.names import resource_name


@dataclass(frozen=True, slots=True)
class NameClaim:
    """What a ModelDeployment would like to be called. `key` is `namespace/name`, `created` its creation timestamp."""

    key: str
    created: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GivenNames:
    """`name` is what the model is listed as. `lost` are the names that it claims and another model has: key by name."""

    name: str
    aliases: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Naming:
    """`owners`: key by each name that routes may use, in the spelling of `resource_name`. `given` by key."""

    owners: Mapping[str, str]
    given: Mapping[str, GivenNames]


def give_names(claims: Iterable[NameClaim], *, confined: bool = False) -> Naming:
    """Name the models.

    `<namespace>.<name>` always leads to its own. The bare name and aliases belong to the oldest model that claims them,
    and a model's own name goes before anyone's alias. A model without its bare name is listed as the full one.
    `confined`: there are no bare names, so that no namespace can take a name that another one's clients use.
    """
    by_age = sorted(claims, key=lambda each: (each.created, each.key))
    owners: dict[str, str] = {}
    listed: dict[str, str] = {}
    for claim in by_age:
        namespace, _, name = claim.key.partition("/")
        full = f"{namespace}.{name}"
        owners[resource_name(full)] = claim.key
        bare = not confined and owners.setdefault(resource_name(name), claim.key) == claim.key
        listed[claim.key] = name if bare else full
    given = {}
    for claim in by_age:
        namespace, _, name = claim.key.partition("/")
        aliases = [f"{namespace}.{alias}" if confined else alias for alias in claim.aliases]
        has = {alias: owners.setdefault(resource_name(alias), claim.key) for alias in aliases}
        lost = {alias: owner for alias, owner in has.items() if owner != claim.key}
        if not confined and listed[claim.key] != name:
            lost = {name: owners[resource_name(name)], **lost}
        won = tuple(alias for alias, owner in has.items() if owner == claim.key)
        given[claim.key] = GivenNames(listed[claim.key], won, lost)
    return Naming(owners, given)
