"""What a product costs with a matrix as it is, and with its zeros left out: the declared model.

In slots: the time of one multiplication of vectors at the core's peak. Constants were fitted to times of a
Sapphire Rapids core (docs/decisions.md); what differs between chips, vectors and registers, is the target's.
A step of K is one f32, or a word of two bf16 or of four bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from isthmus.ir.sparse import WORD, Blocks, MaskedPanels
from isthmus.ir.types import DType
from isthmus.passes.sparsify.patterns import BLOCKS_OF, Pattern
from isthmus.target import Target, VectorUnit, sparse_vectors, sparse_window

# What the dense product reaches of the peak, and rows below which it waits for weights.
DENSE_SHARE = 0.95
FEWEST_ROWS = 3
# Slots beside the arithmetic: of a block (its place, its numbers), of a list (its end is hardly ever
# foreseen), and of an element that is transposed.
BLOCK_SLOTS = 2.1
LIST_SLOTS = 40.0
ELEMENT_SLOTS = 0.7
# Of a matrix of which two of four bytes are stored: slots of widening a vector once for many rows, and the
# most rows that are few: they widen in registers. What that takes of the time of dense, and what is left of
# the wait for weights, where there are so many bytes of them that no cache near the core holds them.
WIDEN_SLOTS = 2.2
HALVES_ROWS = 4
HALVES_NEAR, HALVES_FAR = 1.1, 0.7
FAR_BYTES = 1 << 20
# Rows without a bound, and the most that anything depends on.
MANY = 1 << 16


@dataclass(frozen=True, slots=True)
class Step:
    """One step of K: how many elements it takes, and slots for a vector of it in either product.

    `halves`: there are products of matrices of which two of four elements are stored.
    """

    group: int = 1
    dense: float = 1.0
    sparse: float = 1.0
    halves: bool = False


FLOATS = Step()


def step_of(dtype: DType, target: Target) -> Step | None:
    """What a step takes in products with matrices of `dtype`; None where there is no sparse one.

    Bytes and bf16 without an instruction for a whole word are widened first: the dense product does that once
    for all rows of its tile, the sparse one wherever it meets them.
    """
    if dtype is DType.F32:
        return FLOATS
    if dtype is DType.BF16:
        return _pairs(target)
    if dtype is not DType.I8:
        return None
    products = target.byte_products
    if products is None:
        return Step(WORD, 4, 11)
    if products.neighbours == 2:
        return Step(WORD, 2, 5)
    if products.neighbours == WORD:
        return Step(WORD, halves=target.expands_bytes)
    return Step(WORD, 0.5, 1 if products.quads else 11)


def _pairs(target: Target) -> Step:
    """A step of two bf16. Where there are tiles, the instruction for pairs is slow."""
    if target.multiplies_in_tiles("bf16"):
        return Step(2, 0.2, 4)
    return Step(2) if target.instruction("dot_bf16") else Step(2, 2, 3)


# How zeros are left out: in blocks of outputs x inputs, or two of four inputs of each output.
Form: TypeAlias = tuple[int, int] | Literal["2:4"]
HALVES: Literal["2:4"] = "2:4"
# Times the speed of dense that are as good as its speed, where half of the bytes are stored.
EVEN = 0.98


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to store the matrix, and how many times faster than dense it is expected to be."""

    form: Form
    gain: float


def candidates(found: Pattern, rows: int, vector: VectorUnit, step: Step = FLOATS) -> tuple[Candidate, ...]:
    """The ways to leave zeros out, best first; none for a matrix that has hardly any, or no elements."""
    if 0 in found.shape or (found.numbers and not found.blocks):
        return ()
    dense = dense_slots(found.shape, rows, vector, step)
    blocks = found.blocks or {(1, step.group): 0}
    made = [
        Candidate(shape, dense / sparse_slots(found.shape, rows, vector, *shape, count, step))
        for shape, count in blocks.items()
        if shape in BLOCKS_OF[step.group]
    ]
    if found.halves and step.halves:
        made.append(Candidate(HALVES, dense / halves_slots(found.shape, rows, vector, step)))
    return tuple(sorted(made, key=lambda c: -c.gain))


def halves_slots(shape: tuple[int, int], rows: int, vector: VectorUnit, step: Step) -> float:
    """Slots of the dense product whose weights are widened as they are read."""
    if rows > HALVES_ROWS:
        each = rows + WIDEN_SLOTS
    elif shape[0] * shape[1] < FAR_BYTES:
        each = max(rows, FEWEST_ROWS) * HALVES_NEAR
    else:
        each = max(rows, FEWEST_ROWS * HALVES_FAR)
    return dense_slots(shape, FEWEST_ROWS, vector, step) * each / FEWEST_ROWS


def dense_slots(shape: tuple[int, int], rows: int, vector: VectorUnit, step: Step = FLOATS) -> float:
    """Slots of the dense product with so many rows."""
    steps = shape[0] / step.group * step.dense
    return steps * shape[1] * max(rows, FEWEST_ROWS) / vector.lanes(32) / DENSE_SHARE


def sparse_slots(
    shape: tuple[int, int],
    rows: int,
    vector: VectorUnit,
    outputs: int,
    inputs: int,
    blocks: int,
    step: Step = FLOATS,
) -> float:
    """Slots of the product that takes `blocks` blocks of this shape."""
    depth, columns = -(-shape[0] // step.group), shape[1]
    inputs //= step.group
    lanes = vector.lanes(32)
    in_all = -(-rows // lanes)
    tiles = -(-in_all // sparse_vectors(vector, outputs))
    vectors = in_all / tiles
    window = sparse_window(vector, outputs, inputs, depth)
    lists = -(-depth // window) * -(-columns // outputs)
    multiplications = outputs * inputs * vectors * step.sparse
    loads = inputs * vectors + outputs * inputs
    tile = (
        blocks * (max(multiplications, loads) + BLOCK_SLOTS)
        + lists * (2 * outputs * vectors + LIST_SLOTS)
        + ELEMENT_SLOTS * lanes * vectors * (depth + columns)
    )
    return tiles * tile


def slots(
    stored: Blocks | MaskedPanels,
    shape: tuple[int, int],
    rows: int,
    vector: VectorUnit,
    step: Step = FLOATS,
) -> float:
    """Slots of the product with a matrix that is stored like this."""
    if isinstance(stored, MaskedPanels):
        return halves_slots(shape, rows, vector, step)
    return sparse_slots(shape, rows, vector, stored.outputs, stored.inputs, 2 * stored.pairs, step)
