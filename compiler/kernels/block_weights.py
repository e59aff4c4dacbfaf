"""Weights of few bits as they lie in words of 4 bytes, and how they become floats or bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, Memory, vector_type
from isthmus.kernels.narrow_floats import rescaled
from isthmus.kernels.tir import tirx

WORD = 32
BYTES = WORD // 8
# Half a word, in bits.
HALF = WORD // 2
# Twice what codes of 4 bits without their sign, the highest bit, stand for.
TWICE_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True)
class Kind:
    """What weights are: signed integers of `bits`, or floats with a mantissa of `mantissa` bits and an
    exponent that is less than that of f32 by `bias`; in 4 bits those are their codes (`SmallFloats`)."""

    bits: int
    mantissa: int = 0
    bias: int = 0

    @property
    def is_integer(self) -> bool:
        return self.mantissa == 0

    @property
    def is_code(self) -> bool:
        return self.bits == 4 and self.mantissa > 0

    @property
    def largest(self) -> int:
        """The largest magnitude of what can be multiplied as bytes: of E2M1, twice what it stands for."""
        return 1 << self.bits - 1 if self.is_integer else max(TWICE_E2M1)


# By the names that symbols have.
KINDS: Mapping[str, Kind] = {
    "q4": Kind(4),
    "q8": Kind(8),
    "e2m1": Kind(4, mantissa=1),
    "e4m3": Kind(8, mantissa=3, bias=127 - 7),
    "e5m2": Kind(8, mantissa=2, bias=127 - 15),
}


# What scales are stored in, and the ending of the symbol; and how that is read.
SCALES: Mapping[DType, str] = {DType.F32: "", DType.F16: "_f16", DType.F8E8M0: "_e8m0"}
IN_MEMORY = {DType.F32: "float32", DType.F16: "int16", DType.F8E8M0: "uint8"}


def scale_of(k: Builder, scales: Memory, place: Expr, lanes: int, dtype: DType) -> Expr:
    """The scales of neighbouring columns, stored in `dtype` from `place` on, as f32."""
    stored = scales.load(place, lanes)
    if dtype is DType.F32:
        return k.let("scale", stored)
    if dtype is DType.F8E8M0:
        exponent = k.cast(stored, "int32")
        return k.let("scale", k.bits(tirx.shift_left(exponent, k.constant(23, exponent)), "float32"))
    if lanes == k.lanes > 1 and k.target.instruction("widen_f16"):
        return k.let("scale", k.helper(vector_type("float32", lanes), "widen_f16", stored))
    # Sign, exponent and mantissa where a float has them; what the exponent is short of, a product adds.
    wide = k.cast(stored, "int32")
    moved = tirx.shift_left(wide, k.constant(13, wide))
    kept = tirx.bitwise_and(moved, k.constant(-0x70002000, moved))
    return k.let("scale", k.bits(kept, "float32") * 2.0**112)


class Weights:
    """How a kernel reads words of neighbouring columns."""

    def __init__(self, k: Builder, kind: Kind) -> None:
        self.k, self.kind, self.bits, self.each = k, kind, kind.bits, WORD // kind.bits
        # Whether codes are looked up, and whether weights are, or become, bytes that can be multiplied.
        self.looks_up = kind.is_code and k.target.instruction("lookup_bytes") is not None
        self.is_bytes = kind.is_integer or self.looks_up

    def bytes(self, panel: Memory, place: Expr, zero: int, lanes: int) -> Iterator[Expr]:
        """The words of `lanes` columns from byte `place` on as bytes above `zero`, four neighbours each; one
        after the other, so that not all of them take registers."""
        k, count = self.k, BYTES * lanes
        stored = panel.load(place, count)
        words = tirx.reinterpret(vector_type("uint32", lanes), stored)
        if self.bits == 8:
            if zero:
                words = tirx.bitwise_xor(words, k.constant(0x80808080, words))
            yield k.let("w", tirx.reinterpret(vector_type("int8", count), words))
            return
        words = k.let("words", words)
        for part in (words, tirx.shift_right(words, k.constant(4, words))):
            codes = tirx.bitwise_and(part, k.constant(0x0F0F0F0F, words))
            if self.looks_up:
                yield k.let("w", self._looked_up(codes, zero))
                continue
            # A sign for each: where an instruction takes three operands, mask and sign are one.
            signed = tirx.bitwise_xor(codes, k.constant(0x08080808, words))
            yield k.let("w", tirx.reinterpret(vector_type("int8", count), signed))

    def _looked_up(self, codes: Expr, zero: int) -> Expr:
        """Twice what the bytes of words, codes of 4 bits, stand for, above `zero`, as bytes."""
        k, count = self.k, BYTES * self.k.lanes
        numbers = [zero + sign * number & 255 for sign in (1, -1) for number in TWICE_E2M1]
        halves = (bytes(numbers[:8]), bytes(numbers[8:]))
        low, high = (tirx.IntImm("int64", int.from_bytes(half, "little", signed=True)) for half in halves)
        stored = tirx.reinterpret(vector_type("int8", count), codes)
        return k.helper(vector_type("int8", count), "lookup_bytes", low, high, stored)

    def numbers(self, panel: Memory, place: Expr) -> list[Expr]:
        """The numbers in the words of neighbouring columns from byte `place` on, as f32."""
        k, lanes = self.k, self.k.lanes
        if lanes == 1:
            found, ups = self._single(panel, place)
        else:
            stored = panel.load(place, BYTES * lanes)
            words = k.let("words", tirx.reinterpret(vector_type("int32", lanes), stored))
            if self.looks_up:
                return self._numbers_of_codes(words)
            found = [words] * self.each
            ups = [WORD - self.bits - place for place in self.places()]
        return [self._number(self._up(number, up)) for number, up in zip(found, ups, strict=True)]

    def integers(self, panel: Memory, place: Expr) -> list[Expr]:
        """The integers in the word of one column from byte `place` on, one by one, as i32."""
        down = WORD - self.bits
        tops = (self._up(byte, up) for byte, up in zip(*self._single(panel, place), strict=True))
        return [self.k.let("w", self._down(top, down)) for top in tops]

    def _single(self, panel: Memory, place: Expr) -> tuple[list[Expr], list[int]]:
        """The bytes of a word as i32, for each of its numbers, and by how much each of these is to go up."""
        found = [self.k.let("byte", self.k.cast(panel.load(place + i), "int32")) for i in range(BYTES)]
        ups = [WORD - self.bits * (i // BYTES + 1) for i in range(self.each)]
        return found * (self.each // BYTES), ups

    def raised(self, panel: Memory, place: Expr) -> list[Expr]:
        """The same of floats of 8 bits, less by the factor 2^bias, which leaves them where their bits are."""
        k, kind = self.k, self.kind
        words = k.let(
            "words", tirx.reinterpret(vector_type("int32", k.lanes), panel.load(place, BYTES * k.lanes))
        )
        # The upper half of a float holds all of it: two of them are made at once.
        odd = tirx.reinterpret(vector_type("int16", 2 * k.lanes), words)
        mask = tirx.const((1 << 15 | 0x7F << 7 - kind.mantissa) - (1 << 16), "int16")
        found: dict[int, Expr] = {}
        for at, halves in ((0, self._up(odd, 8)), (8, odd)):
            halves = tirx.bitwise_and(self._down(halves, 1 + kind.mantissa), k.spread(mask, 2 * k.lanes))
            both = k.let("both", tirx.reinterpret(words.ty, halves))
            found[at] = k.bits(self._up(both, HALF), "float32")
            upper = tirx.bitwise_and(both, k.constant(-1 << HALF, both))
            found[at + HALF] = k.bits(upper, "float32")
        return [found[place] for place in self.places()]

    def _numbers_of_codes(self, words: Expr) -> list[Expr]:
        k = self.k
        mask = k.constant(0x0F0F0F0F, words)
        codes = [tirx.bitwise_and(part, mask) for part in (words, self._down(words, 4))]
        parts = [k.let("part", tirx.reinterpret(words.ty, self._looked_up(part, 0))) for part in codes]
        tops = (self._up(parts[p % 8 // 4], WORD - 8 - p // 8 * 8) for p in self.places())
        return [k.cast(self._down(top, WORD - 8), "float32") for top in tops]

    def _number(self, top: Expr) -> Expr:
        """What the highest bits of an i32 stand for, as f32."""
        k, kind = self.k, self.kind
        if kind.bias:
            # Exponent and mantissa go where f32 has them, and the sign stays where it is.
            spread = k.bits(self._down(top, 1 + kind.mantissa), "uint32")
            mask = 1 << WORD - 1 | 0x7F << 23 - kind.mantissa
            return rescaled(k, tirx.bitwise_and(spread, k.constant(mask, spread)), kind.bias)
        # Down again, which spreads the sign.
        number = self._down(top, WORD - self.bits)
        return k.cast(number if kind.is_integer else self._of_code(number), "float32")

    def _of_code(self, code: Expr) -> Expr:
        """Twice the float of 4 bits that `code`, as i32 with its sign spread, stands for.

        To the lower bits 0..7 comes what 0, 1, 2, 3, 4, 6, 8 and 12 have more: 1, 2 and 5 for the last three.
        """
        k = self.k

        def constant(number: int) -> Expr:
            return k.constant(number, code)

        code = k.let("code", code)
        sign = k.let("sign", tirx.shift_right(code, constant(31)))
        size = k.let("size", tirx.bitwise_and(code, constant(7)))
        large = tirx.shift_right(size, constant(2)) * constant(3)
        more = k.let("more", tirx.bitwise_and(size, large))
        both = tirx.bitwise_and(more, tirx.shift_right(more, constant(1)))
        number = k.let("number", size + more + both + both)
        return tirx.bitwise_xor(number, sign) - sign

    def _up(self, number: Expr, bits: int) -> Expr:
        return tirx.shift_left(number, self.k.constant(bits, number)) if bits else number

    def _down(self, number: Expr, bits: int) -> Expr:
        return tirx.shift_right(number, self.k.constant(bits, number))

    def places(self) -> list[int]:
        """Where in a word its numbers begin, in bits."""
        places = [8 * (i % BYTES) + self.bits * (i // BYTES) for i in range(self.each)]
        if self.k.target.byte_order == "big":
            places = [24 - p // 8 * 8 + p % 8 for p in places]
        return places
