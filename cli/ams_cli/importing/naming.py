"""Names of other products as names of ModelDeployments: clients go on using the old ones, as aliases."""

import re

from ams_common.names import resource_name
from ams_common.resource.rules import ALIAS, NAME_LENGTH

from ams_cli.importing.results import Draft

_ALIAS = re.compile(ALIAS.removesuffix("$") + r"\Z")
_MOST_ALIASES = 16
_LONGEST_ALIAS = 200


def name_for(old: str, taken: set[str]) -> str:
    """A name that Kubernetes allows and nobody has, as near to `old` as can be; `taken` gets it."""
    plain = re.sub(r"[^a-z0-9]+", "-", old.lower()).strip("-")
    if not plain or not plain[0].isalpha():
        plain = f"model-{plain}".rstrip("-")
    plain = plain[:NAME_LENGTH].rstrip("-")
    name, number = plain, 2
    while name in taken:
        tail = f"-{number}"
        name, number = plain[: NAME_LENGTH - len(tail)].rstrip("-") + tail, number + 1
    taken.add(name)
    return name


def settle(drafts: list[Draft]) -> None:
    """Give each draft its name, and the names that clients know as aliases; a name belongs to one model alone."""
    taken: set[str] = set()
    names = [name_for(draft.name, taken) for draft in drafts]
    owners = {resource_name(name): draft for name, draft in zip(names, drafts, strict=True)}
    for name, draft in zip(names, drafts, strict=True):
        if resource_name(draft.name) != name:
            draft.say("name", f"{draft.name!r} is {name} here, as Kubernetes names things")
        aliases: list[str] = []
        for alias in (draft.name, *draft.aliases):
            owner = owners.setdefault(resource_name(alias), draft)
            if owner is not draft:
                draft.lose(f"name {alias!r}", f"is {owner.name} already")
            elif resource_name(alias) in (name, *map(resource_name, aliases)):
                continue
            elif _ALIAS.match(alias) is None or len(alias) > _LONGEST_ALIAS:
                draft.lose(f"name {alias!r}", "can't be an alias: letters, digits and . _ : / @ - only")
            elif len(aliases) == _MOST_ALIASES:
                draft.lose(f"name {alias!r}", f"a model has at most {_MOST_ALIASES} aliases")
            else:
                aliases.append(alias)
        draft.metadata = {"name": name, **draft.metadata}
        draft.set("model.aliases", aliases)
