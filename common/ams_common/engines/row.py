"""What is known of an engine of another make before it runs."""

from collections.abc import Callable
from dataclasses import dataclass

from ams_common.engines.names import EngineName
from ams_common.engines.refusing import Refuses, refusals
from ams_common.engines.wishes import UNKNOWN, EngineWishes, Member, ModelFacts
from ams_common.resource.spec import ModelDeployment


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRow:
    """One engine.

    `title` is what it calls itself, `program` the first word of its command, which a laptop looks for; empty for one
    that is known by its image or path alone. `port` is what it listens on where the resource names none. `command` is
    its program and arguments, without the user's; `variables` are those of its environment. `fields` say for the docs
    what becomes of which field: (field, argument). `joins` are the
    arguments by which a node joins the others, after those of the command; None for one that computes on one node.
    `changes_adapters`: it loads and unloads LoRA adapters while it runs.
    """

    name: EngineName
    title: str
    program: str
    port: int
    command: Callable[[EngineWishes], list[str]]
    variables: Callable[[EngineWishes], dict[str, str]]
    rules: tuple[Refuses, ...]
    fields: tuple[tuple[str, str], ...]
    reads_gguf: bool = False
    sleeps: bool = False
    joins: Callable[[Member], list[str]] | None = None
    changes_adapters: bool = False

    def full_command(self, wishes: EngineWishes) -> list[str]:
        """With the user's arguments, which come last: where one is there twice, the last one counts."""
        return [*self.command(wishes), *wishes.arguments]

    def refusals(self, resource: ModelDeployment, facts: ModelFacts = UNKNOWN) -> list[str]:
        """What the resource asks for that this engine can't do, as sentences that begin with the field's path."""
        return refusals(self.rules, resource, facts)


def no_variables(wishes: EngineWishes) -> dict[str, str]:
    return {}
