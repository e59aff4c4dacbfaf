"""Cases of single ops: each on its examples, at infinities and NaN, and every integer type at its edges."""

from __future__ import annotations

from collections.abc import Iterator

from isthmus.ir.graph import Op, Trait, Value
from isthmus.ir.read import parse_type
from isthmus.ir.types import DType
from isthmus.ops import OPS, integer, lines, movement, nn, pointwise, quantize, reduce
from isthmus.tools.conformance.cases import Case, Maker
from isthmus.tools.conformance.examples import EXAMPLES, Example

_GROUPS = {
    "pointwise ops": pointwise.ALL,
    "movement ops": movement.ALL,
    "reductions and scans": reduce.ALL,
    "orders and scatters": lines.ALL,
    "heavy ops": nn.ALL,
    "quantized ops": (*quantize.ALL, *integer.ALL),
}
_INTEGERS = tuple(d for d in DType if d.is_integer)
# Where NaN and infinities have to come out as in NumPy.
_SPECIAL_MORE = {"reduce_max", "reduce_min", "argmax", "argmin", "softmax", "top_k", "row_scale"}
# Which arguments of an op have to be constants for any kernel to take them.
_CONSTANTS = {
    "linear": (1, 2),
    "integer_linear": (1, 2, 4, 5),
    "block_linear": (1, 2, 3),
    "integer_block_linear": (1, 2, 4),
}


def op_cases() -> Iterator[Case]:
    """Every op that is declared, on its examples; but for the ragged ones, whose integers have to fit each
    other: their cases are among those of the kernels."""
    for group, ops in _GROUPS.items():
        for op in ops:
            for example in EXAMPLES[op.name]:
                yield _example(group, op, example)


def special_cases() -> Iterator[Case]:
    """Ops of floats on infinities, NaN and both zeros."""
    for op in OPS.values():
        if Trait.POINTWISE not in op.traits and op.name not in _SPECIAL_MORE:
            continue
        for example in EXAMPLES[op.name]:
            # Casting what is no number to an integer is undefined.
            if "f32[b,n" in example[0] and op.name != "cast":
                yield _example("infinities and NaN", op, example, special=True)
                break


def _example(group: str, op: Op, example: Example, special: bool = False) -> Case:
    types, attrs, _ = example
    shown = ", ".join(types.split())
    options = "".join(f" {name}={_text(value)}" for name, value in attrs.items())
    maker = Maker(group, f"{op.name}({shown}){options}{' special' if special else ''}")
    args = [
        _constant(maker, text) if i in _CONSTANTS.get(op.name, ()) else _argument(maker, text, special)
        for i, text in enumerate(types.split())
    ]
    value = op(*args, loc="", **attrs)
    # 16-bit types round once per op, which is what their tolerance is about.
    exact = value.dtype not in (DType.F16, DType.BF16) and all(a.dtype.bits != 16 for a in args)
    return maker.case(value, op.tolerance if exact else None)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _argument(maker: Maker, text: str, special: bool) -> Value:
    if parse_type(text).dtype.is_float:
        return maker.floats(text, 0.2, 2.0, special)
    return maker.integers(text, 0, 2)


def _constant(maker: Maker, text: str) -> Value:
    found = parse_type(text)
    wide = maker.weight(*found.static_shape)
    return wide if found.dtype is DType.F32 else pointwise.cast(wide, dtype=found.dtype)


def integer_cases() -> Iterator[Case]:
    """Every integer type over all its values: arithmetic wraps, division truncates, sums wrap."""
    for dtype in _INTEGERS:
        signed = not str(dtype).startswith("u")
        whole = f"{dtype}[b,n,4]"
        for op in (pointwise.add, pointwise.sub, pointwise.mul, pointwise.minimum, pointwise.maximum):
            yield _integer(op, whole, None)
        for op in (pointwise.less, pointwise.equal, pointwise.bit_and, pointwise.bit_or, pointwise.bit_xor):
            yield _integer(op, whole, None)
        for op in (pointwise.div, pointwise.mod):
            yield _integer(op, whole, (1, 17))
        for op in (pointwise.shift_left, pointwise.shift_right):
            yield _integer(op, whole, (0, dtype.bits - 1))
        for op in (pointwise.absolute, pointwise.sign, *((pointwise.neg,) if signed else ())):
            maker = _maker(f"{op.name}({whole})")
            yield maker.case(op(maker.integers(whole)))
        yield from _casts(dtype, whole)
        for op in (reduce.reduce_sum, reduce.reduce_prod, reduce.reduce_max, reduce.reduce_min):
            maker = _maker(f"{op.name}({whole})")
            yield maker.case(op(maker.integers(whole), axes=(1,)))
        maker = _maker(f"cumsum({whole})")
        yield maker.case(reduce.cumsum(maker.integers(whole), axis=1))
        maker = _maker(f"matmul({dtype})")
        yield maker.case(nn.matmul(maker.integers(f"{dtype}[n,7]"), maker.integers(f"{dtype}[7,3]")))


def _maker(name: str) -> Maker:
    return Maker("integers at their edges", f"{name} full")


def _integer(op: Op, whole: str, right: tuple[int, int] | None) -> Case:
    maker = _maker(f"{op.name}({whole})")
    other = maker.integers(whole) if right is None else maker.integers(whole, *right)
    return maker.case(op(maker.integers(whole), other))


def _casts(dtype: DType, whole: str) -> Iterator[Case]:
    for to in (*_INTEGERS, DType.F32, DType.BOOL):
        if to is not dtype:
            maker = _maker(f"cast({whole} to {to})")
            yield maker.case(pointwise.cast(maker.integers(whole), dtype=to))
