"""Which prompts' beginnings are kept, and which of them goes first: a tree of blocks of tokens. Pure decisions.

A block's place is found by its tokens and all that come before them, compared in full: no hash can confuse two prompts.
Each salt has a tree of its own, so that nobody's prompts are found, nor their time told, by those with another.
"""

import collections
from collections.abc import Hashable, Iterator, Sequence

BLOCK = 16
"""Tokens of a block: what is kept ends at a whole one, so that fewer than these are read again in vain."""


class Block:
    """`number` is its place in the store."""

    __slots__ = ("children", "key", "number", "parent")

    def __init__(self, parent: "Block | None", key: Hashable, number: int) -> None:
        self.parent, self.key, self.number = parent, key, number
        self.children: dict[Hashable, Block] = {}


class PrefixTree:
    """At most `blocks` blocks; the ones that were not used for longest make room for new ones, the last first."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._roots: dict[str, Block] = {}
        # By last use. Whoever uses a block uses those before it too, a moment later: so the first one is a leaf.
        self._used: collections.OrderedDict[Block, None] = collections.OrderedDict()
        self._free = list(range(blocks - 1, -1, -1))  # the lowest number last

    def __len__(self) -> int:
        return len(self._used)

    def find(self, salt: str, tokens: Sequence[int]) -> list[int]:
        """The blocks of the longest beginning that is kept; they count as used."""
        path = list(self._path(salt, tokens))
        self._touch(path)
        return [block.number for block in path]

    def count(self, salt: str, tokens: Sequence[int]) -> int:
        """How many tokens of it are kept."""
        return BLOCK * sum(1 for _ in self._path(salt, tokens))

    def add(self, salt: str, tokens: Sequence[int]) -> list[tuple[int, int]]:
        """Keep as much of it as there is room for: (the first token, the block) of each part that is new.

        What these blocks held before is forgotten.
        """
        path = list(self._path(salt, tokens))
        self._touch(path)
        whole = len(tokens) // BLOCK
        parent = path[-1] if path else self._roots.get(salt) or Block(None, salt, -1)
        ancestors = set(path)
        added = []
        for index in range(len(path), whole):
            number = self._room(ancestors)
            if number is None:
                break
            if parent.parent is None:
                self._roots[salt] = parent  # making room may have taken its last child, and so itself
            block = Block(parent, _key(tokens, index), number)
            parent.children[block.key] = block
            self._used[block] = None
            ancestors.add(block)
            path.append(block)
            added.append((index * BLOCK, number))
            parent = block
        self._touch(path)
        return added

    def remove(self, numbers: set[int]) -> None:
        """Forget these blocks and all that come behind them."""
        for block in [block for block in self._used if block.number in numbers]:
            self._forget(block)

    def clear(self) -> None:
        """Forget everything."""
        self.__init__(self.blocks)  # type: ignore[misc]

    @property
    def end(self) -> int:
        """All blocks from this number on are free."""
        return max((block.number for block in self._used), default=-1) + 1

    def _path(self, salt: str, tokens: Sequence[int]) -> Iterator[Block]:
        block = self._roots.get(salt)
        index = 0
        while block is not None and (index + 1) * BLOCK <= len(tokens):
            block = block.children.get(_key(tokens, index))
            index += 1
            if block is not None:
                yield block

    def _touch(self, path: Sequence[Block]) -> None:
        for block in reversed(path):
            self._used.move_to_end(block)

    def _room(self, kept: set[Block]) -> int | None:
        """A free block's number; None if only those that must stay are left."""
        if self._free:
            return self._free.pop()
        oldest = next(iter(self._used), None)
        if oldest is None or oldest in kept:
            return None
        self._forget(oldest)
        return self._free.pop()

    def _forget(self, block: Block) -> None:
        waiting = [block]
        while waiting:
            each = waiting.pop()
            if each not in self._used:
                continue
            del self._used[each]
            self._free.append(each.number)
            waiting.extend(each.children.values())
            parent = each.parent
            if parent is not None:
                parent.children.pop(each.key, None)
                if parent.parent is None and not parent.children:
                    self._roots.pop(str(parent.key), None)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many whole blocks two prompts begin with alike, in tokens."""
    most = min(len(one), len(other)) // BLOCK * BLOCK
    at, step = 0, most
    while step >= BLOCK:  # doubling down: long equal parts are compared in one go
        if at + step <= most and one[at : at + step] == other[at : at + step]:
            at += step
        else:
            step = step // 2 // BLOCK * BLOCK
    return at


def _key(tokens: Sequence[int], index: int) -> Hashable:
    return tuple(tokens[index * BLOCK : (index + 1) * BLOCK])
