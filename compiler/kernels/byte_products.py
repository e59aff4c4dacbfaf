"""Products of bytes by the instruction that a target declares for them, and which way a target has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr, Memory, Register, vector_type
from isthmus.kernels.byte_arithmetic import GROUP, Bytes, PairSums, Single, Widening
from isthmus.kernels.tir import tirx
from isthmus.target import ByteProducts, Target

# Of a word of which half of the bytes are stored, and a mask; of an even number of them they are whole bytes.
HALF_BITS = 8 * GROUP // 2 + GROUP


class _Words(Bytes):
    """What is multiplied by an instruction of the target: words stay together in vectors."""

    def __init__(self, k: Builder) -> None:
        super().__init__(k)
        products = k.target.byte_products
        if products is None or k.target.byte_order == "big":
            raise CompilerBug(f"{k.target.name} declares no products of bytes that are known here")
        self.products: ByteProducts = products

    def _word(self, row: Memory, place: Expr) -> Expr:
        return tirx.reinterpret("int32", row.load(place, GROUP))

    def factor(self, row: Memory, place: Expr, lanes: int) -> Any:
        return self._everywhere(self._word(row, place), lanes)

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Any:
        return self._everywhere(self._word_of_rest(row, place, count), lanes)

    def _everywhere(self, word: Expr, lanes: int) -> Any:
        raise NotImplementedError


class Quads(_Words):
    """One instruction multiplies four neighbours and adds all of them to a sum."""

    def __init__(self, k: Builder) -> None:
        super().__init__(k)
        self.products = self.products.of_words or self.products

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        return self.k.let("w", panel.load(place, GROUP * lanes))

    def taken(self, words: Expr, lanes: int) -> Any:
        return self.k.let("x", tirx.reinterpret(vector_type("int8", GROUP * lanes), words))

    def number(self, stored: Memory, place: Expr, lanes: int) -> Any:
        return self.factor(stored, place, lanes)

    def _everywhere(self, word: Expr, lanes: int) -> Any:
        k = self.k
        return k.let("x", tirx.reinterpret(vector_type("int8", GROUP * lanes), k.spread(word, lanes)))

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        k, sums = self.k, vector_type("int32", register.lanes)
        name = self.products.of_lanes(register.lanes)
        register.set(k.intrinsic(sums, name, register.value, factor, weights))


class Squares(_Words):
    """One instruction multiplies eight neighbours of two rows by those of two columns: four sums of eight.

    A pair of rows has its sums in as many registers as otherwise, but each holds two columns of both rows.
    A row without a partner is multiplied twice, and the second sums are dropped.
    """

    group = 8
    word_bytes = 8
    together = 2

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        size = self.group * lanes // 2
        return [self.k.let("w", panel.load(place + half * size, size)) for half in range(2)]

    def factor(self, row: Memory, place: Expr, lanes: int) -> Any:
        return self.k.let("row", row.load(place, self.group))

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Any:
        word = self.k.let("word", self._word_of_rest(row, place, count))
        return tirx.reinterpret(vector_type("int8", self.group), word)

    def accumulate(
        self, tile: Sequence[Sequence[Register]], factors: Iterable[Expr], weights: Sequence[Any]
    ) -> None:
        k, words = self.k, iter(factors)
        for upper, lower in zip(tile[::2], tile[1::2], strict=True):
            first = next(words)
            both = k.let("x", k.shuffle([first, next(words, first)], range(2 * self.group)))
            for left, right, halves in zip(upper, lower, weights, strict=True):
                self.add(left, both, halves[0])
                self.add(right, both, halves[1])

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        k, sums = self.k, vector_type("int32", register.lanes)
        register.set(k.intrinsic(sums, self.products.intrinsic, register.value, factor, weights))

    def turn(self, tile: Sequence[Sequence[Register]]) -> None:
        k = self.k
        for upper, lower in zip(tile[::2], tile[1::2], strict=True):
            for one, other in zip(upper, lower, strict=True):
                a, b = k.let("a", one.value), k.let("b", other.value)
                one.set(k.shuffle([a, b], (0, 1, 4, 5)))
                other.set(k.shuffle([a, b], (2, 3, 6, 7)))


class UnsignedQuads(Quads):
    """The same, of unsigned rows."""

    x = "uint8"


class HalfOfQuads(UnsignedQuads):
    """The same, of weights of which two of four are stored (`MaskedPanels`), put in their places by an
    instruction."""

    name = "i8_nm"
    widened = True

    @classmethod
    def stored(cls, words: Expr) -> Expr:
        return words * HALF_BITS // 8

    @classmethod
    def line(cls, line_bytes: int) -> int:
        return line_bytes * 8 // HALF_BITS // 2 * 2

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        k, taken = self.k, GROUP * lanes // 8
        mask = tirx.reinterpret(f"int{8 * taken}", panel.load(place, taken))
        values = panel.load(place + taken, GROUP * lanes // 2)
        return k.let("w", k.helper(vector_type("int8", GROUP * lanes), "expand_bytes", values, mask))

    def kept(self, copy: Memory, place: Expr, lanes: int) -> Any:
        return super().weights(copy, place, lanes)


class Pairs(_Words):
    """One instruction multiplies neighbours of 16 bits and adds the two: of even bytes, and of odd ones.

    Unsigned rows less than 256 times weights of 8 bits: nothing saturates.
    """

    x = "uint8"

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        return self._signed(panel.load(place, GROUP * lanes), lanes)

    def taken(self, words: Expr, lanes: int) -> Any:
        return self._unsigned(words, lanes)

    def number(self, stored: Memory, place: Expr, lanes: int) -> Any:
        return self._signed(self.k.spread(self._word(stored, place), lanes), lanes)

    def _signed(self, words: Expr, lanes: int) -> tuple[Expr, Expr]:
        k = self.k
        pairs = k.let("pairs", self._pairs(words, lanes))
        eight = k.constant(8, pairs)
        even = tirx.shift_right(tirx.shift_left(pairs, eight), eight)
        return k.let("even", even), k.let("odd", tirx.shift_right(pairs, eight))

    def _everywhere(self, word: Expr, lanes: int) -> Any:
        return self._unsigned(self.k.spread(word, lanes), lanes)

    def _unsigned(self, words: Expr, lanes: int) -> tuple[Expr, Expr]:
        k = self.k
        pairs = k.let("x", self._pairs(words, lanes))
        even = k.let("x_even", tirx.bitwise_and(pairs, k.constant(255, pairs)))
        unsigned = tirx.reinterpret(vector_type("uint16", 2 * lanes), pairs)
        odd = k.bits(tirx.shift_right(unsigned, k.constant(8, unsigned)), "int16")
        return even, k.let("x_odd", odd)

    def _pairs(self, words: Expr, lanes: int) -> Expr:
        return tirx.reinterpret(vector_type("int16", 2 * lanes), words)

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        k, sums = self.k, vector_type("int32", register.lanes)
        for x, w in zip(factor, weights, strict=True):
            register.add(k.intrinsic(sums, self.products.of_lanes(register.lanes), x, w))


class NarrowPairs(Quads):
    """An instruction multiplies bytes and adds two neighbours in 16 bits, another one two such sums and then
    to a sum: of unsigned numbers so small that nothing saturates, 4 bits, and signed ones."""

    x = "uint8"

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        k, halves = self.k, vector_type("int16", 2 * register.lanes)
        pairs = k.let("pairs", k.helper(halves, "multiply_bytes", factor, weights))
        name = self.products.of_lanes(register.lanes)
        sums = vector_type("int32", register.lanes)
        register.add(k.intrinsic(sums, name, pairs, k.constant(1, pairs)))


def arithmetic_of(target: Target) -> type[Bytes]:
    """How `target` multiplies bytes in panels."""
    products = target.byte_products
    return Squares if products is not None and products.neighbours == 8 else words_of(target)


def words_of(target: Target) -> type[Bytes]:
    """How `target` multiplies single words of four bytes."""
    products = target.byte_products
    if products is None:
        return PairSums if target.instruction("add_pairs") else Single
    if products.neighbours <= 2:
        return Pairs if products.neighbours == 2 else Widening
    words = products.of_words
    if words is None:
        return Single
    return UnsignedQuads if words.unsigned else Quads


def nibbles_of(target: Target) -> type[Bytes]:
    """How `target` multiplies words of four numbers from 0 to 15 by others."""
    words = words_of(target)
    return NarrowPairs if words is Pairs and target.instruction("multiply_bytes") else words
