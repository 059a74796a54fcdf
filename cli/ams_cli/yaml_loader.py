"""YAML as Kubernetes reads it, within bounds: a few bytes of aliases can stand for billions of values."""

from collections.abc import Hashable, Iterator
from typing import Any

import yaml

_DEEPEST = 100  # levels; PyYAML's time grows with their square
_LONGEST_NUMBER = 64  # characters; Python refuses to write out thousands of digits
_MOST_VALUES = 200_000  # of a document, aliases written out; the largest manifests have some thousands


def load_yaml(text: str) -> Iterator[Any]:
    """Each document's value.

    YAMLError where it isn't YAML, stands for too much, or is nested too deeply.
    """
    loader = _Loader(text)
    try:
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                _check_size(node)
                yield loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(document: yaml.Node) -> None:
    """YAMLError if the document holds itself, or more values than any manifest has."""
    sizes: dict[int, int] = {}  # by node, its aliases written out
    open_nodes: set[int] = set()
    stack: list[tuple[yaml.Node, bool]] = [(document, False)]
    while stack:
        node, counted = stack.pop()
        children = _children(node)
        if counted:
            open_nodes.discard(id(node))
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            if sizes[id(node)] > _MOST_VALUES:
                raise yaml.composer.ComposerError(
                    None, None, f"more than {_MOST_VALUES} values once its aliases are written out", node.start_mark
                )
        elif id(node) in open_nodes:
            raise yaml.composer.ComposerError(None, None, "an alias that refers to itself", node.start_mark)
        elif id(node) not in sizes:
            open_nodes.add(id(node))
            stack.append((node, True))
            stack += [(child, False) for child in children if id(child) not in sizes]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a key given twice is a mistake, and a date is text."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self._depth == _DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "nested too deeply", mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(str(node.value)) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, "a number of too many digits", node.start_mark)
        return int(super().construct_yaml_int(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
