"""Panels of which half of the rows are stored (`ir.sparse.GroupPanels`), made whole again in a copy.

Columns are in lanes, a word for each, so that a row's numbers are chosen by selects, whatever the chip: the
next number that is stored where the row's bit is set, and 0 elsewhere. Of a group the first half of the rows
takes numbers from the front, the other half from the back: so few of them may be meant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isthmus.ir.sparse import PART_ROWS, WORD, part_words
from isthmus.kernels.arithmetic import Arithmetic
from isthmus.kernels.builder import Builder, Expr, Memory, vector_type
from isthmus.kernels.tir import tirx


class Halved:
    """Parts of panels of `width` columns, for products by `arithmetic`; half of `group` rows is stored."""

    def __init__(self, k: Builder, arithmetic: type[Arithmetic], width: int, group: int) -> None:
        self.k, self.width, self.group = k, width, group
        self.dtype = arithmetic.w
        self.size = np.dtype(arithmetic.w).itemsize
        # Elements in a word, words in a step of the product, and steps of a part.
        self.each = WORD // self.size
        self.words = arithmetic.group // self.each
        self.steps = PART_ROWS // arithmetic.group
        self.elements = part_words(width, self.size) * self.each
        whole = k.target.byte_order == "little" and k.lanes % WORD == 0
        self.lanes = k.lanes if whole else 1

    def place(self, step: Expr) -> Expr:
        """Where the part of this step of a panel, its first, begins."""
        return self.k.divide(step, self.steps) * self.elements

    def line(self, line_bytes: int) -> int:
        """Words of a product in a cache line."""
        return line_bytes * self.steps * self.width // (self.elements * self.size)

    def line_elements(self, line_bytes: int) -> int:
        """Elements in a cache line."""
        return line_bytes // self.size

    def widen(self, panel: Memory, copy: Memory, part: Expr) -> None:
        """Steps of a part of `panel` into `copy`, as products take them."""
        k = self.k
        stored = panel.at(part * self.elements, "part")
        widened = copy.at(part * (PART_ROWS * self.width), "widened")
        with k.loop("vector", 0, self.width // self.lanes) as vector:
            column = k.let("column", vector * self.lanes)
            bits = k.let("bits", self._bits(stored, column))
            numbers = self._numbers(stored, column)
            rows: list[Expr] = []
            for begin in range(0, PART_ROWS, self.group):
                some = numbers[begin // 2 : (begin + self.group) // 2]
                absent = [self._absent(bits, begin + row) for row in range(self.group)]
                rows += self._spread(some, absent)
            self._store(widened, column, rows)

    def _bits(self, stored: Memory, column: Expr) -> Expr:
        """Which rows are there, of `lanes` columns."""
        k, each = self.k, self.size
        if self.lanes > 1:
            loaded = stored.load(k.divide(column, each), self.lanes // each)
            return k.cast(tirx.reinterpret(vector_type("uint8", self.lanes), loaded), "uint32")
        whole = k.cast(k.bits(stored.load(k.divide(column, each)), f"uint{8 * each}"), "uint32")
        return tirx.shift_right(whole, k.cast(8 * k.remainder(column, each), "uint32"))

    def _absent(self, bits: Expr, row: int) -> Expr:
        k = self.k
        return k.equal(tirx.bitwise_and(bits, k.constant(1 << row, bits)), 0)

    def _numbers(self, stored: Memory, column: Expr) -> list[Expr]:
        """What is stored of `lanes` columns, row by row: in the lowest bits of words, or elements."""
        k, first = self.k, -(-self.width // WORD) * self.each
        count, found = PART_ROWS // 2, []
        places = [first + (word * self.width + column) * self.each for word in range(count // self.each)]
        if self.lanes == 1:
            return [k.let("number", stored.load(place + i)) for place in places for i in range(self.each)]
        for place in places:
            loaded = stored.load(place, self.lanes * self.each)
            word = k.let("word", tirx.reinterpret(vector_type("uint32", self.lanes), loaded))
            for i in range(self.each):
                number = tirx.shift_right(word, k.constant(8 * self.size * i, word)) if i else word
                if i < self.each - 1:
                    number = tirx.bitwise_and(number, k.constant((1 << 8 * self.size) - 1, word))
                found.append(k.let("number", number))
        return found

    def _spread(self, numbers: Sequence[Expr], absent: Sequence[Expr]) -> list[Expr]:
        """The rows of a group."""
        half = len(numbers)
        front = self._taken(numbers, absent[:half])
        return front + self._taken(numbers[::-1], absent[: half - 1 : -1])[::-1]

    def _taken(self, numbers: Sequence[Expr], absent: Sequence[Expr]) -> list[Expr]:
        """Rows, as many as there are numbers, each the next of these or 0."""
        k, rows, left = self.k, [], list(numbers)
        for row, lacks in enumerate(absent):
            rows.append(k.let("row", k.select(lacks, k.constant(0, left[0]), left[0])))
            # Of what is left, the rows that follow look at no more than one number each.
            following = len(absent) - row - 1
            left = [k.let("left", k.select(lacks, left[i], left[i + 1])) for i in range(following)]
        return rows

    def _store(self, widened: Memory, column: Expr, rows: Sequence[Expr]) -> None:
        """Rows of `lanes` columns as steps of the product."""
        k, group = self.k, self.each * self.words
        for step in range(self.steps):
            place = (step * self.width + column) * group
            those = rows[step * group : (step + 1) * group]
            if self.lanes == 1:
                for i, row in enumerate(those):
                    widened.store(place + i, row)
                continue
            words = [self._word(those[i : i + self.each]) for i in range(0, group, self.each)]
            if self.words > 1:
                order = [word * self.lanes + lane for lane in range(self.lanes) for word in range(self.words)]
                words = [k.shuffle(words, order)]
            widened.store(place, tirx.reinterpret(vector_type(self.dtype, group * self.lanes), words[0]))

    def _word(self, rows: Sequence[Expr]) -> Expr:
        """Rows that lie together in words."""
        k = self.k
        word = rows[0]
        for i, row in enumerate(rows[1:], 1):
            word = tirx.bitwise_or(word, tirx.shift_left(row, k.constant(8 * self.size * i, row)))
        return k.let("word", word)
