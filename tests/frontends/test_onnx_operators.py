"""Every importer against onnxruntime: one line for each operator and way of using it.

Inputs are written `f32[b,s,8]` (b, s and t are symbolic); arrays are constants of the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.frontends.onnx.operators import (
    OPERATORS,
    conv,
    deform_conv,
    determinant,
    grid_sample,
    pool,
    quantize,
    quantized_products,
    refused,
    regions,
    resize,
    sequences,
    spatial_norm,
    spectral,
)


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18
    sizes: tuple[dict[str, int], ...] = ()

    def __str__(self) -> str:
        shown = ",".join(a if isinstance(a, str) else "-" if a is None else "const" for a in self.inputs)
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items() if not hasattr(v, "dims"))
        return f"{self.op}-{self.opset}({shown})({attrs})"


def c(op: str, *inputs: Any, outputs: int = 1, opset: int = 18, sizes: Any = (), **attrs: Any) -> Case:
    return Case(op, inputs, attrs, outputs, opset, tuple(sizes))


def i(*values: int) -> Any:
    return np.array(values, np.int64)


def n32(value: int) -> Any:
    return np.array(value, np.int32)


def f(value: float) -> Any:
    return np.array(value, np.float32)


X = "f32[b,s,8]"
RNG = np.random.default_rng(1)
W = RNG.standard_normal((8, 6)).astype(np.float32)
V8 = RNG.standard_normal(8).astype(np.float32)
IMAGE = "f32[b,4,6,6]"
UNARY = "Abs Ceil Celu Cos Elu Erf Exp Floor HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Mish Neg"
UNARY += " Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Tanh ThresholdedRelu"

U8 = np.array([1, 2, 7], np.uint8)[:, None, None]
UNIT = np.linspace(-0.99, 0.99, 23, dtype=np.float32)
GATES = RNG.standard_normal((2, 20, 3)).astype(np.float32)
RECURRENT = RNG.standard_normal((2, 20, 5)).astype(np.float32)
BIASES = RNG.standard_normal((2, 40)).astype(np.float32)

CASES = [
    *(c(op, X, opset=20) for op in UNARY.split()),
    c("Neg", "i64[b,s]"),
    c("Abs", "i32[b,s]"),
    c("Sign", "i64[b,s]"),
    c("Relu", "i32[b]"),
    c("Celu", X, alpha=2.0),
    c("Elu", X, alpha=0.3),
    c("LeakyRelu", X, alpha=0.2),
    c("Shrink", X, bias=0.1, lambd=0.3),
    c("HardSigmoid", X, alpha=0.3, beta=0.4),
    c("Selu", X, alpha=2.0, gamma=1.5),
    c("ThresholdedRelu", X, alpha=0.2),
    c("PRelu", X, V8),
    c("Gelu", X, opset=20),
    c("Gelu", X, opset=20, approximate="tanh"),
    c("IsInf", X, opset=20, detect_negative=0),
    c("IsInf", X, opset=20, detect_positive=0),
    c("Sqrt", np.abs(V8)),
    c("Log", np.abs(V8)),
    c("Sqrt", X),
    c("Log", X),
    c("Swish", X, opset=24, alpha=0.7),
    c("Swish", X, opset=24),
    # two arguments
    c("Add", X, "f32[s,8]"),
    c("Add", X, V8),
    c("Sub", "f32[b,1,8]", "f32[s,1]"),
    c("Mul", X, "f32[]"),
    c("Div", X, X),
    c("Div", "i64[b,s]", i(4)),
    c("Div", "i64[b,s]", i(-3)),
    c("Sub", "i32[b,s]", "i32[s]"),
    c("Mod", "i64[b,s]", i(4)),
    c("Mod", "i64[b,s]", i(-4)),
    c("Mod", "i64[b,s]", i(4), fmod=1),
    c("Mod", X, f(0.7), fmod=1),
    c("Pow", X, f(2)),
    c("Pow", X, f(3)),
    c("Pow", np.abs(V8), "f32[b,8]"),
    c("Pow", "i64[b,s]", i(2)),
    c("Pow", X, i(2)),
    *(
        c(op, X, "f32[s,8]")
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Min", "Max", "Sum", "Mean")
    ),
    c("Max", X, V8, "f32[b,1,1]"),
    c("Sum", X),
    c("Min", "i64[b,s]", "i64[s]"),
    c("Equal", "i64[b,s]", "i64[s]"),
    *(c(op, "bool[b,s]", "bool[s]") for op in ("And", "Or", "Xor")),
    c("Not", "bool[b,s]"),
    c("Equal", "bool[b,s]", "bool[s]"),
    c("Where", "bool[b,s,1]", X, V8),
    c("Where", "bool[b,s,8]", f(0), X),
    c("Where", "bool[s]", "i64[b,1]", i(7)),
    c("Clip", X, f(-0.5), f(0.5)),
    c("Clip", X, None, f(0.1)),
    c("Clip", X, "f32[]"),
    c("Clip", X, opset=10, min=-0.2, max=0.3),
    c("Clip", "i64[b,s]", i(0).reshape(()), i(5).reshape(())),
    *(c("Cast", "f32[b,s]", to=to) for to in (1, 6, 7, 9, 11)),
    c("Cast", "bool[b,s]", to=1),
    c("Cast", "i64[b,s]", to=9),
    c("Cast", "i64[b,s]", to=1),
    c("CastLike", "i64[b,s]", "f32[1]", opset=19),
    c("Dropout", X),
    c("Dropout", X, outputs=2),
    # movement
    c("Reshape", X, i(0, 0, 2, 4)),
    c("Reshape", X, i(0, -1)),
    c("Reshape", X, i(-1, 8)),
    c("Reshape", X, i(-1)),
    c("Reshape", X, i(0, -1, 2, 2, 2)),
    c("Reshape", "f32[b,0]", i(0, 4, 0), allowzero=1, sizes=[{"b": 2}]),
    c("Flatten", X),
    c("Flatten", X, axis=0),
    c("Flatten", X, axis=-1),
    c("Flatten", X, axis=3),
    c("Squeeze", "f32[b,1,s,1]", i(1, -1)),
    c("Squeeze", "f32[1,2,1]"),
    c("Squeeze", "f32[b,1]", opset=11, axes=[1]),
    c("Unsqueeze", X, i(0, -1)),
    c("Unsqueeze", X, i(1, 3)),
    c("Unsqueeze", X, opset=11, axes=[1]),
    c("Transpose", X),
    c("Transpose", X, perm=[0, 2, 1]),
    c("Transpose", X, perm=[2, 0, 1]),
    c("Expand", "f32[b,1,8]", i(1, 4, 1)),
    c("Expand", "f32[8]", i(3, 2, 1)),
    c("Expand", "f32[s,1]", i(2, 1, 3)),
    c("Slice", X, i(0), i(4), i(2)),
    c("Slice", X, i(-3), i(2**63 - 1), i(2)),
    c("Slice", X, i(1, 0), i(-1, 9), i(2, 1), i(2, 3)),
    c("Slice", X, i(-1), i(-(2**63)), i(1), i(-1)),
    c("Slice", X, i(-1), i(-(2**63)), i(2), i(-3)),
    c("Slice", X, i(0), i(-1), i(1)),
    c("Slice", X, i(2), i(3), i(1)),
    c("Slice", X, i(-2), i(-1), i(1)),
    c("Slice", X, i(7), i(2), i(2), i(-2)),
    c("Slice", X, opset=9, starts=[1], ends=[3], axes=[2]),
    c("Slice", X, i(5), i(2), i(2)),
    c("Split", X, outputs=2, axis=2, num_outputs=2),
    c("Split", X, i(3, 5), outputs=2, axis=-1),
    c("Split", X, outputs=4, axis=2, opset=13),
    c("Split", "f32[b,7]", outputs=3, axis=1, num_outputs=3),
    c("Split", X, outputs=2, axis=2, opset=11, split=[2, 6]),
    c("Concat", X, "f32[b,t,8]", axis=1),
    c("Concat", X, X, X, axis=-1),
    c("Concat", X, axis=0),
    c("Concat", "i64[b]", i(1, 2), axis=0),
    c("Tile", X, i(1, 2, 3)),
    c("Tile", X, i(2, 1, 1)),
    c("Tile", "f32[s]", i(4)),
    c("Pad", X, i(0, 1, 2, 0, 0, 3)),
    c("Pad", X, i(0, 1, 2, 0, 0, 3), f(1.5)),
    c("Pad", X, i(0, 0, -1, 0, 0, -2)),
    c("Pad", X, i(2, 3), None, i(2)),
    c("Pad", X, i(0, 0, 2, 0, 0, 3), mode="reflect"),
    c("Pad", X, i(0, 0, 2, 0, 2, 3), mode="edge"),
    c("Pad", X, i(0, 0, 2, 0, 0, 3), opset=19, mode="wrap"),
    c("Pad", X, opset=10, pads=[0, 0, 1, 0, 0, 1], value=2.0),
    c("Pad", "i64[b,s]", i(0, 1, 0, 1), i(7).reshape(())),
    c("Trilu", "f32[b,s,s]"),
    c("Trilu", "f32[s,t]", upper=0),
    c("Trilu", "f32[s,8]", i(1).reshape(()), upper=1),
    c("Trilu", "bool[s,s]", i(-1).reshape(()), upper=0),
    c("Trilu", "i64[s,s]", "i64[]<3"),
    c("EyeLike", "f32[s,t]", k=1),
    c("EyeLike", "f32[s,t]", dtype=7),
    c("DepthToSpace", "f32[b,8,s,3]", blocksize=2),
    c("DepthToSpace", "f32[b,8,s,3]", blocksize=2, mode="CRD"),
    c("SpaceToDepth", "f32[b,3,4,6]", blocksize=2),
    # indices
    c("Gather", W, "i64[b,s]<8"),
    c("Gather", W, "i32[b,s]", sizes=[{"b": 0, "s": 3}]),
    c("Gather", X, i(1), axis=2),
    c("Gather", X, i(-1).reshape(()), axis=1),
    c("Gather", X, i(0).reshape(()), axis=1),
    c("Gather", X, i(2, 4, 6), axis=2),
    c("Gather", X, i(3, 1, 5), axis=-1),
    c("Gather", W, i(-1, -2)),
    c("Gather", W, i(5, 3, 1), axis=0),
    c("Gather", W, "i64[b,1,s]<6", axis=1),
    c("Gather", X, i(4, 4, 4), axis=2),
    c("GatherElements", W, "i64[s,6]<8", axis=0),
    c("GatherElements", X, "i64[b,s,3]<8", axis=2),
    c("GatherElements", X, "i64[b,s,3]", axis=-1, sizes=[{"b": 1, "s": 0}]),
    c("GatherND", W, "i64[b,s,2]<6"),
    c("GatherND", W, "i64[b,1]<8"),
    c("GatherND", "f32[b,9,4]", "i64[b,s,1]<9", batch_dims=1),
    # reductions
    *(
        c(op, X, i(-1))
        for op in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
    ),
    *(c(op, X, i(1, 2), keepdims=0) for op in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare")),
    c("ReduceSum", X),
    c("ReduceSum", X, keepdims=0),
    c("ReduceSum", X, noop_with_empty_axes=1),
    c("ReduceMean", X, opset=13, axes=[1]),
    c("ReduceSum", X, opset=11, axes=[1], keepdims=0),
    c("ReduceSum", "i64[b,s]", i(1)),
    c("ReduceMax", "i64[b,s]", i(0)),
    c("ReduceProd", "i32[b,s]", i(1)),
    c("ReduceMax", "bool[b,s]", i(1), opset=20),
    c("ReduceMin", "bool[b,s]", i(1), opset=20),
    c("ReduceLogSum", np.abs(W), i(1)),
    c("ArgMax", X, axis=2),
    c("ArgMax", X, axis=-1, keepdims=0),
    c("ArgMin", X, axis=1),
    c("ArgMax", "i64[b,s]", axis=0, select_last_index=1),
    c("ArgMin", "i64[b,s]", axis=1, select_last_index=1, keepdims=0),
    c("CumSum", X, i(1).reshape(())),
    c("CumSum", "i64[b,s]", i(1).reshape(()), exclusive=1),
    c("CumSum", X, i(-1).reshape(()), reverse=1),
    c("CumSum", X, i(-1).reshape(()), reverse=1, exclusive=1),
    # products and normalisation
    c("MatMul", X, W),
    c("MatMul", X, "f32[b,8,t]"),
    c("MatMul", "f32[b,2,s,8]", "f32[2,8,t]"),
    c("MatMul", "f32[8]", W),
    c("MatMul", X, V8),
    c("MatMul", V8, "f32[8]"),
    c("MatMul", "f32[8]", "f32[b,8,3]"),
    c("Gemm", "f32[b,8]", W),
    c("Gemm", "f32[b,8]", W.T.copy(), "f32[6]", transB=1),
    c("Gemm", "f32[8,b]", W, "f32[b,1]", transA=1, alpha=0.5, beta=2.0),
    c("Softmax", X),
    c("Softmax", X, axis=1),
    c("Softmax", X, axis=0),
    c("Softmax", X, opset=11),
    c("Softmax", X, opset=11, axis=2),
    c("LogSoftmax", X),
    c("LogSoftmax", X, axis=1),
    c("LogSoftmax", X, opset=11, axis=1),
    c("Hardmax", X),
    c("Hardmax", X, axis=1),
    c("Hardmax", X, opset=11),
    c("LayerNormalization", X, V8, V8),
    c("LayerNormalization", X, V8),
    c("LayerNormalization", X, V8, V8, epsilon=0.1),
    c("LayerNormalization", "f32[b,s,2,8]", W.reshape(6, 8)[:2].copy(), axis=2),
    c("LayerNormalization", "f32[b,3,8]", V8.reshape(1, 8), axis=1),
    c("LayerNormalization", X, V8, V8, outputs=3),
    c("RMSNormalization", X, V8, opset=23),
    c("RMSNormalization", X, V8, opset=23, epsilon=0.1),
    c("LpNormalization", X, axis=1),
    c("LpNormalization", X, p=1),
    c("BatchNormalization", IMAGE, V8[:4].copy(), V8[4:].copy(), V8[:4].copy(), np.abs(V8[4:])),
    c("InstanceNormalization", IMAGE, V8[:4].copy(), V8[4:].copy()),
    c("GroupNormalization", IMAGE, V8[:4].copy(), V8[4:].copy(), num_groups=2, opset=21),
    c("GroupNormalization", IMAGE, V8[:2].copy(), V8[4:6].copy(), num_groups=2, opset=18),
    # sizes
    c("Shape", X),
    c("Shape", X, start=1),
    c("Shape", X, start=-2, end=-1),
    c("Size", X),
    c("ConstantOfShape", i(2, 3)),
    c("ConstantOfShape", i(), value=helper.make_tensor("v", 7, [1], [5])),
    c("Range", i(0).reshape(()), i(9).reshape(()), i(2).reshape(())),
    c("Range", f(1), f(2), f(0.3)),
    c("Range", i(5).reshape(()), i(0).reshape(()), i(-2).reshape(())),
    # einsum
    *(
        c("Einsum", X, "f32[b,t,8]", equation=e)
        for e in (
            "bij,bkj->bik",
            "bij,bkj->bki",
            "bij,bkj",
            "bij,bkl->bjl",
            "...ij,...kj->...ik",
            "bij,bkj->ijk",
        )
    ),
    c("Einsum", X, equation="bij->bji"),
    c("Einsum", X, equation="bij->j"),
    c("Einsum", X, W, equation="bij,jk->bik"),
    c("Einsum", X, V8, equation="bij,j->bij"),
    c("Einsum", "f32[b,s]", "f32[t]", equation="bs,t->bst"),
    c("Einsum", "f32[b,s]", "f32[s,8]", "f32[8,t]", equation="bs,sd,dt->bt"),
    # attention
    *(
        c("Attention", q, k, k, opset=23, **a)
        for q, k in (("f32[b,4,s,8]", "f32[b,4,t,8]"), ("f32[b,4,s,8]", "f32[b,2,t,8]"))
        for a in ({}, {"scale": 0.2}, {"softcap": 1.5})
    ),
    c("Attention", X, X, X, opset=23, q_num_heads=2, kv_num_heads=2),
    c("Attention", X, "f32[b,t,4]", "f32[b,t,6]", opset=23, q_num_heads=4, kv_num_heads=2),
    c("Attention", "f32[b,4,s,8]", "f32[b,4,s,8]", "f32[b,4,s,8]", opset=23, is_causal=1),
    c("Attention", "f32[b,4,s,8]", "f32[b,4,t,8]", "f32[b,4,t,8]", "f32[b,1,s,t]", opset=23),
    c("Attention", "f32[b,4,s,8]", "f32[b,4,t,8]", "f32[b,4,t,8]", "f32[s,t]", opset=23),
    c("Attention", "f32[b,4,s,8]", "f32[b,4,t,8]", "f32[b,4,t,8]", "bool[b,1,s,t]", opset=23),
    c(
        "Attention",
        "f32[b,4,s,8]",
        "f32[b,4,t,8]",
        "f32[b,4,t,8]",
        None,
        "f32[b,4,s,8]",
        "f32[b,4,s,8]",
        opset=23,
        outputs=3,
    ),
    c("RotaryEmbedding", "f32[b,4,s,8]", "f32[b,s,4]", "f32[b,s,4]", opset=23),
    c("RotaryEmbedding", "f32[b,4,s,8]", "f32[b,s,4]", "f32[b,s,4]", opset=23, interleaved=1),
    c("RotaryEmbedding", "f32[b,s,16]", "f32[20,4]", "f32[20,4]", "i64[b,s]<20", opset=23, num_heads=2),
    c(
        "RotaryEmbedding",
        "f32[b,4,s,8]",
        "f32[20,2]",
        "f32[20,2]",
        "i64[b,s]<20",
        opset=23,
        rotary_embedding_dim=4,
    ),
    # bits
    c("BitShift", "u8[b,s]", U8, direction="LEFT"),
    c("BitShift", "u8[b,s]", U8, direction="RIGHT"),
    *(c(op, "i64[b,s]", "i64[s]") for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    c("BitwiseNot", "i32[b,s]"),
    c("BitwiseNot", "u8[b,s]"),
    # trigonometry
    *(c(op, X, opset=20) for op in ("Asinh", "Atan", "Cosh", "Sinh", "Tan")),
    *(c(op, UNIT) for op in ("Acos", "Asin", "Atanh")),
    c("Acosh", np.abs(V8) + f(1)),
    # writing to computed places
    c("ScatterElements", X, "i64[b,s,3]<8", "f32[b,s,3]", axis=2),
    c("ScatterElements", W, i(3, 1, 2).reshape(3, 1), "f32[3,1]", axis=0),
    *(
        c("ScatterElements", X, i(1, -1, 1, 7).reshape(1, 1, 4), "f32[1,1,4]", axis=2, reduction=kind)
        for kind in ("add", "mul", "max", "min")
    ),
    c("Scatter", X, i(1, 5, 7).reshape(1, 1, 3), "f32[1,1,3]", axis=2, opset=10),
    c("ScatterND", W, i(3, 1, 3).reshape(3, 1), "f32[3,6]"),
    c("ScatterND", "f32[8,s]", i(3, -1).reshape(2, 1), "f32[2,s]"),
    *(
        c("ScatterND", W, i(3, 1, 3).reshape(3, 1), "f32[3,6]", reduction=kind)
        for kind in ("add", "mul", "max", "min")
    ),
    c("ScatterND", W, i(3, 1, 0, 5).reshape(2, 2), "f32[2]"),
    c("MaxUnpool", "f32[1,1,2,2]", i(5, 7, 13, 15).reshape(1, 1, 2, 2), kernel_shape=[2, 2], strides=[2, 2]),
    # choosing
    c("TopK", X, i(3), outputs=2),
    c("TopK", X, i(8), outputs=2, largest=0),
    c("TopK", "i64[7,b]", i(2), outputs=2, axis=0),
    c("OneHot", "i64[b,s]", i(4), np.array([0, 1], np.float32)),
    c("OneHot", "i64[b,s]", i(12), np.array([-1, 3], np.int64), axis=1),
    c("Compress", X, np.array([True, False, True, True]), axis=2),
    c("Compress", W, np.array([False, True, True])),
    c("NonZero", np.array([[1, 0, 2], [0, 0, 3]], np.int64)),
    c("ReverseSequence", "f32[5,2,3]", i(4, 2)),
    c("ReverseSequence", "f32[2,5,3]", i(4, 2), batch_axis=0, time_axis=1),
    c("Col2Im", "f32[b,8,6]", i(4, 3), i(2, 2)),
    c("Col2Im", "f32[b,12,9]", i(5, 5), i(2, 3), pads=[1, 0, 1, 2], strides=[2, 1], dilations=[2, 2]),
    *(
        c(
            "TfIdfVectorizer",
            "i32[2,6]<7",
            mode=mode,
            min_gram_length=1,
            max_gram_length=2,
            max_skip_count=1,
            ngram_counts=[0, 2],
            ngram_indexes=[0, 3, 1, 2],
            pool_int64s=[2, 3, 4, 5, 2, 2],
            weights=[1.0, 2.0, 0.5, 3.0],
        )
        for mode in ("TF", "IDF", "TFIDF")
    ),
    c("Einsum", "f32[b,5,5]", equation="bii->bi"),
    c("Einsum", "f32[5,5,5]", equation="iii->"),
    c("MelWeightMatrix", n32(8), n32(16), n32(8192), f(0), f(4096)),
    c("MelWeightMatrix", n32(20), n32(512), n32(16000), f(80), f(7600)),
    # recurrent layers
    *(
        c(
            op,
            "f32[4,b,3]",
            GATES[:, : 5 * n],
            RECURRENT[:, : 5 * n],
            BIASES[:, : 10 * n],
            outputs=outputs,
            hidden_size=5,
            direction="bidirectional",
        )
        for op, n, outputs in (("RNN", 1, 2), ("GRU", 3, 2), ("LSTM", 4, 3))
    ),
    c("LSTM", "f32[4,b,3]", GATES[:1], RECURRENT[:1, :20], outputs=3, hidden_size=5),
    c(
        "GRU",
        "f32[4,2,3]",
        GATES[:1, :15],
        RECURRENT[:1, :15],
        BIASES[:1, :30],
        np.array([4, 2], np.int32),
        outputs=2,
        hidden_size=5,
        linear_before_reset=1,
        direction="reverse",
    ),
]

# By ONNX's node tests: onnxruntime does not have them, or they take graphs.
BY_NODE_TESTS = {
    "BitCast",
    "CumProd",
    "Loop",
    "OptionalGetElement",
    "OptionalHasElement",
    "Scan",
    "TensorScatter",
    "ai.onnx.preview.training::Adagrad",
    "ai.onnx.preview.training::Adam",
    "ai.onnx.preview.training::Momentum",
}

# Tested in other files; operators of com.microsoft all are.
MORE = (deform_conv, determinant, refused, regions)
GROUPS = (conv, grid_sample, pool, quantize, quantized_products, resize, sequences, spatial_norm, spectral)
ALONE = {"Constant", "If", "SimplifiedLayerNormalization", "Unique"}
ELSEWHERE = {*ALONE, *(op for g in (*GROUPS, *MORE) for op in g.OPERATORS)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    names = [f"x{n}" for n in range(len(case.inputs))]
    given = dict(zip(names, case.inputs, strict=True))
    inputs = {n: spec for n, spec in given.items() if isinstance(spec, str)}
    constants = {n: a for n, a in given.items() if isinstance(a, np.ndarray)}
    outputs = [f"y{n}" for n in range(case.outputs)]
    node_inputs = ["" if a is None else n for n, a in given.items()]
    node = helper.make_node(case.op, node_inputs, outputs, name="node", **case.attrs)
    model = tools.make_model([node], inputs, outputs, constants, case.opset)
    sizes = {"sizes": case.sizes} if case.sizes else {}
    tools.check_model(model, inputs, tmp_path, **sizes)


def test_every_importer_is_tested() -> None:
    tested = {case.op for case in CASES} | ELSEWHERE | BY_NODE_TESTS
    assert not {op for op in OPERATORS if not op.startswith("com.microsoft::")} - tested
