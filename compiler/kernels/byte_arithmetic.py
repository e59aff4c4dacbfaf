"""Products of bytes: sums in i32, exact, and what becomes of them in f32.

Rows of x are bytes, signed or not as the target's products take them, weights are i8. Each word holds four
neighbours of K, or the eight that an instruction takes at once. A target says which instruction multiplies
them (see `byte_products`), or adds products (`add_pairs`); without one, each byte is multiplied as an i32.
"""

from __future__ import annotations

from typing import Any

from isthmus.errors import CompilerBug
from isthmus.kernels.arithmetic import Arithmetic
from isthmus.kernels.builder import Builder, Expr, Memory, Register, vector_type
from isthmus.kernels.tir import tirx
from isthmus.target import BYTES_IN_WORD

GROUP = BYTES_IN_WORD


class Bytes(Arithmetic):
    """Parameters after w: `offset` (i32), what the sums of each column start with; `x_scale`, whose numbers
    are `lds` apart (0: one for all rows); `w_scale` for each column. Columns are padded to whole panels.
    """

    name = "i8"
    x = w = "int8"
    sums = "int32"
    group = GROUP
    narrow = True
    late = True

    def declare(self) -> None:
        k = self.k
        self.offset = k.input("offset", "int32")
        self.x_scale = k.input("x_scale")
        self.lds = k.size("lds")
        self.w_scale = k.input("w_scale")

    def initial(self, column: Expr, lanes: int) -> Expr:
        return self.offset.load(column, lanes)

    def value(self, total: Expr, row: Expr, column: Expr) -> Expr:
        k = self.k
        lanes = int(total.ty.dtype.lanes)
        scale = k.spread(self.x_scale.load(row * self.lds), lanes) * self.w_scale.load(column, lanes)
        # On every chip the same bits: a product that is rounded before something is added.
        return k.rounded("scaled", k.cast(total, "float32") * scale)

    def taken(self, words: Expr, lanes: int) -> Any:
        """Bytes of `lanes` words as `add` takes them for its factor."""
        raise NotImplementedError

    def rows(self, tile: Memory, place: Expr, lanes: int) -> Any:
        return self.taken(tile.load(place, GROUP * lanes), lanes)

    def places(self, stored: Memory, place: Expr) -> Expr:
        k = self.k
        if k.lanes > 1 and k.target.byte_order == "little":
            return tirx.reinterpret("uint32", stored.load(place, GROUP))
        word: Expr | None = None
        for i in range(GROUP):
            byte = k.cast(k.bits(stored.load(place + i), "uint8"), "uint32")
            part = tirx.shift_left(byte, k.constant(8 * i, byte)) if i else byte
            word = part if word is None else tirx.bitwise_or(word, part)
        return word

    def _bytes_of_rest(self, row: Memory, place: Expr, count: Expr) -> list[Expr]:
        """The bytes of the last word as integers of its size, of which `count` are there."""
        k, whole = self.k, f"int{8 * self.group}"
        found = []
        for i in range(self.group):
            byte = k.cast(row.load(place + k.smaller(count - 1, i)), whole)
            found.append(k.let(f"byte{i}", k.select(tirx.IntImm("int64", i) < count, byte, 0)))
        return found

    def _word_of_rest(self, row: Memory, place: Expr, count: Expr) -> Expr:
        """The same as a word of a chip that puts the least byte first."""
        k = self.k
        word: Expr | None = None
        for i, byte in enumerate(self._bytes_of_rest(row, place, count)):
            part = tirx.shift_left(tirx.bitwise_and(byte, k.constant(255, byte)), k.constant(8 * i, byte))
            word = part if word is None else tirx.bitwise_or(word, part)
        return word


class Single(Bytes):
    """Each byte is widened to i32 and multiplied: right on every chip."""

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        k = self.k
        if lanes == 1:
            return [k.let(f"w{i}", k.cast(panel.load(place + i), "int32")) for i in range(GROUP)]
        return self.taken(panel.load(place, GROUP * lanes), lanes)

    def taken(self, words: Expr, lanes: int) -> Any:
        k = self.k
        word = k.let("word", tirx.reinterpret(vector_type("int32", lanes), words))
        shifts = [24 - 8 * i for i in range(GROUP)]
        if k.target.byte_order == "big":
            shifts.reverse()
        top, found = k.constant(24, word), []
        for i, shift in enumerate(shifts):
            moved = tirx.shift_left(word, k.constant(shift, word)) if shift else word
            found.append(k.let(f"w{i}", tirx.shift_right(moved, top)))
        return found

    def rows(self, tile: Memory, place: Expr, lanes: int) -> Any:
        return self.weights(tile, place, lanes)

    def number(self, stored: Memory, place: Expr, lanes: int) -> Any:
        return self.factor(stored, place, lanes)

    def factor(self, row: Memory, place: Expr, lanes: int) -> Any:
        return self._spread([self.k.cast(row.load(place + i), "int32") for i in range(GROUP)], lanes)

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Any:
        return self._spread(self._bytes_of_rest(row, place, count), lanes)

    def _spread(self, numbers: list[Expr], lanes: int) -> list[Expr]:
        return [self.k.let(f"x{i}", self.k.spread(n, lanes)) for i, n in enumerate(numbers)]

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        for number, weight in zip(factor, weights, strict=True):
            register.add(number * weight)


def pairs_of(k: Builder, words: Expr, lanes: int) -> list[Expr]:
    """The lower and the upper halves of `lanes` words, as i16."""
    if k.target.byte_order == "big":
        raise CompilerBug(f"{k.symbol}: halves of words in the order of {k.target.name} are not known here")
    halves = k.let("halves", tirx.reinterpret(vector_type("int16", 2 * lanes), words))
    return [k.let("pair", k.shuffle([halves], range(i, 2 * lanes, 2))) for i in range(2)]


class Widening(Single):
    """Bytes of a vector are widened to i16, and one instruction multiplies by a number and adds in i32."""

    grouped = True
    fewer = 1

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        if lanes == 1:
            return super().weights(panel, place, lanes)
        return self.taken(panel.load(place, GROUP * lanes), lanes)

    def taken(self, words: Expr, lanes: int) -> Any:
        k = self.k
        found: list[Expr] = []
        # Not by shifts in i32 and a cast: LLVM would widen bytes to i32 then.
        for pair in pairs_of(k, words, lanes):
            eight = k.constant(8, pair)
            even = tirx.shift_right(tirx.shift_left(pair, eight), eight)
            found += [k.let("w", even), k.let("w", tirx.shift_right(pair, eight))]
        return found

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        for number, weight in zip(factor, weights, strict=True):
            register.add(self.k.cast(number, "int32") * self.k.cast(weight, "int32"))


class PairSums(Bytes):
    """Bytes give products of i16, and an instruction adds neighbours among these to a sum in i32: those of
    the first two bytes of a word, then those of the others.

    No two products are added in i16, where -128 * -128 twice is too much.
    """

    fewer = 2

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Any:
        return self.taken(panel.load(place, GROUP * lanes), lanes)

    def taken(self, words: Expr, lanes: int) -> Any:
        return [self._bytes("w", pair, lanes) for pair in pairs_of(self.k, words, lanes)]

    def number(self, stored: Memory, place: Expr, lanes: int) -> Any:
        return self.factor(stored, place, lanes)

    def factor(self, row: Memory, place: Expr, lanes: int) -> Any:
        pairs = [tirx.reinterpret("int16", row.load(place + i, 2)) for i in (0, 2)]
        return [self._bytes("x", self.k.spread(pair, lanes), lanes) for pair in pairs]

    def rest(self, row: Memory, place: Expr, count: Expr, lanes: int) -> Any:
        k = self.k
        word = k.let("word", self._word_of_rest(row, place, count))
        pairs = [k.cast(half, "int16") for half in (word, tirx.shift_right(word, k.constant(16, word)))]
        return [self._bytes("x", k.spread(pair, lanes), lanes) for pair in pairs]

    def _bytes(self, name: str, pairs: Expr, lanes: int) -> Expr:
        return self.k.let(name, tirx.reinterpret(vector_type("int8", 2 * lanes), pairs))

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        k, sums = self.k, vector_type("int32", register.lanes)
        for x, w in zip(factor, weights, strict=True):
            products = k.cast(x, "int16") * k.cast(w, "int16")
            register.set(k.helper(sums, "add_pairs", register.value, products))
