"""The arithmetic of a matrix product: how a step of K is loaded, multiplied and summed.

A step takes `group` elements of K at once, a word: one f32 or f16, two bf16, four or eight bytes. Panels
hold a word for each step and column (`Panels` for f32 and f16, `Interleaved` for others), so that places,
chunks and prefetching are the same for all, counted in words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, Memory, Register, lanes_of, vector_type
from isthmus.kernels.loops_pointwise import decode, encode
from isthmus.kernels.tir import tirx
from isthmus.target import Target


class Arithmetic(ABC):
    """One kind of product, while one kernel is written with it.

    `name` becomes part of the kernel's. `x` and `w` are the types in memory, `sums` that of accumulators;
    places are in elements. Who needs more than x and w (scales, say) declares parameters: they follow w.
    """

    name: ClassVar[str]
    x: ClassVar[str]
    w: ClassVar[str]
    sums: ClassVar[str] = "float32"
    group: ClassVar[int]
    # Bytes of a word in memory, and rows that are multiplied at once: a tile has a multiple of them.
    word_bytes: ClassVar[int] = 4
    together: ClassVar[int] = 1
    # Whether `weights` widens what lies narrower in memory; `kept` reads what was widened before.
    widened: ClassVar[bool] = False
    # Whether registers may have fewer lanes than the chip's.
    narrow: ClassVar[bool] = False
    # Whether registers are taken in groups where the chip's instructions do that.
    grouped: ClassVar[bool] = False
    # Rows fewer in a tile than fit: LLVM loads the operands of several steps early, and sums would make room.
    fewer: ClassVar[int] = 0
    # Whether bias and residual are added to finished sums; else they are what the sums start with.
    late: ClassVar[bool] = False

    def __init__(self, k: Builder) -> None:
        self.k = k

    def declare(self) -> None:  # noqa: B027 - most need none
        """Add the parameters that there are besides x and w."""

    @classmethod
    def stored(cls, words: Expr) -> Expr:
        """Elements of w that so many words of a panel take; words are a number or an expression."""
        return words if cls.group == 1 else words * cls.group

    @classmethod
    def line(cls, line_bytes: int) -> int:
        """Words in a cache line."""
        return line_bytes // cls.word_bytes

    @abstractmethod
    def weights(self, panel: Memory, place: Expr, lanes: int) -> Expr:
        """The words of `lanes` columns, named."""

    def kept(self, copy: Memory, place: Expr, lanes: int) -> Expr:
        """The same from words that were widened before."""
        return self.weights(copy, place, lanes)

    @abstractmethod
    def factor(self, row: Memory, place: Expr, lanes: int) -> Expr:
        """A word of x, for every lane, named."""

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Expr:
        """The last word of a row, of which only `count` elements are there: 0 stands for the others."""
        raise NotImplementedError

    @abstractmethod
    def add(self, register: Register, factor: Expr, weights: Expr) -> None:
        """register += factor * weights, lane by lane, over the elements of a word."""

    def rows(self, tile: Memory, place: Expr, lanes: int) -> Expr:
        """The words of `lanes` rows that lie side by side, as `add` takes them for its factor."""
        raise NotImplementedError

    def number(self, stored: Memory, place: Expr, lanes: int) -> Expr:
        """A word of weights for every row, as `add` takes it for its weights, named."""
        raise NotImplementedError

    def places(self, stored: Memory, place: Expr) -> Expr:
        """The word of 32 bits among weights that are stored without zeros: no weight, but where some are."""
        raise NotImplementedError

    def accumulate(
        self, tile: Sequence[Sequence[Register]], factors: Iterable[Expr], weights: Sequence[Expr]
    ) -> None:
        """A step of a whole tile: factors of its rows, made one after the other, weights of its vectors."""
        for row, factor in zip(tile, factors, strict=True):
            for register, weight in zip(row, weights, strict=True):
                self.add(register, factor, weight)

    def turn(self, tile: Sequence[Sequence[Register]]) -> None:
        """Where rows are multiplied together: from sums in rows to how `accumulate` keeps them, and back."""
        raise NotImplementedError

    def initial(self, column: Expr, lanes: int) -> Expr:
        """What the sums of `lanes` columns start with, where bias and residual come late."""
        raise NotImplementedError

    def value(self, total: Expr, row: Expr, column: Expr) -> Expr:
        """A finished sum as f32."""
        return total


class F32(Arithmetic):
    """One float at a time."""

    name = "f32"
    x = w = "float32"
    group = 1
    narrow = True

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Expr:
        return self.k.let("w", panel.load(place, lanes))

    def factor(self, row: Memory, place: Expr, lanes: int) -> Expr:
        return self.k.let("factor", self.k.spread(row.load(place), lanes))

    def rows(self, tile: Memory, place: Expr, lanes: int) -> Expr:
        return tile.load(place, lanes)

    def number(self, stored: Memory, place: Expr, lanes: int) -> Expr:
        return self.factor(stored, place, lanes)

    def places(self, stored: Memory, place: Expr) -> Expr:
        return self.k.bits(stored.load(place), "uint32")

    def add(self, register: Register, factor: Expr, weights: Expr) -> None:
        register.add(factor * weights)


class HalfWeights(F32):
    """f32 by f16, which is widened as it is read: the products of f32, from half of the memory."""

    name = "f16"
    w = "uint16"
    word_bytes = 2

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Expr:
        return self.k.let("w", widened(self.k, panel.load(place, lanes), DType.F16))


class _PairsOfBF16(Arithmetic):
    """Two bf16 in a word."""

    name = "bf16"
    x = w = "uint16"
    group = 2

    def rows(self, tile: Memory, place: Expr, lanes: int) -> Expr:
        return self.weights(tile, place, lanes)

    def number(self, stored: Memory, place: Expr, lanes: int) -> Expr:
        return self.factor(stored, place, lanes)

    def places(self, stored: Memory, place: Expr) -> Expr:
        k = self.k
        if k.lanes > 1 and k.target.byte_order == "little":
            return tirx.reinterpret("uint32", stored.load(place, self.group))
        low, high = (k.cast(stored.load(place + i), "uint32") for i in range(self.group))
        return tirx.bitwise_or(low, tirx.shift_left(high, k.constant(16, high)))


class DotBF16(_PairsOfBF16):
    """Two bf16 in a word, multiplied and added by one instruction, which takes subnormal numbers for 0."""

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Expr:
        return self.k.let("w", tirx.reinterpret(vector_type("int32", lanes), panel.load(place, 2 * lanes)))

    def factor(self, row: Memory, place: Expr, lanes: int) -> Expr:
        word = tirx.reinterpret("int32", row.load(place, 2))
        return self.k.let("factor", self.k.spread(word, lanes, "int32"))

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Expr:
        return self.k.let("factor", self.k.spread(self.k.cast(row.load(place), "int32"), lanes, "int32"))

    def add(self, register: Register, factor: Expr, weights: Expr) -> None:
        dtype = vector_type("float32", register.lanes)
        register.set(self.k.helper(dtype, "dot_bf16", register.value, factor, weights))


class EmulatedBF16(_PairsOfBF16):
    """Two bf16 in a word, widened to f32: as exact as f32, in half of the memory. Both sides are pairs."""

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Expr:
        if lanes == 1:
            return self._pair(panel, place, lanes)
        words = self.k.let("w", tirx.reinterpret(vector_type("uint32", lanes), panel.load(place, 2 * lanes)))
        lower = self.k.bits(tirx.shift_left(words, self.k.constant(16, words)), "float32")
        upper = self.k.bits(tirx.bitwise_and(words, self.k.constant(0xFFFF0000, words)), "float32")
        first, second = (self.k.let("half", half) for half in (lower, upper))
        return (first, second) if self.k.target.byte_order == "little" else (second, first)

    def factor(self, row: Memory, place: Expr, lanes: int) -> Expr:
        return self._pair(row, place, lanes)

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Expr:
        return (self._single(row, place, lanes),)  # and nothing is added for what is not there

    def _pair(self, memory: Memory, place: Expr, lanes: int) -> tuple[Expr, Expr]:
        return self._single(memory, place, lanes), self._single(memory, place + 1, lanes)

    def _single(self, memory: Memory, place: Expr, lanes: int) -> Expr:
        return self.k.let("half", self.k.spread(decode(self.k, memory.load(place), DType.BF16), lanes))

    def add(self, register: Register, factor: Expr, weights: Expr) -> None:
        for x, w in zip(factor, weights, strict=False):
            register.add(x * w)


def bf16_of(target: Target) -> type[Arithmetic]:
    """Products of bf16 as the target can do them."""
    return DotBF16 if target.instruction("dot_bf16") else EmulatedBF16


def widened(k: Builder, stored: Expr, dtype: DType) -> Expr:
    """f32 of bf16 or f16, whose bits are `stored`."""
    lanes = lanes_of(stored)
    if dtype is DType.F16 and lanes == k.lanes and k.target.instruction("widen_f16"):
        return k.helper(vector_type("float32", lanes), "widen_f16", stored)
    return decode(k, k.let("stored", stored), dtype)


def round_bf16(k: Builder, value: Expr) -> Expr:
    """The bits of the bf16 nearest to f32, the even one of two. An instruction may give 0 for a subnormal."""
    lanes = lanes_of(value)
    if lanes == k.lanes and k.target.instruction("round_bf16"):
        return k.bits(k.helper(vector_type("int16", lanes), "round_bf16", value), "uint16")
    return encode(k, k.let("wide", value), DType.BF16)


def rounded_pair(k: Builder, low: Expr, high: Expr) -> Expr:
    """Two vectors of f32 one after the other, as the bits of bf16."""
    lanes = k.lanes
    if k.target.instruction("round_two_bf16"):
        return k.bits(k.helper(f"int16x{2 * lanes}", "round_two_bf16", high, low), "uint16")
    return k.shuffle([round_bf16(k, low), round_bf16(k, high)], range(2 * lanes))
