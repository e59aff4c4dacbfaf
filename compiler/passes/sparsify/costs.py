"""What a product costs with a matrix as it is, and with its zeros left out: the declared model.

In slots: the time of one multiplication of vectors at the core's peak. Constants were fitted to times of a
Sapphire Rapids core (docs/decisions.md); what differs between chips, vectors and registers, is the target's.
A step of K is one f32, or a word of two bf16 or of four bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from isthmus.ir.sparse import PART_ROWS, WORD, Blocks, GroupPanels, MaskedPanels, part_words
from isthmus.ir.types import DType
from isthmus.passes.sparsify.patterns import BLOCKS_OF, Pattern
from isthmus.target import Target, VectorUnit, sparse_vectors, sparse_window

# What the dense product reaches of the peak, and rows below which it waits for weights.
DENSE_SHARE = 0.95
FEWEST_ROWS = 4
# Slots beside the arithmetic: of a block (its place, its numbers), of a list (its end is hardly ever
# foreseen), and of an element that is transposed.
BLOCK_SLOTS = 2.1
LIST_SLOTS = 40.0
ELEMENT_SLOTS = 0.7
# The same with no more rows than a vector has lanes, where parts of vectors take them: of a number, and what
# it takes more in whole vectors; of a block, of a list, and of each of its columns. Fitted to a Zen 4.
FEW_NUMBER_SLOTS, WHOLE_SLOTS = 0.95, 0.9
FEW_BLOCK_SLOTS, FEW_LIST_SLOTS, FEW_COLUMN_SLOTS = 0.5, 15.0, 4.0
# With masks: of a vector of K, and of its product with a row.
MASK_SLOTS, MASK_ROW_SLOTS = 3.4, 1.0
# Bytes of a dense matrix that no cache is expected to hold, and rows below which memory is waited for.
MEMORY_BYTES, MEMORY_ROWS = 16 << 20, 10
# Rows that go through a chain of stages at once (the plan takes 64 to 160): a panel is widened for each such.
ROWS_AT_ONCE = 128
# Of a matrix of which half is stored: slots of widening a vector of words once for so many rows, by selects,
# in groups of 4 and of 8, of words of so many elements.
SELECT_SLOTS = {1: {4: 6.0, 8: 8.0}, 2: {4: 10.0, 8: 12.0}, 4: {4: 19.0, 8: 23.0}}
# The same with bytes that an instruction puts in places, and the most rows that are few: they widen in
# registers. What that takes of the time of dense, and what is left of
# the wait for weights, where there are so many bytes of them that no cache near the core holds them.
WIDEN_SLOTS = 2.2
HALVES_ROWS = 4
HALVES_NEAR, HALVES_FAR = 1.1, 0.7
FAR_BYTES = 1 << 20
# Lanes of the smallest part of a vector.
PART = 4
# Rows without a bound, and the most that anything depends on.
MANY = 1 << 16


@dataclass(frozen=True, slots=True)
class Step:
    """One step of K: how many elements it takes, and slots for a vector of it in either product.

    `halved`: there are products of matrices of which half is stored; `expands`: an instruction puts two of
    four in their places. `masks`: blocks of one word have masks. `narrow`: a few rows may take a part of a
    vector.
    """

    group: int = 1
    dense: float = 1.0
    sparse: float = 1.0
    halved: bool = True
    expands: bool = False
    masks: bool = False
    narrow: bool = True


FLOATS = Step()


def step_of(dtype: DType, target: Target) -> Step | None:
    """What a step takes in products with matrices of `dtype`; None where there is no sparse one.

    Bytes and bf16 without an instruction for a whole word are widened first: the dense product does that once
    for all rows of its tile, the sparse one wherever it meets them. In matrix tiles dense products are fast,
    and sparse ones have no tiles.
    """
    masks = target.reads_masks(1, 1)
    if dtype is DType.F32:
        return Step(masks=masks)
    if dtype is DType.BF16:
        return _pairs(target)
    if dtype is not DType.I8:
        return None
    products = target.byte_products
    if products is None or products.neighbours == 1:
        return Step(WORD, 4, 11)
    if products.neighbours == 2:
        return Step(WORD, 2, 5, masks=masks)
    if target.multiplies_in_tiles("u8"):
        return Step(WORD, 0.3, halved=False, masks=masks)
    if products.neighbours == WORD:
        return Step(WORD, expands=target.expands_bytes, masks=masks)
    return Step(WORD, 0.5, 1 if products.quads else 11)


def _pairs(target: Target) -> Step:
    """A step of two bf16. Where there are tiles, the instruction for pairs is slow."""
    if target.multiplies_in_tiles("bf16"):
        return Step(2, 0.2, 4, halved=False)
    return Step(2, narrow=False) if target.instruction("dot_bf16") else Step(2, 2, 3, narrow=False)


# How zeros are left out: in blocks of outputs x inputs, or half of a few neighbouring inputs of each output.
Half: TypeAlias = Literal["2:4", "4:8"]
Form: TypeAlias = tuple[int, int] | Half
HALVES: dict[int, Half] = {4: "2:4", 8: "4:8"}
GROUP_OF = {form: group for group, form in HALVES.items()}
# Times the speed of dense that are as good as its speed, where half is stored.
EVEN = 0.98
# Where rows may be few: the least product of what is gained with the most of them and with the worst number.
BALANCE = 0.9
# Rows above which more of them are never worse.
FEW_ROWS = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to store the matrix, and how many times faster than dense it is expected to be; and with the
    `worst` number of rows that may come; `balance` is the product of both."""

    form: Form
    gain: float
    worst: float

    @property
    def balance(self) -> float:
        return self.gain * self.worst


def candidates(
    found: Pattern, rows: int, vector: VectorUnit, step: Step = FLOATS, fewest: int | None = None
) -> tuple[Candidate, ...]:
    """The ways to leave zeros out, best first; none for a matrix that has hardly any, or no elements. There
    may be as few as `fewest` rows, `rows` if nothing is said; without any number nothing depends on them."""
    if 0 in found.shape or (found.numbers and not found.blocks):
        return ()
    blocks = found.blocks or {(1, step.group): 0}
    forms: list[Form] = [shape for shape in blocks if shape in BLOCKS_OF[step.group]]
    if found.halved and step.halved:
        forms.append(HALVES[found.halved])
    least = rows if fewest is None or not found.numbers else fewest
    made = []
    for form in forms:
        count = 0 if isinstance(form, str) else blocks[form]
        gains = [
            dense_slots(found.shape, many, vector, step)
            / _slots(form, found.shape, many, vector, count, step)
            for many in (rows, *range(least, min(rows, FEW_ROWS + 1)))
        ]
        made.append(Candidate(form, gains[0], min(gains)))
    return tuple(sorted(made, key=lambda c: -c.gain))


def _slots(
    form: Form, shape: tuple[int, int], rows: int, vector: VectorUnit, blocks: int, step: Step
) -> float:
    if isinstance(form, str):
        return halves_slots(form, shape, rows, vector, step)
    return sparse_slots(shape, rows, vector, *form, blocks, step)


def halves_slots(form: Half, shape: tuple[int, int], rows: int, vector: VectorUnit, step: Step) -> float:
    """Slots of the dense product whose weights are widened as they are read."""
    waits, times = waiting_rows(shape, step), max(1.0, rows / ROWS_AT_ONCE)
    if form != HALVES[4] or not step.expands:
        size = WORD // step.group
        read = waits * part_words(WORD, size) / (PART_ROWS // step.group * WORD)
        widened = SELECT_SLOTS[step.group][GROUP_OF[form]] / step.dense
        each = max(rows + times * widened, read)
    elif rows > HALVES_ROWS:
        each = max(rows + times * WIDEN_SLOTS, waits)
    elif shape[0] * shape[1] < FAR_BYTES:
        each = max(rows, waits) * HALVES_NEAR
    else:
        each = max(rows, waits * HALVES_FAR)
    return vectors_of(shape, vector, step) * each / DENSE_SHARE


def dense_slots(shape: tuple[int, int], rows: int, vector: VectorUnit, step: Step = FLOATS) -> float:
    """Slots of the dense product with so many rows."""
    return vectors_of(shape, vector, step) * max(rows, waiting_rows(shape, step)) / DENSE_SHARE


def vectors_of(shape: tuple[int, int], vector: VectorUnit, step: Step) -> float:
    """Slots of the dense product with each row."""
    return shape[0] / step.group * step.dense * shape[1] / vector.lanes(32)


def waiting_rows(shape: tuple[int, int], step: Step) -> int:
    """Rows below which the dense product waits for weights."""
    return MEMORY_ROWS if WORD // step.group * shape[0] * shape[1] >= MEMORY_BYTES else FEWEST_ROWS


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
    masks = step.masks and outputs == inputs // step.group == 1
    stored = (blocks * (outputs * inputs // step.group + 0.5) / shape[0] / shape[1]) * step.group
    waited = MEMORY_ROWS * vectors_of(shape, vector, step) * (stored + masks / 32)
    least = waited if waiting_rows(shape, step) == MEMORY_ROWS else 0.0
    depth, columns = -(-shape[0] // step.group), shape[1]
    inputs //= step.group
    lanes = vector.lanes(32)
    if PART < lanes >= rows:
        few = few_slots((depth, columns), rows, vector, outputs, inputs, blocks, step)
        masked = depth * columns / lanes * (MASK_SLOTS + MASK_ROW_SLOTS * rows)
        return max(least, min(few, masked) if masks else few)
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
    return max(least, tiles * tile)


def few_slots(
    shape: tuple[int, int],
    rows: int,
    vector: VectorUnit,
    outputs: int,
    inputs: int,
    blocks: int,
    step: Step,
) -> float:
    """Slots of the product that takes rows in a part of a vector; shape and inputs are in words."""
    depth, columns = shape
    windows = -(-depth // sparse_window(vector, outputs, inputs, depth)) if depth else 0
    lists = windows * -(-columns // outputs)
    whole = not step.narrow or rows > vector.lanes(32) // 2
    number = FEW_NUMBER_SLOTS + WHOLE_SLOTS * whole
    numbers = blocks * outputs * inputs * number * max(1.0, step.sparse)
    begun = blocks * FEW_BLOCK_SLOTS + lists * (FEW_LIST_SLOTS + FEW_COLUMN_SLOTS * outputs)
    return numbers + begun + ELEMENT_SLOTS * rows * (depth + columns)


def slots(
    stored: Blocks | GroupPanels | MaskedPanels,
    shape: tuple[int, int],
    rows: int,
    vector: VectorUnit,
    step: Step = FLOATS,
) -> float:
    """Slots of the product with a matrix that is stored like this."""
    if not isinstance(stored, Blocks):
        group = stored.group if isinstance(stored, GroupPanels) else 4
        return halves_slots(HALVES[group], shape, rows, vector, step)
    return sparse_slots(shape, rows, vector, stored.outputs, stored.inputs, 2 * stored.pairs, step)
