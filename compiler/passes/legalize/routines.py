"""Integer products: as a routine of the target takes them, else as exact products in f32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.ir.dims import product
from isthmus.ir.graph import Program, Value
from isthmus.ir.rewrite import Match, Rule, Watch
from isthmus.ir.types import DType
from isthmus.ops.movement import reshape
from isthmus.ops.nn import matmul
from isthmus.ops.pointwise import cast, mul, sub
from isthmus.ops.quantize import integer_matmul, limits
from isthmus.ops.reduce import reduce_sum
from isthmus.passes.constants import name_of, weight_from
from isthmus.passes.legalize.quantized import PRODUCTS, interval_of, is_constant_expression
from isthmus.passes.steps import exhaust
from isthmus.target import Target

_BYTES = (DType.U8, DType.I8)


def _wide(m: Match) -> Value:
    a, b = (cast(arg, dtype=DType.I32) for arg in m.root.args)
    return matmul(a, b, loc=m.root.loc)


WIDE = Rule(
    "say-integer-matmul",
    lambda a, b: integer_matmul(a, b),
    _wide,
    examples=({"a": "u8[b,6]", "b": "i8[6,s]"},),
)


@dataclass(frozen=True, slots=True)
class IntegerProducts:
    """Products of integers, said in what there are kernels for."""

    @property
    def name(self) -> str:
        return "integer-products"

    @property
    def rules(self) -> Sequence[Rule]:
        return (WIDE, *PRODUCTS)

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        rules = (*routine_rules(target), *PRODUCTS)
        return program.map_graphs(lambda graph: exhaust(graph, rules, watch, self.name))


def routine_rules(target: Target) -> tuple[Rule, ...]:
    """What makes products of bytes `integer_matmul` where `target` has a routine for it."""

    def taken(a: Value, b: Value) -> tuple[DType, DType] | None:
        """The bytes in which the target multiplies `a` by the matrix `b`."""
        if b.t.rank != 2:
            return None
        pairs = ((x, y) for x in _BYTES for y in _BYTES if _fits(a, x) and _fits(b, y))
        return next((p for p in pairs if target.routine("integer_matmul", list(map(str, p)), "i32")), None)

    def not_taken(m: Match) -> str | None:
        ours = m.root.dtype is DType.I32 and taken(m.value("a"), m.value("b")) is not None
        return None if ours else ""

    def narrow(m: Match) -> Value:
        a, b = m.value("a"), m.value("b")
        pair = taken(a, b)
        assert pair is not None
        rows = reshape(_bytes(a, pair[0]), shape=(product(a.shape[:-1]), a.shape[-1]))
        return reshape(integer_matmul(rows, _bytes(b, pair[1]), loc=m.root.loc), shape=m.root.shape)

    def not_apart(m: Match) -> str | None:
        zero = m.value("z")
        one_a_row = zero.t.rank == 0 or zero.shape[-1] == 1
        ours = m.root.dtype is DType.I32 and one_a_row and taken(m.value("a"), m.value("b")) is not None
        # What a zero point stretches to more rows is not a product of these rows.
        return None if ours and m.value("a").shape == m.root.args[0].shape else ""

    def claimed(m: Match) -> str | None:
        a, b = m.root.args
        known = target.routine("integer_matmul", [str(a.dtype), str(b.dtype)], "i32")
        return "" if known is not None else None

    return (
        Rule("routine-product", lambda a, b: matmul(a, b), narrow, not_taken),
        Rule(
            "routine-product-shifted",
            lambda a, z, b: matmul(sub(a, z), b),
            lambda a, z, b: sub(matmul(a, b), mul(z, reduce_sum(b, axes=(0,)))),
            not_apart,
        ),
        Rule(WIDE.name, WIDE.find, WIDE.make, claimed),
    )


def _fits(value: Value, dtype: DType) -> bool:
    low, high = interval_of(value)
    least, most = limits(dtype)
    return least <= low and high <= most


def _widens(inner: DType, outer: DType) -> bool:
    (a, b), (c, d) = limits(inner), limits(outer)
    return inner.is_integer and c <= a and b <= d


def _bytes(value: Value, dtype: DType) -> Value:
    """`value`, whose numbers `dtype` can hold, in it."""
    if is_constant_expression(value):
        return weight_from(cast(value, dtype=dtype), name_of(value))
    while value.op is cast and _widens(value.args[0].dtype, value.dtype):
        (value,) = value.args
    return value if value.dtype is dtype else cast(value, dtype=dtype)
