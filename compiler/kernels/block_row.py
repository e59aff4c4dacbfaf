"""One row of f32 times weights of few bits, by instructions for products of bytes.

Each number of a chunk of the row (at most CHUNK of a block) is an integer of 24 bits times the chunk's scale,
and that integer is three digits in base 256, signed bytes: x = scale (d0 2^16 + d1 2^8 + d2). Products of
bytes sum digits times weights exactly, and what is left for floats is one step a chunk. (K. Ozaki et al.,
"Error-free transformations of matrix multiplication", 2012, has the idea of splitting.) What is lost is half
of the last of 24 bits of the largest number of the chunk, which is what sums in f32 lose.
"""

from __future__ import annotations

from isthmus.kernels.builder import Builder, Expr, Memory, Register, vector_type
from isthmus.kernels.math import magnitude_bits
from isthmus.kernels.tir import tirx
from isthmus.target import BYTES_IN_WORD, ByteProducts, Target

CHUNK = 32
DIGITS = 3
# Numbers of the row that are looked at together; chunks are multiples of it.
STEP = 8
# The largest integer whose first digit is a byte.
MOST = 127 << 16
# The bits of 2^-80 and 2^80: between them scales and their inverses are normal numbers, whatever they meet.
ORDINARY = ((127 - 80) << 23, (127 + 80) << 23)
WORD = BYTES_IN_WORD


def products_of(target: Target) -> ByteProducts | None:
    """The instruction for products of bytes that rows are multiplied with here, if the target has it."""
    declared = target.byte_products
    found = None if declared is None else declared.of_words
    return found if target.byte_order == "little" and target.vector.lanes(32) > 1 else None


def scratch_floats(target: Target, depth: int) -> int:
    """Floats of memory a thread needs for a row of `depth`; 0 where a row is not taken apart."""
    if products_of(target) is None:
        return 0
    # The digits, and for each chunk, which may be of one step, its scale and what sums start with.
    return -(-depth * DIGITS // WORD) + -(-depth // STEP) * (1 + DIGITS)


class RowOfDigits:
    """A row that is taken apart, and its products with words of weights."""

    def __init__(self, k: Builder, products: ByteProducts, scratch: Memory, depth: Expr, chunk: Expr) -> None:
        self.k, self.products, self.depth, self.chunk = k, products, depth, chunk
        chunks = self.chunks = k.let("chunks", k.divide_up(depth, chunk))
        begin = k.let("scales_begin", k.divide_up(depth * DIGITS, WORD))
        self.scales = scratch.at(begin, "scales")
        self.starts = scratch.reread("int32").at(begin + chunks, "starts")
        self.digits = scratch.reread("int8")

    def split(self, row: Memory, zero: int) -> Expr:
        """Take `row` apart; 1 where that says what it is, 0 where it holds what is no ordinary number.

        The number 0 is stored as `zero`.
        """
        k = self.k
        ordinary = k.register("ordinary", 1, 1, "int32")
        with k.loop("chunk", 0, self.chunks) as chunk:
            first = k.let("first", chunk * self.chunk)
            end = k.let("end", k.smaller(first + self.chunk, self.depth))
            largest = self._largest(row, first, end)
            inside = tirx.And(largest >= ORDINARY[0], largest <= ORDINARY[1])
            ordinary.set(k.select(tirx.Or(inside, k.equal(largest, 0)), ordinary.value, 0, "int32"))
            most = k.let("most", k.select(inside, k.bits(largest, "float32"), 1.0))
            self.scales.store(chunk, most / float(MOST))
            factor = k.spread(k.let("factor", float(MOST) / most), STEP)
            self._starts(chunk, self._digits(row, first, end, factor), zero)
        return ordinary.value

    def _largest(self, row: Memory, first: Expr, end: Expr) -> Expr:
        """The bits of the largest magnitude: as integers they have the order of floats, NaN above them."""
        k = self.k
        largest = k.register("largest", STEP, 0, "int32")
        with k.loop("step", 0, k.divide(end - first, STEP)) as step:
            largest.set(tirx.max(largest.value, magnitude_bits(k, row.load(first + step * STEP, STEP))))
        return k.reduce(largest.value, tirx.max)

    def _digits(self, row: Memory, first: Expr, end: Expr, factor: Expr) -> list[Register]:
        """Write the digits of a chunk; their sums in parts."""
        k, integers = self.k, vector_type("int32", STEP)
        sums = [k.register(f"sum{d}", STEP, 0, "int32") for d in range(DIGITS)]
        with k.loop("step", 0, k.divide(end - first, STEP)) as step:
            place = k.let("place", first + step * STEP)
            scaled = row.load(place, STEP) * factor
            whole = k.intrinsic(vector_type("float32", STEP), "llvm.roundeven", scaled)
            rest = k.let("whole", tirx.Cast(integers, whole))
            for d in reversed(range(DIGITS)):
                digit = rest
                if d:
                    top = k.constant(24, rest)
                    digit = k.let("digit", tirx.shift_right(tirx.shift_left(rest, top), top))
                sums[d].add(digit)
                self.digits.store(d * self.depth + place, k.cast(digit, "int8"))
                if d:
                    rest = k.let("rest", tirx.shift_right(rest - digit, k.constant(8, rest)))
        return sums

    def _starts(self, chunk: Expr, sums: list[Register], zero: int) -> None:
        """What sums begin with, so that weights stored above -`zero` count as what they are: sums of the
        first digit, of the others, and of all of them where those are summed as one number."""
        k = self.k
        first, second, third = (k.reduce_sum(total.value) * -zero for total in sums)
        first = k.let("first_start", first)
        rest = k.let("rest_start", tirx.shift_left(second, k.constant(8, second)) + third)
        starts = first, rest, tirx.shift_left(first, k.constant(16, first)) + rest
        for i, start in enumerate(starts):
            self.starts.store(chunk * DIGITS + i, start)

    def start(self, totals: list[list[Register]], chunk: Expr, zero: int, *, together: bool) -> None:
        """Begin the sums of a chunk, by digit."""
        first, rest, whole = (self.starts.load(chunk * DIGITS + i) if zero else 0 for i in range(DIGITS))
        for registers, start in zip(totals, (0, 0, whole) if together else (first, 0, rest), strict=True):
            start = self.k.let("start", start)
            for register in registers:
                register.set(start)

    def words(self, place: Expr, each: int) -> list[list[Expr]]:
        """The digits of the numbers from `place` on, four to a word: [digit][word], for all lanes."""
        k = self.k
        found = []
        for d in range(DIGITS):
            begin = d * self.depth + place
            words = [
                tirx.reinterpret("int32", self.digits.load(begin + i, WORD)) for i in range(0, each, WORD)
            ]
            found.append([self._bytes(k.spread(word, k.lanes)) for word in words])
        return found

    def _bytes(self, words: Expr) -> Expr:
        return self.k.let("x", tirx.reinterpret(vector_type("int8", WORD * self.k.lanes), words))

    def add(self, total: Register, digits: Expr, weights: Expr) -> None:
        """total += digits * weights, four neighbours to a sum."""
        k = self.k
        pair = (weights, digits) if self.products.unsigned else (digits, weights)
        total.set(k.intrinsic(vector_type("int32", k.lanes), self.products.intrinsic, total.value, *pair))

    def value(self, totals: list[Register], chunk: Expr, *, together: bool) -> Expr:
        """What the sums of a chunk by digit come to, in f32; `together`: they fit 31 bits (`fits`)."""
        k = self.k
        first, second, third = (total.value for total in totals)
        both = tirx.shift_left(second, k.constant(8, second)) + third
        if together:
            both = k.cast(tirx.shift_left(first, k.constant(16, first)) + both, "float32")
        else:
            both = k.cast(first, "float32") * float(1 << 16) + k.cast(both, "float32")
        return k.let("both", both) * k.spread(self.scales.load(chunk), k.lanes)


def fits(chunk: int, largest: int) -> bool:
    """Whether products of `chunk` numbers with weights of magnitudes up to `largest`, exact, are one i32."""
    return chunk * largest * MOST < 1 << 31
