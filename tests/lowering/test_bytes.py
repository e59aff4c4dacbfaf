"""Who writes the bytes of rows: what makes the rows, one kernel with their scales, or one for bytes alone."""

from __future__ import annotations

import numpy as np
import pytest

import isthmus.targets
from isthmus.chips import discover
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.lowering.lower import lower
from isthmus.ops.integer import integer_linear, quantize_rows
from isthmus.ops.movement import full
from isthmus.ops.nn import layer_norm, rms_norm
from isthmus.ops.pointwise import mul
from isthmus.ops.quantize import row_scale
from isthmus.passes import pipeline

TARGETS = discover(isthmus.targets)
CHIP = TARGETS["x86-64-v4-vnni"]  # multiplies unsigned rows
N = symbol("n")


def rows(name: str = "x") -> Value:
    return graph_input(name, TensorType(DType.F32, (N, 8)))


def weights(name: str, *shape: int) -> Value:
    return constant(name, np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32))


def product(x: Value, name: str, activation: str = "none", zero: int = 0) -> Value:
    """x, as bytes at the scales of its rows, by a matrix."""
    scale = row_scale(x)
    bytes_ = quantize_rows(x, scale, full(shape=(), value=float(zero), dtype=DType.I8))
    w = constant(name, np.random.default_rng(3).integers(-127, 128, (8, 8)).astype(np.int8))
    offset = constant(f"{name}.offset", np.zeros(8, np.int32))
    vectors = weights(f"{name}.scale", 8), weights(f"{name}.bias", 8)
    return integer_linear(bytes_, w, offset, scale, *vectors, activation=activation)


def kernels(*outputs: Value) -> list[str]:
    """The kernels that compute `outputs`, in order."""
    inputs = [rows()] if not outputs else sorted(_inputs(outputs), key=lambda v: str(v.attr("name")))
    graph = Graph("tiny", tuple(inputs), tuple((f"y{i}", value) for i, value in enumerate(outputs)))
    program = pipeline.run(Program("tiny", (graph,), (NamedDim("n"),)), CHIP)
    return [call.kernel.symbol for call in lower(program, program.main, CHIP).calls()]


def _inputs(values: tuple[Value, ...]) -> set[Value]:
    found, open_ = set(values), list(values)
    for value in open_:
        new = [arg for arg in value.args if arg not in found]
        found.update(new)
        open_.extend(new)
    return {value for value in found if value.op.name == "input"}


def test_a_norm_writes_the_bytes_of_its_rows() -> None:
    normal = layer_norm(rows(), weights("gain", 8), weights("shift", 8), epsilon=1e-5)
    assert kernels(product(normal, "w")) == ["layer_norm_f32_uint8", "gemm_i8"]
    normal = rms_norm(rows(), weights("gain", 8), epsilon=1e-5)
    assert kernels(product(normal, "w")) == ["rms_norm_f32_uint8", "gemm_i8"]


def test_other_rows_become_bytes_with_their_scales() -> None:
    assert kernels(product(rows(), "w")) == ["byte_rows_uint8", "gemm_i8"]


def test_another_zero_point_may_not_fit() -> None:
    assert kernels(product(rows(), "w", zero=5)) == ["row_scale_f32", "quantize_rows_uint8", "gemm_i8"]


def test_scales_of_other_rows_are_given() -> None:
    x, y = rows("x"), rows("y")
    scale = row_scale(y)
    bytes_ = quantize_rows(x, scale, full(shape=(), value=0.0, dtype=DType.U8))
    assert kernels(bytes_) == ["row_scale_f32", "quantize_rows_uint8"]


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_short_forms_where_only_bytes_are_made(activation: str) -> None:
    first = product(rows(), "w", activation)
    second = product(first, "v")
    assert kernels(second)[1] == f"gemm_i8_{activation}_short"
    assert kernels(second, first)[1] == f"gemm_i8_{activation}"
    # Whole numbers in, whole numbers out: what is exact stays so.
    assert kernels(product(product(rows(), "w", "relu"), "v"))[1] == "gemm_i8_relu"


def at_steps(x: Value, name: str, scale: float = 1.0, factors: Value | None = None) -> Value:
    """x, as bytes at a constant step, by a matrix."""
    one = full(shape=(), value=scale, dtype=DType.F32)
    rows_ = x if factors is None else mul(x, factors)
    bytes_ = quantize_rows(rows_, one, full(shape=(), value=-3.0, dtype=DType.I8))
    w = constant(name, np.random.default_rng(3).integers(-127, 128, (8, 8)).astype(np.int8))
    offset = constant(f"{name}.offset", np.zeros(8, np.int32))
    return integer_linear(bytes_, w, offset, one, weights(f"{name}.scale", 8), weights(f"{name}.bias", 8))


def test_known_steps_are_taken_by_whoever_makes_the_rows() -> None:
    normal = layer_norm(rows(), weights("gain", 8), weights("shift", 8), epsilon=1e-5)
    factors = weights("factors", 8)
    assert kernels(at_steps(normal, "w", 0.5)) == ["layer_norm_f32_uint8_over", "gemm_i8"]
    assert kernels(at_steps(normal, "w"), normal)[0] == "layer_norm_f32_uint8_whole"
    assert kernels(at_steps(normal, "w", 1.0, factors), normal)[0] == "layer_norm_f32_uint8_times"
    first = product(rows(), "w", "relu")
    assert kernels(at_steps(first, "v", 0.5))[1:] == ["gemm_i8_relu_uint8_over", "gemm_i8"]
    assert kernels(at_steps(first, "v", 1.0, factors))[1:] == ["gemm_i8_relu_uint8_times", "gemm_i8"]
    assert kernels(at_steps(rows(), "v", 1.0, factors)) == ["step_rows_uint8_times", "gemm_i8"]


def test_rows_that_others_read_are_written() -> None:
    first = product(rows(), "w", "relu")
    assert kernels(at_steps(first, "v", 0.5), first)[1:] == [
        "gemm_i8_relu",
        "step_rows_uint8_over",
        "gemm_i8",
    ]
    scaled = mul(first, weights("factors", 8))
    found = kernels(at_steps(scaled, "v"), scaled)
    assert found[1] == "gemm_i8_relu" and "step_rows_uint8_whole" in found


def test_a_scale_beyond_the_ordinary_is_divided_by() -> None:
    found = kernels(at_steps(rows(), "w", 2.0**-70))
    assert "quantize_rows_uint8" in found


def test_short_forms_where_steps_are_coarse() -> None:
    first = product(rows(), "w", "gelu")
    assert kernels(at_steps(first, "v", 0.01))[1] == "gemm_i8_gelu_short_uint8_over"
    assert kernels(at_steps(first, "v", 0.003))[1] == "gemm_i8_gelu_uint8_over"


def test_an_output_is_written_on_its_own() -> None:
    x = rows()
    scale = row_scale(x)
    bytes_ = quantize_rows(x, scale, full(shape=(), value=0.0, dtype=DType.I8))
    assert kernels(scale, bytes_) == ["row_scale_f32", "quantize_rows_int8"]
