"""A few rows by a matrix whose places are also bits of masks: what `sparse` does where the matrix has many
numbers, on chips that put the words of a vector where a mask says.

The matrix becomes dense again in registers, a vector of K at a time: the next words of a column are put where
the mask of these places has ones, and multiplied by the same vector of every row. So a number is read once,
in order, x as it lies, and no place is looked up; what that takes depends on the size of the matrix and not
on how many numbers it has. Four columns are read at a time, which share what is read of x. At last sums of
vectors become sums of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

from isthmus.ir.sparse import MASK, TOGETHER
from isthmus.kernels.arithmetic import Arithmetic
from isthmus.kernels.builder import Builder, Expr, Memory, Register, vector_type
from isthmus.kernels.tir import tirx

# Rows that a vector of the matrix is multiplied by while it is in a register.
ROWS = 4


@dataclass(frozen=True, slots=True)
class Places:
    """Where a stored matrix has what: masks, of which each of `columns` columns has `runs` in a window, and
    values, of which `group` elements fill a word; `first(i)` is the first pair of list i of all."""

    columns: Expr
    runs: Expr
    masks: Memory
    values: Memory
    group: int
    first: Callable[[Expr], Expr]


class Masked:
    """Sums of up to `ROWS` rows over as many columns as a vector has lanes, all windows. `tile` is memory
    for x: vector after vector of K, those of all rows side by side."""

    def __init__(self, k: Builder, arithmetic: Arithmetic, places: Places, tile: Memory) -> None:
        self.k, self.arithmetic, self.places, self.tile = k, arithmetic, places, tile
        self.size = k.lanes * places.group
        self.stage = k.stack("stage", ROWS * k.lanes * k.lanes, arithmetic.sums)

    def fill(self, rows: int, window: Expr, source: Memory, depth: Expr, pitch: Expr) -> None:
        """A window of x, `depth` elements of each row; zeros behind them."""
        k, size = self.k, self.size
        with k.loop("run", 0, self.places.runs) as run:
            left = k.let("left", depth - run * size)
            for r in range(rows):
                row = source.at(r * pitch + run * size, f"row{r}")
                to = self.tile.at(((window * self.places.runs + run) * rows + r) * size, "to")
                with k.when(left >= size):
                    to.store(0, row.load(0, size))
                with k.otherwise():
                    to.store(0, 0, size)
                    with k.loop("i", 0, left) as i:
                        to.store(i, row.load(i))

    def sums(self, rows: int, group: Expr, windows: Expr) -> list[Expr]:
        """The sums of one group of columns: a vector of columns for each row."""
        k, places = self.k, self.places
        together = k.let("together", k.divide_up(places.columns, TOGETHER))
        each = k.lanes // TOGETHER
        with k.loop("part", 0, each) as part:
            number = k.let("number", group * each + part)
            sums = k.tile("sum", TOGETHER, rows, k.lanes, self.arithmetic.sums)
            for register in chain(*sums):
                register.set(0)
            with k.when(number < together), k.loop("window", 0, windows) as window:
                starts = [self._start(window, number * TOGETHER + i) for i in range(TOGETHER + 1)]
                at = [k.register("at", 1, start, "int64") for start in starts[:-1]]
                self.ahead = k.let("ahead", starts[-1] - starts[0])
                first = k.let("first_run", window * places.runs)
                masks = k.let("masks", window * together * places.runs + number * places.runs)
                with k.loop("run", 0, places.runs) as run:
                    self._run(sums, at, (masks + run) * TOGETHER, first + run)
            for i, of_column in enumerate(sums):
                for r, register in enumerate(of_column):
                    self.stage.store((r * k.lanes + part * TOGETHER + i) * k.lanes, register.value)
        return [self._columns(r) for r in range(rows)]

    def _start(self, window: Expr, column: Expr) -> Expr:
        """The first word of a column in a window, among the values."""
        columns = self.places.columns
        first = self.places.first(window * columns + self.k.smaller(column, columns))
        return self.k.let("start", first * 2)

    def _run(self, sums: list[list[Register]], at: list[Register], masks: Expr, run: Expr) -> None:
        """The words of one mask of each column."""
        k, places, rows = self.k, self.places, len(sums[0])
        found = [k.let(f"mask{i}", places.masks.load(masks + i)) for i in range(TOGETHER)]
        # What the next columns need of this window: other windows come before, so nobody foresees it.
        places.masks.prefetch(masks + places.runs * TOGETHER)
        for place in at:
            places.values.prefetch((place.value + self.ahead) * places.group, level=2)
        x = [self._x(self.tile.load((run * rows + r) * self.size, self.size)) for r in range(rows)]
        for of_column, place, mask in zip(sums, at, found, strict=True):
            self._add(of_column, place, mask, x)

    def _x(self, loaded: Expr) -> Expr:
        """A vector of a row, as it is multiplied."""
        k = self.k
        words = k.let("x", tirx.reinterpret(vector_type("int32", k.lanes), loaded))
        return self.arithmetic.rows(Read(words, self.tile, self.arithmetic.x), 0, k.lanes)

    def _add(self, sums: list[Register], at: Register, mask: Expr, x: list[Expr]) -> None:
        """The next words of a column, times those of every row."""
        k, group, arithmetic = self.k, self.places.group, self.arithmetic
        loaded = self.places.values.load(at.value * group, self.size)
        words = tirx.reinterpret(vector_type("int32", k.lanes), loaded)
        bits = k.bits(mask, "int16")
        spread = k.helper(vector_type("int32", k.lanes), "expand_words", words, bits)
        weights = arithmetic.weights(Read(spread, self.tile, arithmetic.w), 0, k.lanes)
        at.add(k.cast(tirx.popcount(k.cast(mask, "uint32")), "int64"))
        for register, factor in zip(sums, x, strict=True):
            before = k.let("before", register.value)
            arithmetic.add(register, factor, weights)
            if arithmetic.sums == "float32":
                # What is no number must not meet a zero.
                kept = k.helper(vector_type("float32", k.lanes), "choose_words", register.value, before, bits)
                register.set(kept)

    def _columns(self, r: int) -> Expr:
        """From sums of vectors, one for each column, to a vector of columns."""
        k, size = self.k, self.k.lanes
        sums = [k.let("sums", self.stage.load((r * size + i) * size, size)) for i in range(size)]
        while size > 1:
            pairs = zip(sums[0::2], sums[1::2], strict=True)
            sums = [k.let("sums", halves(k, a, b, size)) for a, b in pairs]
            size //= 2
        return sums[0]


def tile_words(depth: int, window: int) -> int:
    """Words of x as vectors take it, of rows with `depth` words in windows of so many."""
    return ROWS * -(-depth // window) * -(-window // MASK) * MASK


def halves(k: Builder, a: Expr, b: Expr, size: int) -> Expr:
    """Parts of `size` lanes of both vectors, the halves of each added: parts of half the size."""
    low = [place for place in range(2 * k.lanes) if place % size < size // 2]
    high = [place + size // 2 for place in low]
    return k.shuffle([a, b], low) + k.shuffle([a, b], high)


class Read(Memory):
    """Words that were loaded already, as the memory that an arithmetic wants to load from."""

    def __init__(self, words: Expr, memory: Memory, dtype: str) -> None:
        super().__init__(memory.builder, memory.buffer, dtype)
        self.words = words

    def load(self, i: Expr, lanes: int = 1) -> Expr:
        return tirx.reinterpret(vector_type(self.dtype, lanes), self.words)
