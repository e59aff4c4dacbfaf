"""One row, or a few, by a matrix of few numbers: what `sparse` does where a product has no more rows.

A vector holds numbers here, not rows, so that each number is read once, in order, with as many as fit. The
words of x that the numbers of a group of columns meet are written one after the other first (`spread`): as
the matrix has them, so that what follows are products of vectors. Lists end anywhere: all those of a group
are taken for as many vectors as the longest has, and what is beyond the end of the others counts nothing. So
branches of a group go one way, where a loop over each list to its end would end otherwise than foreseen every
other time. At last sums of vectors become sums of columns.

With several rows, the words of all rows for a number are neighbours, and each number is repeated for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise

from isthmus.kernels.arithmetic import Arithmetic
from isthmus.kernels.builder import Builder, Expr, Memory, Register, lanes_of, vector_type
from isthmus.kernels.tir import tirx
from isthmus.target import BYTES_IN_WORD, VectorUnit

# Rows that may share a vector, and the most rows by columns of a block, where that was measured to be faster
# than a vector of rows; with four rows it was not.
FEW, MOST = (1, 2), 8
# Elements of memory ahead of the values in use that are fetched.
AHEAD = 2048


def few_rows(vector: VectorUnit, outputs: int) -> tuple[int, ...]:
    """Numbers of rows that there is a form for: a vector has their sums of all columns of a block."""
    lanes = vector.lanes(32)
    return tuple(rows for rows in FEW if lanes > 1 and rows * outputs <= min(lanes, MOST))


@dataclass(frozen=True, slots=True)
class Matrix:
    """Where the stored words of a matrix lie: `word(i)` is the i-th number of `lists` of its lists.

    A block has `outputs` columns of `inputs` words; `group` elements of memory fill a word.
    """

    outputs: int
    inputs: int
    group: int
    places: Memory
    values: Memory
    word: Callable[[Expr], Expr]
    lists: Expr

    @property
    def each(self) -> int:
        """Words of a pair of blocks."""
        return 2 * self.outputs * self.inputs


class Rows:
    """The sums of `rows` rows over the columns of one group, window by window.

    `tile` is memory for a window of x, [word][row]; `spread` for the words that numbers meet.
    """

    def __init__(
        self, k: Builder, arithmetic: Arithmetic, matrix: Matrix, rows: int, tile: Memory, spread: Memory
    ) -> None:
        self.k, self.arithmetic, self.matrix, self.rows = k, arithmetic, matrix, rows
        self.tile, self.spread = tile.reread("int32"), spread.reread("int32").at(spread.offset)
        self.each = k.lanes // rows  # numbers of a vector
        self.floats = arithmetic.sums == "float32"
        self.stage = k.stack("stage", k.lanes * (k.lanes // matrix.outputs), arithmetic.sums)

    def fill(self, source: Memory, depth: Expr, count: Expr, pitch: Expr, end: Expr) -> None:
        """The tile: words of `depth` elements of each row of `source`; zeros up to word `end`, and for rows
        beyond `count`."""
        k, rows, group = self.k, self.rows, self.matrix.group
        whole = k.let("whole_words", depth if group == 1 else k.divide(depth, group))
        with k.loop("pad", whole, end) as pad:
            self.tile.store(pad * rows, 0, rows)
        for r in range(rows):
            row = source.at(r * pitch, f"row{r}")
            with k.when(count > r):
                if rows == 1:
                    k.vectorized("kk", whole, partial(self._copy, row))
                else:
                    with k.loop("kk", 0, whole) as kk:
                        self.tile.store(kk * rows + r, self._words(row, kk, 1))
                if group > 1:
                    self._rest(row, whole, depth, r)
            with k.otherwise(), k.loop("kk", 0, whole) as kk:
                self.tile.store(kk * rows + r, 0)

    def _copy(self, row: Memory, kk: Expr, lanes: int) -> None:
        self.tile.store(kk, self._words(row, kk, lanes))

    def _words(self, row: Memory, kk: Expr, lanes: int) -> Expr:
        loaded = row.load(kk * self.matrix.group, lanes * self.matrix.group)
        return tirx.reinterpret(vector_type("int32", lanes), loaded)

    def _rest(self, row: Memory, whole: Expr, depth: Expr, r: int) -> None:
        """The elements of a word that is not whole."""
        k, group = self.k, self.matrix.group
        elements = self.tile.reread(self.arithmetic.x)
        with k.loop("byte", whole * group, depth) as byte:
            to = (whole * self.rows + r) * group + byte - whole * group
            elements.store(to, row.load(byte))

    def sums(self, first: Expr, last: Expr, before: Expr) -> list[Expr]:
        """The sums of lists [first, last) of the window whose first list is `before`: vectors of columns, one
        for each row."""
        k, matrix = self.k, self.matrix
        begin, end = (k.let("pair", matrix.word(before + at)) for at in (first, last))
        self._spread(begin, end)
        count = k.lanes // matrix.outputs
        chunks = k.let("chunks", k.divide_up(self._longest(before + first, before + last, count), self.each))
        with k.loop("list", 0, count) as i:
            at = k.let("at", k.smaller(first + i, last))
            start = k.let("start", self._place(before + at))
            stop = k.let("stop", self._place(before + k.smaller(at + 1, last)))
            register = k.register("sum", k.lanes, 0, self.arithmetic.sums)
            with k.loop("chunk", 0, chunks) as chunk:
                self._add(register, start + chunk * self.each, stop, begin * matrix.each, end * matrix.each)
            self.stage.store(i * k.lanes, register.value)
        return self._by_row([k.let("sums", self.stage.load(i * k.lanes, k.lanes)) for i in range(count)])

    def _place(self, number: Expr) -> Expr:
        """The first number of a list, of those of the matrix."""
        return self.matrix.word(number) * self.matrix.each

    def _longest(self, first: Expr, last: Expr, count: int) -> Expr:
        """Numbers of the longest of `count` lists, or of those before `last`."""
        k = self.k
        ends = [k.let("end", self._place(k.smaller(first + i, last))) for i in range(count + 1)]
        return reduce(k.larger, [stop - start for start, stop in pairwise(ends)])

    def _add(self, register: Register, at: Expr, stop: Expr, begin: Expr, end: Expr) -> None:
        """register += the products of a vector of numbers, of which those from `stop` on are not its own."""
        k, group, lanes = self.k, self.matrix.group, self.k.lanes
        place = k.let("at", k.smaller(at, end))
        left = k.let("left", k.cast((stop - place) * self.rows, "int32"))
        own = k.lane_numbers(lanes) < k.spread(left, lanes)
        loaded = self.matrix.values.load(place * group, self.each * group)
        words = tirx.reinterpret(vector_type("int32", self.each), loaded)
        if self.rows > 1:
            named = k.let("words", words)
            numbers = [lane // self.rows for lane in range(lanes)]
            words = k.spread(named, lanes) if self.each == 1 else k.shuffle([named] * self.rows, numbers)
        x: Expr = self.spread.load((place - begin) * self.rows, lanes)
        words = k.select(own, words, 0)
        if self.floats:  # What is no number must not meet a zero.
            x = k.select(own, x, 0)
        arithmetic = self.arithmetic
        factor = arithmetic.rows(_Read(x, self.tile, arithmetic.x), 0, lanes)
        weights = arithmetic.weights(_Read(words, self.tile, arithmetic.w), 0, lanes)
        arithmetic.add(register, factor, weights)

    def _spread(self, begin: Expr, end: Expr) -> None:
        """The words of x for pairs [begin, end), as their values lie."""
        k = self.k
        size = self.matrix.each * self.matrix.group
        with k.loop("pair", 0, end - begin) as pair:
            # Also keeps compilers from gathering by vectors, which is slower than one load after the other.
            self.matrix.values.prefetch((begin + pair) * size + AHEAD)
            self._spread_pair(begin, pair)

    def _spread_pair(self, begin: Expr, pair: Expr) -> None:
        k, matrix = self.k, self.matrix
        found = k.let("places", self.arithmetic.places(matrix.places, (begin + pair) * matrix.group))
        both = k.bits(found, "uint32")
        low = tirx.bitwise_and(both, k.constant(0xFFFF, both))
        high = tirx.shift_right(both, k.constant(16, both))
        for i, place in enumerate((low, high)):
            source = k.let("source", k.cast(place, "int64") * (matrix.inputs * self.rows))
            to = k.let("to", (pair * matrix.each + i * matrix.each // 2) * self.rows)
            if matrix.outputs == 1:
                size = matrix.inputs * self.rows
                self.spread.store(to, self.tile.load(source, size))
                continue
            for c in range(matrix.inputs):
                line = self.tile.load(source + c * self.rows, self.rows)
                repeated = self._repeated(line)
                self.spread.store(to + c * matrix.outputs * self.rows, repeated)

    def _repeated(self, line: Expr) -> Expr:
        """A word of each row, for every column of a block."""
        k, size = self.k, self.rows * self.matrix.outputs
        if self.rows == 1:
            return k.spread(line, size)
        return k.shuffle([k.let("line", line)] * self.matrix.outputs, range(size))

    def _by_row(self, sums: list[Expr]) -> list[Expr]:
        """From the sums of lists, one vector each, to those of columns, one vector for each row."""
        k, lanes = self.k, self.k.lanes
        period = self.matrix.outputs * self.rows
        # Each vector consists of `parts` parts, one for each list; halves of them are added.
        size = lanes
        while size > period:
            pairs = zip(sums[0::2], sums[1::2], strict=True)
            sums = [k.let("sums", self._halves(a, b, size)) for a, b in pairs]
            size //= 2
        if self.rows == 1:
            return sums
        order = [
            column // self.matrix.outputs * period + column % self.matrix.outputs * self.rows
            for column in range(lanes)
        ]
        return [k.let("row_sums", k.shuffle(sums, [place + r for place in order])) for r in range(self.rows)]

    def _halves(self, a: Expr, b: Expr, size: int) -> Expr:
        """Parts of `size` lanes of both vectors, the halves of each added: parts of half the size."""
        lanes = lanes_of(a)
        low = [place for place in range(2 * lanes) if place % size < size // 2]
        high = [place + size // 2 for place in low]
        return self.k.shuffle([a, b], low) + self.k.shuffle([a, b], high)


class _Read(Memory):
    """Words that were loaded already, as the memory that an arithmetic wants to load from."""

    def __init__(self, words: Expr, memory: Memory, dtype: str) -> None:
        super().__init__(memory.builder, memory.buffer, dtype)
        self.words = words

    def load(self, i: Expr, lanes: int = 1) -> Expr:
        return tirx.reinterpret(vector_type(self.dtype, lanes), self.words)


def spread_words(vector: VectorUnit, outputs: int, words: int) -> int:
    """Words that numbers of a group of columns meet at most, of a window of so many words and a block."""
    rows = max(few_rows(vector, outputs), default=0)
    return rows * max(vector.lanes(32), outputs) * words + BYTES_IN_WORD * vector.lanes(32)
