"""Integer products: what is known of their elements, and that f32 gets them right to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.movement import concat, gather, pad, reshape
from isthmus.ops.nn import linear, matmul
from isthmus.ops.pointwise import add, cast, mul, sub, where
from isthmus.ops.quantize import dequantize
from isthmus.passes.legalize.quantized import interval_of, terms_in_f32
from isthmus.passes.pipeline import run
from isthmus.target import Target

B = symbol("b")


def value(name: str, dtype: DType, *shape: int) -> Value:
    return graph_input(name, TensorType(dtype, (B, *shape)))


def wide(x: Value) -> Value:
    return cast(x, dtype=DType.I32)


def program(*outputs: Value, inputs: tuple[Value, ...]) -> Program:
    named = tuple((f"y{i}", v) for i, v in enumerate(outputs))
    return Program("p", (Graph("g", inputs, named),), (NamedDim("b"),))


def test_ranges_follow_from_ops() -> None:
    bytes_, signed = value("x", DType.U8, 4), value("s", DType.I8, 4)
    shifted = sub(wide(bytes_), wide(value("z", DType.U8, 1)))
    known = wide(constant("c", np.asarray([[-3, 9, 1, 2]], np.int8)))
    flag = value("f", DType.BOOL, 1)
    cases = [
        (wide(bytes_), (0, 255)),
        (wide(signed), (-128, 127)),
        (shifted, (-255, 255)),
        (known, (-3, 9)),
        (add(wide(bytes_), known), (-3, 264)),
        (reshape(shifted, shape=(B, 2, 2)), (-255, 255)),
        (gather(known, value("i", DType.I64), axis=1), (-3, 9)),
        (concat(wide(bytes_), wide(signed), axis=0), (-128, 255)),
        (where(flag, known, wide(signed)), (-128, 127)),
        (pad(wide(bytes_), before=(0, 1), after=(0, 1), value=-7.0), (-7, 255)),
        (value("w", DType.I32, 4), (-(1 << 31), (1 << 31) - 1)),
        (cast(value("n", DType.I32, 4), dtype=DType.I8), (-128, 127)),
        (mul(wide(bytes_), wide(bytes_)), (-(1 << 31), (1 << 31) - 1)),
        # May wrap: nothing is known.
        (add(signed, signed), (-128, 127)),
    ]
    assert [interval_of(v) for v, _ in cases] == [interval for _, interval in cases]


def test_terms_that_are_exact() -> None:
    x, y = wide(value("x", DType.U8, 4)), wide(value("y", DType.I8, 4))
    assert terms_in_f32(x, y) == (1 << 24) // (255 * 128)
    assert terms_in_f32(x, value("w", DType.I32, 4)) == 0
    assert terms_in_f32(wide(constant("zeros", np.zeros((2, 2), np.int8))), x) == 1 << 24


def worst(dtype: type[np.generic], rows: int, depth: int) -> Array:
    """Rows at the limits, where the sums are largest, and random ones."""
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    array = np.random.default_rng(depth).integers(limits.min, limits.max + 1, (rows, depth)).astype(dtype)
    array[0], array[1] = limits.min, limits.max
    return array


@pytest.mark.parametrize("depth", [2, 255, 258, 259, 514, 1000, 2049])
@pytest.mark.parametrize("is_constant", [True, False])
def test_products_are_exact(depth: int, is_constant: bool, target: Target) -> None:
    x, z = value("x", DType.U8, depth), graph_input("z", TensorType(DType.U8, ()))
    numbers = np.ascontiguousarray(worst(np.uint8, 5, depth).T)
    free = graph_input("w", TensorType(DType.U8, (depth, 5)))
    w = constant("w", numbers) if is_constant else free
    zero = constant("wz", np.asarray(3, np.uint8))
    product = matmul(sub(wide(x), wide(z)), sub(wide(w), wide(zero)))
    before = program(product, inputs=(x, z) if is_constant else (x, z, free))
    after = run(before, target)
    ops = [v.op for v in after.main.nodes()]
    kernel = linear if is_constant else matmul
    assert kernel in ops and all(v.dtype is DType.F32 for v in after.main.nodes() if v.op is kernel)
    arrays: dict[str, Array] = {"x": worst(np.uint8, 4, depth), "z": np.asarray(7, np.uint8)}
    if not is_constant:
        arrays["w"] = numbers
    (wanted,), (got,) = (evaluate(p.main, arrays).values() for p in (before, after))
    np.testing.assert_array_equal(got, wanted)


def test_what_is_not_known_is_a_loop(target: Target) -> None:
    x, w = value("x", DType.I32, 40), graph_input("w", TensorType(DType.I32, (40, 3)))
    after = run(program(matmul(x, w), inputs=(x, w)), target)
    assert not {matmul, linear} & {v.op for v in after.main.nodes()}


def test_a_table_is_dequantized_row_by_row(target: Target) -> None:
    """The bundle holds bytes, not floats."""
    ids = graph_input("ids", TensorType(DType.I64, (B,)))
    table = constant("table", worst(np.int8, 400, 16))
    rows = gather(dequantize(table, constant("s", np.asarray(0.5, np.float32))), ids, axis=0)
    after = run(program(rows, inputs=(ids,)), target)
    assert [w.type.dtype for w in after.main.weights()] == [DType.I8]
