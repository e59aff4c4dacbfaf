"""Quantized numbers that are only moved stay quantized, and are not quantized again."""

from __future__ import annotations

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, named, splat, such
from isthmus.ir.types import DType
from isthmus.ops.movement import gather, reshape
from isthmus.ops.quantize import dequantize, quantize

# A table with fewer elements costs next to nothing as f32.
SMALL = 1 << 10


def _rows_have_scales(m: Match) -> str | None:
    """One scale for the table, or one for each thing that is picked."""
    table, axis = m.value("table"), m.attr("axis")
    size = table.t.size
    if isinstance(size, int) and size < SMALL:
        return ""
    for parameter in table.args[1:]:
        whole = parameter.t.size == 1
        if not whole and (parameter.t.rank != table.t.rank or parameter.shape[int(str(axis))] == 1):
            return f"scales {parameter.t} of {table.t} are not picked along axis {axis}"
    return None


def _picked_first(m: Match) -> Value:
    table, indices, axis = m.value("table"), m.value("i"), int(str(m.attr("axis")))
    picked = [gather(table.args[0], indices, axis=axis, loc=m.root.loc)]
    for parameter in table.args[1:]:
        whole = parameter.t.size == 1
        picked.append(_scalar(parameter) if whole else gather(parameter, indices, axis=axis, loc=m.root.loc))
    return dequantize(*picked, loc=m.root.loc)


def _scalar(value: Value) -> Value:
    return reshape(value, shape=()) if value.shape else value


_TABLE = {"q": "u8[300,4]", "i": "i64[b,n]", "axis": 0}


def _same_numbers(m: Match) -> str | None:
    inner, outer = m.value("inner"), m.root
    if inner.args[0].dtype is not outer.dtype or outer.attr("bits"):
        return f"{inner.args[0].dtype} becomes {outer.attr('bits') or ''}{outer.dtype}"
    if inner.args[1:] != outer.args[1:]:
        return "scale or zero point differ"
    if inner.dtype is not DType.F32:
        return f"{inner.dtype} may round to another step"
    return None


def _is_step(scale: Value) -> bool:
    """A positive number that 16 bits of steps fit into f32 with."""
    number = splat(scale)
    return number is not None and 1e-30 < number < 1e30


QUANTIZED = (
    Rule(
        "gather-of-dequantize",
        lambda q, s, i: gather(named("table", dequantize(q, s)), i, axis=Marker("axis")),
        _picked_first,
        unless=_rows_have_scales,
        examples=({**_TABLE, "s": "f32[]"}, {**_TABLE, "s": "f32[300,1]"}),
    ),
    Rule(
        "gather-of-dequantize-shifted",
        lambda q, s, z, i: gather(named("table", dequantize(q, s, z)), i, axis=Marker("axis")),
        _picked_first,
        unless=_rows_have_scales,
        examples=(
            {**_TABLE, "s": "f32[]", "z": "u8[]"},
            {**_TABLE, "s": "f32[300,1]", "z": "u8[300,1]"},
        ),
    ),
    # (q - z) * s / s is off by less than half a step.
    Rule(
        "quantize-what-was-dequantized",
        lambda q, z, s=such(_is_step): quantize(
            named("inner", dequantize(q, s, z)), s, z, dtype=Marker("dtype"), bits=Marker("bits")
        ),
        lambda q: q,
        unless=_same_numbers,
        examples=({"q": "u8[b,n]", "s": "f32[] = 0.3", "z": "u8[]", "dtype": "u8", "bits": 0},),
    ),
)
