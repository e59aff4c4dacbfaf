"""Products of quantized numbers: exact sums of integers, scaled once at the end."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.conv import convolved
from isthmus.frontends.onnx.operators.microsoft_attention import self_attention
from isthmus.frontends.onnx.operators.nn import product_of
from isthmus.frontends.onnx.operators.quantize import dynamically, quantized
from isthmus.frontends.onnx.operators.spatial import channels_first, channels_last
from isthmus.ir.types import DType
from isthmus.ops import pointwise


def shifted(node: Node, q: Tensor, zero: Tensor | None) -> Tensor:
    """q - zero as i32; `zero` broadcasts against `q`, or is one number."""
    wide = node.b.cast(q, DType.I32)
    if zero is None:
        return wide
    point = node.b.reshape(zero, ()) if zero.type.size == 1 else zero
    return node.b.op(pointwise.sub, wide, node.b.cast(point, DType.I32))


def integer_product(node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """The matrix product in i32; zero points for each row of `a`, for each column of `b`."""
    return product_of(node, shifted(node, a, of_rows(node, a_zero)), shifted(node, b, b_zero))


def of_rows(node: Node, parameter: Tensor | None) -> Tensor | None:
    """A parameter for each row, so that it broadcasts against a matrix."""
    if parameter is None or parameter.rank != 1 or parameter.type.size == 1:
        return parameter
    return node.b.reshape(parameter, (*parameter.shape, 1))


def in_f32(node: Node, scale: Tensor) -> Tensor:
    """A scale in f32, one number without axes."""
    return node.b.cast(node.b.reshape(scale, ()) if scale.type.size == 1 else scale, DType.F32)


def scale_of_product(node: Node, a: Tensor, b: Tensor, y: Tensor | None = None) -> Tensor:
    """a * b [/ y], in f32 and in this order, as onnxruntime has it."""
    scale = node.b.op(pointwise.mul, in_f32(node, a), in_f32(node, b))
    return scale if y is None else node.b.op(pointwise.div, scale, in_f32(node, y))


def scaled_sum(node: Node, total: Tensor, scale: Tensor) -> Tensor:
    """i32 sums as f32."""
    return node.b.op(pointwise.mul, node.b.cast(total, DType.F32), scale)


def requantized(
    node: Node, total: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType = DType.U8
) -> Tensor:
    """saturate(round(total * scale) + zero)."""
    one = node.b.number(1.0, DType.F32)
    return quantized(node, scaled_sum(node, total, scale), one, zero, zero.dtype if zero else dtype)


# --- the standard domain -------------------------------------------------------------------------


def matmul_integer(node: Node) -> Tensor:
    return integer_product(node, node[0], node[1], node.get(2), node.get(3))


def q_linear_matmul(node: Node) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (node[i] for i in range(8))
    total = integer_product(node, a, b, a_zero, b_zero)
    rows = of_rows(node, a_scale)
    assert rows is not None
    return requantized(node, total, scale_of_product(node, rows, b_scale, y_scale), y_zero)


def conv_integer(node: Node) -> Tensor:
    w = node[1]
    return convolved(
        node, shifted(node, node[0], node.get(2)), shifted(node, w, _of_kernels(node, w, node.get(3))), None
    )


def _of_kernels(node: Node, w: Tensor, parameter: Tensor | None) -> Tensor | None:
    """A parameter for each kernel [out, ...] of `w`."""
    if parameter is None or parameter.type.size == 1:
        return parameter
    return node.b.reshape(parameter, (*parameter.shape, *(1,) * (w.rank - 1)))


def q_linear_conv(node: Node) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (node[i] for i in range(8))
    last = bool(node.integer("channels_last", 0))
    x = channels_first(node, x) if last else x
    kernels = shifted(node, w, _of_kernels(node, w, w_zero))
    total = convolved(node, shifted(node, x, x_zero), kernels, node.get(8))
    scale = scale_of_product(node, x_scale, w_scale, y_scale)
    scale = node.b.reshape(scale, (*scale.shape, *(1,) * (x.rank - 2))) if scale.rank else scale
    result = requantized(node, total, scale, y_zero)
    return channels_last(node, result) if last else result


# --- com.microsoft -------------------------------------------------------------------------------


def _plus(node: Node, x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else node.b.op(pointwise.add, x, bias)


def dynamic_quantize_matmul(node: Node) -> Tensor:
    a, scale, zero = dynamically(node, node[0])
    total = integer_product(node, a, node[1], zero, node.get(3))
    return _plus(node, scaled_sum(node, total, scale_of_product(node, scale, node[2])), node.get(4))


def matmul_integer_to_float(node: Node) -> Tensor:
    rows = of_rows(node, node[2])
    assert rows is not None
    total = integer_product(node, node[0], node[1], node.get(4), node.get(5))
    return _plus(node, scaled_sum(node, total, scale_of_product(node, rows, node[3])), node.get(6))


def q_gemm(node: Node) -> Tensor:
    """alpha * (a @ b + c), c in units of a_scale * b_scale; f32 where the result has no scale."""
    a, b = shifted(node, node[0], node[2]), node[3]
    b = node.b.swap(b, 0, 1) if node.integer("transB", 0) else b
    a = node.b.swap(a, 0, 1) if node.integer("transA", 0) else a
    total = _plus(node, product_of(node, a, shifted(node, b, node[5])), node.get(6))
    y_scale, y_zero = node.get(7), node.get(8)
    alpha = node.b.number(node.number("alpha", 1.0), DType.F32)
    scale = node.b.op(pointwise.mul, scale_of_product(node, node[1], node[4]), alpha)
    if y_scale is None or y_zero is None:
        return scaled_sum(node, total, scale)
    return requantized(node, total, node.b.op(pointwise.div, scale, in_f32(node, y_scale)), y_zero)


def q_attention(node: Node) -> list[Tensor | None]:
    """Attention of a quantized input, projected by quantized weights; all else in floating point."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.integer(name, 0):
            raise node.unsupported(f"{name}=1")
    total = integer_product(node, node[0], node[1], node.get(6), node.get(7))
    projected = scaled_sum(node, total, scale_of_product(node, node[3], node[4]))
    return self_attention(node, _plus(node, projected, node[2]), node.get(5), node.get(8), None)


OPERATORS: Mapping[str, Importer] = {
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": q_linear_conv,
    "QLinearMatMul": q_linear_matmul,
    "com.microsoft::DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "com.microsoft::MatMulInteger16": matmul_integer,
    "com.microsoft::MatMulIntegerToFloat": matmul_integer_to_float,
    "com.microsoft::QAttention": q_attention,
    "com.microsoft::QGemm": q_gemm,
    "com.microsoft::QLinearConv": q_linear_conv,
}
