"""Which fields of the wire's request types the programs read, found in their source.

A name has a request type where its annotation says so, or where it is bound to something that is made with a decoder of
that type. What is read of such a name, as `name.field` or with getattr over a constant tuple, is a use.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator

Uses = dict[str, set[str]]


def uses_of(types: Iterable[str], sources: Iterable[str]) -> Uses:
    """Names of the fields that are read, by type."""
    uses: Uses = defaultdict(set)
    for source in sources:
        _Module(ast.parse(source), set(types)).collect(uses)
    return uses


class _Module:
    def __init__(self, tree: ast.Module, types: set[str]) -> None:
        self._tree = tree
        self._types = types
        self._makers: dict[str, set[str]] = {name: {name} for name in types}  # types by name of what makes them
        self._constants: dict[str, list[str]] = {}
        for node in tree.body:
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    self._makers[name] = self._types_in(value)
                    self._constants[name] = [
                        each.value
                        for each in ast.walk(value)
                        if isinstance(each, ast.Constant) and type(each.value) is str
                    ]
                case (
                    ast.FunctionDef(returns=ast.expr() as returns) | ast.AsyncFunctionDef(returns=ast.expr() as returns)
                ):
                    self._makers[node.name] = self._types_in(returns)

    def collect(self, uses: Uses) -> None:
        self._walk(self._tree, {}, uses)

    def _walk(self, node: ast.AST, typed: dict[str, set[str]], uses: Uses) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            typed = dict(typed)
            if not isinstance(node, ast.Lambda):
                for argument in (*node.args.args, *node.args.kwonlyargs):
                    typed[argument.arg] = self._types_in(argument.annotation)
                for name, value in _bindings(node):
                    if made := self._made_by(value):
                        typed[name] = made
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=field, ctx=ast.Load()):
                self._use(typed, name, [field], uses)
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=name), ast.Constant(value=str(field)), *_]):
                self._use(typed, name, [field], uses)
            case ast.For(target=ast.Name(id=item), iter=ast.Name(id=constant)):
                for inner in ast.walk(node):
                    match inner:
                        case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=name), ast.Name(id=key), *_]):
                            if key == item:
                                self._use(typed, name, self._constants.get(constant, []), uses)
        for child in ast.iter_child_nodes(node):
            self._walk(child, typed, uses)

    def _use(self, typed: dict[str, set[str]], name: str, fields: Iterable[str], uses: Uses) -> None:
        for type_ in typed.get(name, ()):
            uses[type_].update(fields)

    def _types_in(self, node: ast.AST | None) -> set[str]:
        return {name for name in _names(node) if name in self._types} if node is not None else set()

    def _made_by(self, node: ast.AST) -> set[str]:
        return {type_ for name in _names(node) for type_ in self._makers.get(name, ())}


def _names(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield name


def _bindings(function: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(name, what it is bound to) of assignments and with-blocks."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[target], value=value):
                yield from ((name, value) for name in _names(target))
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                yield from ((name, value) for name in _names(target))
