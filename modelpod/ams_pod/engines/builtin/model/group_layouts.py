"""Where codes and factors of grouped weights lie, for the compiled kernels, torch and numpy alike.

Weights are in tiles of 16 outputs, the last one filled up with zeros, and groups of 32 inputs. One uint8 tensor
[tiles, blocks, bytes] holds them; a block is one group, or eight of them. A block begins with its head: nothing, or the
numbers that its groups share. Then, of each group, its factors and its codes, each of them for 16 outputs in turn.

| form | head | factors | weight |
|---|---|---|---|
| affine | | float16 s, float16 m | s·q + m |
| centred | | float16 s | s·(q - c) |
| blocks, 4 and 5 bits | float16 d, float16 e | uint8 a, uint8 b | d·a·q - e·b |
| blocks, 6 bits | float16 d | int8 a of inputs 0 to 15, int8 of the others | d·a·(q - c) |

q are the codes, and c half of their range. Of codes, byte 64·j + 4·o + i holds that of output o and input 4j + i:

- 8 bits: j from 0 to 7;
- 4 bits: j from 0 to 3, the low half of the byte is of input 4j + i, the high one of input 16 + 4j + i;
- 5 bits: as 4, then 64 bytes of which bit j of byte 4·o + i is the highest of input 4j + i, j from 0 to 7;
- 6 bits: as 4, then twice 64 bytes, for inputs 0 to 15 and for the others, of which bits 2j and 2j + 1 of byte 4·o + i
  are the highest of input 4j + i of the half, j from 0 to 3.
"""

from dataclasses import dataclass
from enum import IntEnum

GROUP = 32  # inputs
TILE = 16  # outputs
BLOCK_GROUPS = 8


class Form(IntEnum):
    """How codes become weights."""

    AFFINE = 0
    CENTRED = 1
    BLOCKS = 2


@dataclass(frozen=True, slots=True)
class Layout:
    """One of `LAYOUTS`. Sizes are bytes of a tile."""

    form: Form
    bits: int

    @property
    def number(self) -> int:
        """By which the kernels know it."""
        return 100 * self.form + self.bits

    @property
    def groups(self) -> int:
        """Of a block."""
        return BLOCK_GROUPS if self.form is Form.BLOCKS else 1

    @property
    def inputs(self) -> int:
        """Of a block."""
        return GROUP * self.groups

    @property
    def has_halves(self) -> bool:
        """Whether each half of a group has a scale of its own."""
        return self.form is Form.BLOCKS and self.bits == 6

    @property
    def is_centred(self) -> bool:
        """Whether weights have no offset of their own."""
        return self.form is Form.CENTRED or self.has_halves

    @property
    def head(self) -> int:
        return 0 if self.form is not Form.BLOCKS else 2 * TILE if self.has_halves else 4 * TILE

    @property
    def factors(self) -> int:
        return 4 * TILE if self.form is Form.AFFINE else 2 * TILE

    @property
    def group_size(self) -> int:
        return self.factors + GROUP * TILE * self.bits // 8

    @property
    def size(self) -> int:
        """Of a block."""
        return self.head + self.groups * self.group_size

    def shape(self, outputs: int, inputs: int) -> tuple[int, int, int]:
        """Of the tensor for weights [outputs, inputs]. ValueError if `inputs` are no whole blocks."""
        if inputs % self.inputs or inputs <= 0 or outputs <= 0:
            raise ValueError(f"weights of {outputs} x {inputs} can't be grouped: inputs go by {self.inputs}")
        return -(-outputs // TILE), inputs // self.inputs, self.size


AFFINE_4, AFFINE_5, AFFINE_8 = (Layout(Form.AFFINE, bits) for bits in (4, 5, 8))
CENTRED_4, CENTRED_5, CENTRED_8 = (Layout(Form.CENTRED, bits) for bits in (4, 5, 8))
BLOCKS_4, BLOCKS_5, BLOCKS_6 = (Layout(Form.BLOCKS, bits) for bits in (4, 5, 6))
LAYOUTS = (
    *(AFFINE_4, AFFINE_5, AFFINE_8, CENTRED_4, CENTRED_5, CENTRED_8),
    *(BLOCKS_4, BLOCKS_5, BLOCKS_6),
)
_BY_SIZE = {layout.size: layout for layout in LAYOUTS}  # all different


def layout_of(size: int) -> Layout | None:
    """The one whose blocks have so many bytes."""
    return _BY_SIZE.get(size)
