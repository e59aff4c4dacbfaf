"""Every op on arguments of all kinds: what the tests of the ops and the conformance kit use."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from isthmus.ir.dims import Dim
from isthmus.ir.graph import Attr
from isthmus.ir.read import parse_dim
from isthmus.ir.types import DType

SIZES = {"b": 2, "n": 5, "m": 3}


def dims(text: str) -> tuple[Dim, ...]:
    return tuple(parse_dim(part) for part in text.split())


# op -> (argument types, attributes, result type). Integer arguments hold 0, 1, 2.
Example: TypeAlias = tuple[str, dict[str, Attr], str]
UNARY: list[Example] = [
    ("f32[b,n]", {}, "f32[b,n]"),
    ("f16[3]", {}, "f16[3]"),
    ("f64[]", {}, "f64[]"),
    ("bf16[2,0]", {}, "bf16[2,0]"),
]
NUMERIC: list[Example] = [*UNARY, ("i64[n]", {}, "i64[n]"), ("u8[4]", {}, "u8[4]")]
BINARY: list[Example] = [
    ("f32[b,n,4] f32[b,n,4]", {}, "f32[b,n,4]"),
    ("f32[b,n,1] f32[n,4]", {}, "f32[b,n,4]"),
    ("f32[] f32[b]", {}, "f32[b]"),
    ("f16[2,1] f16[1,3]", {}, "f16[2,3]"),
    ("bf16[2] bf16[2]", {}, "bf16[2]"),
    ("i64[n] i64[]", {}, "i64[n]"),
    ("i32[0,3] i32[3]", {}, "i32[0,3]"),
]
COMPARISON: list[Example] = [(args, {}, f"bool{result[result.index('[') :]}") for args, _, result in BINARY]
LOGICAL: list[Example] = [("bool[b,n] bool[n]", {}, "bool[b,n]"), ("bool[] bool[]", {}, "bool[]")]
REDUCTION: list[Example] = [
    ("f32[b,n,4]", {"axes": (1,)}, "f32[b,1,4]"),
    ("f32[b,n,4]", {"axes": (0, 1, 2)}, "f32[1,1,1]"),
    ("f32[b,n]", {"axes": ()}, "f32[b,n]"),
    ("f16[3,4]", {"axes": (1,)}, "f16[3,1]"),
    ("bf16[3,4]", {"axes": (0,)}, "bf16[1,4]"),
    ("i32[3,4]", {"axes": (0, 1)}, "i32[1,1]"),
    ("i64[n]", {"axes": (0,)}, "i64[1]"),
]
ARG: list[Example] = [
    ("f32[b,n]", {"axis": 1}, "i64[b,1]"),
    ("f32[b,n]", {"axis": 0, "last": True}, "i64[1,n]"),
    ("i32[4]", {"axis": 0}, "i64[1]"),
]


def same(names: list[str], examples: list[Example]) -> dict[str, list[Example]]:
    return dict.fromkeys(names, examples)


ELEMENTARY = [
    *("exp", "log", "sqrt", "reciprocal", "sin", "cos", "floor", "ceil", "round"),
    *("erf", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu"),
]


EXAMPLES: dict[str, list[Example]] = {
    **same(ELEMENTARY, UNARY),
    **same(["neg", "abs", "sign", "relu"], NUMERIC),
    **same(["is_nan", "is_inf"], [(a, {}, f"bool{r[r.index('['):]}") for a, _, r in UNARY]),
    **same(["add", "sub", "mul", "div", "pow", "mod"], BINARY),
    **same(["min", "max"], [*BINARY, *LOGICAL]),
    **same(["less", "less_equal", "greater", "greater_equal"], COMPARISON),
    "equal": [*COMPARISON, *LOGICAL],
    **same(["and", "or", "xor"], LOGICAL),
    "not": [("bool[b,n]", {}, "bool[b,n]")],
    **same(["reduce_sum", "reduce_mean", "reduce_prod"], REDUCTION),
    **same(["reduce_max", "reduce_min"], [*REDUCTION, ("bool[2,3]", {"axes": (1,)}, "bool[2,1]")]),
    **same(["argmax", "argmin"], ARG),
    "cumprod": [
        ("f32[b,n]", {"axis": 1}, "f32[b,n]"),
        ("u8[b,n]", {"axis": 0, "exclusive": True, "reverse": True}, "u8[b,n]"),
    ],
    "cumsum": [
        ("f32[b,n]", {"axis": 1}, "f32[b,n]"),
        ("i64[b,n]", {"axis": 0, "exclusive": True, "reverse": True}, "i64[b,n]"),
        ("f16[0]", {"axis": 0, "exclusive": True}, "f16[0]"),
    ],
    "top_k": [
        ("f32[b,n]", {"axis": 1, "count": (2,), "descending": True}, "i64[b,2]"),
        ("i32[3,0]", {"axis": 0, "count": (3,), "descending": False}, "i64[3,0]"),
        ("bf16[n]", {"axis": 0, "count": dims("n"), "descending": False}, "i64[n]"),
    ],
    "scatter": [
        ("f32[b,n] i64[b,2] f32[b,2]", {"axis": 1, "join": "none"}, "f32[b,n]"),
        ("i8[4,n] i32[2,1] i8[2,n]", {"axis": 0, "join": "add"}, "i8[4,n]"),
        ("bool[4] i64[1] bool[3]", {"axis": 0, "join": "none"}, "bool[4]"),
        ("f64[4,2] i64[3,2] f64[3,2]", {"axis": 0, "join": "max"}, "f64[4,2]"),
    ],
    "cast": [
        ("f32[b,n]", {"dtype": DType.F16}, "f16[b,n]"),
        ("f32[b,n]", {"dtype": DType.BF16}, "bf16[b,n]"),
        ("i64[n]", {"dtype": DType.F32}, "f32[n]"),
        ("f32[3]", {"dtype": DType.I8}, "i8[3]"),
        ("bool[3]", {"dtype": DType.F32}, "f32[3]"),
        ("f32[3]", {"dtype": DType.BOOL}, "bool[3]"),
    ],
    **same(
        ["bit_and", "bit_or", "bit_xor", "shift_left", "shift_right"],
        [("i64[b,n] i64[n]", {}, "i64[b,n]"), ("u8[3] u8[]", {}, "u8[3]")],
    ),
    "bitcast": [
        ("f32[b,n]", {"dtype": DType.I32}, "i32[b,n]"),
        ("u16[3]", {"dtype": DType.BF16}, "bf16[3]"),
        ("f64[]", {"dtype": DType.U64}, "u64[]"),
    ],
    "where": [
        ("bool[b,1] f32[n] f32[]", {}, "f32[b,n]"),
        ("bool[] i64[2] i64[2]", {}, "i64[2]"),
        ("bool[3] bool[3] bool[3]", {}, "bool[3]"),
    ],
    "reshape": [
        ("f32[b,n,6]", {"shape": dims("b n 2 3")}, "f32[b,n,2,3]"),
        ("f32[b,n]", {"shape": dims("b*n")}, "f32[b*n]"),
        ("f32[1]", {"shape": ()}, "f32[]"),
        ("f32[0,3]", {"shape": (3, 0)}, "f32[3,0]"),
        ("f32[n,2]", {"shape": dims("2 n")}, "f32[2,n]"),
    ],
    "transpose": [
        ("f32[b,n,4]", {"perm": (2, 0, 1)}, "f32[4,b,n]"),
        ("f32[]", {"perm": ()}, "f32[]"),
    ],
    "broadcast": [
        ("f32[n,1]", {"shape": dims("b n 4")}, "f32[b,n,4]"),
        ("f32[]", {"shape": dims("n")}, "f32[n]"),
        ("bool[1]", {"shape": (0,)}, "bool[0]"),
    ],
    "slice": [
        ("f32[b,8]", {"starts": (0, 1), "sizes": dims("b 3"), "steps": (1, 2)}, "f32[b,3]"),
        ("f32[n]", {"starts": dims("n-1"), "sizes": dims("n"), "steps": (-1,)}, "f32[n]"),
        ("f32[4]", {"starts": (9,), "sizes": (0,), "steps": (1,)}, "f32[0]"),
        ("f32[n]", {"starts": (1,), "sizes": dims("n-1"), "steps": (1,)}, "f32[n-1]"),
    ],
    "windows": [
        (
            "f32[b,n,9]",
            {"axes": (1, 2), "sizes": (3, 2), "strides": (1, 2), "dilations": (2, 3)},
            "f32[b,n-4,3,3,2]",
        ),
        ("f32[n]", {"axes": (0,), "sizes": (1,), "strides": (2,), "dilations": (1,)}, "f32[(n+1)//2,1]"),
        ("i64[b,3]", {"axes": (1,), "sizes": (4,), "strides": (1,), "dilations": (1,)}, "i64[b,0,4]"),
        ("f32[2]", {"axes": (), "sizes": (), "strides": (), "dilations": ()}, "f32[2]"),
    ],
    "concat": [
        ("f32[b,n] f32[b,3]", {"axis": 1}, "f32[b,n+3]"),
        ("f32[n] f32[n] f32[n]", {"axis": 0}, "f32[3*n]"),
        ("i64[2]", {"axis": 0}, "i64[2]"),
    ],
    "pad": [
        ("f32[b,n]", {"before": (0, 1), "after": dims("0 m"), "value": -1.5}, "f32[b,n+m+1]"),
        ("i64[3]", {"before": (2,), "after": (0,), "value": 7.0}, "i64[5]"),
        ("bool[2]", {"before": (1,), "after": (0,), "value": 1.0}, "bool[3]"),
        ("f32[]", {"before": (), "after": (), "value": 0.0}, "f32[]"),
    ],
    "full": [
        ("", {"shape": dims("b n"), "value": 0.1, "dtype": DType.F32}, "f32[b,n]"),
        ("", {"shape": (), "value": -np.inf, "dtype": DType.F16}, "f16[]"),
        ("", {"shape": (2,), "value": 255.0, "dtype": DType.U8}, "u8[2]"),
        ("", {"shape": (2,), "value": 1.0, "dtype": DType.BOOL}, "bool[2]"),
    ],
    "iota": [
        ("", {"shape": dims("b n"), "axis": 1, "dtype": DType.I64}, "i64[b,n]"),
        ("", {"shape": (3, 2), "axis": 0, "dtype": DType.F32}, "f32[3,2]"),
    ],
    "dim_value": [
        ("", {"dim": dims("b*n+1"), "dtype": DType.I64}, "i64[]"),
        ("", {"dim": (3,), "dtype": DType.F32}, "f32[]"),
    ],
    "gather": [
        ("f32[9,4] i64[b,n]", {"axis": 0}, "f32[b,n,4]"),
        ("f32[b,9,4] i32[]", {"axis": 1}, "f32[b,4]"),
        ("f32[b,9] u8[2,3]", {"axis": 1}, "f32[b,2,3]"),
        ("i64[9] u64[n]", {"axis": 0}, "i64[n]"),
        ("f32[300] i8[2]", {"axis": 0}, "f32[2]"),
    ],
    "gather_elements": [
        ("f32[4,5] i64[3,5]", {"axis": 0}, "f32[3,5]"),
        ("f32[4,300] u8[2,2]", {"axis": 1}, "f32[2,2]"),
        ("f32[b,9] i32[b,n]", {"axis": 1}, "f32[b,n]"),
    ],
    "gather_nd": [
        ("f32[4,5,6] i64[n,2]", {"batch_dims": 0}, "f32[n,6]"),
        ("f32[b,5,6] i64[b,n,1]", {"batch_dims": 1}, "f32[b,n,6]"),
        ("f32[b,4,5,6] i32[b,n,3]", {"batch_dims": 1}, "f32[b,n]"),
        ("f32[b,m,5] i64[b,m,1]", {"batch_dims": 2}, "f32[b,m]"),
    ],
    "matmul": [
        ("f32[n,4] f32[4,3]", {}, "f32[n,3]"),
        ("f32[b,1,n,4] f32[m,4,n]", {}, "f32[b,m,n,n]"),
        ("f16[2,3] f16[3,2]", {}, "f16[2,2]"),
        ("bf16[2,3] bf16[3,2]", {}, "bf16[2,2]"),
        ("i32[2,3] i32[3,2]", {}, "i32[2,2]"),
        ("f32[2,0] f32[0,2]", {}, "f32[2,2]"),
    ],
    "linear": [
        ("f32[b,n,4] f32[4,3] f32[3]", {}, "f32[b,n,3]"),
        ("f32[4] f32[4,3] f32[3]", {"activation": "gelu"}, "f32[3]"),
        ("f32[b,n,4] f32[4,3] f32[3] f32[b,n,3]", {"activation": "relu"}, "f32[b,n,3]"),
        ("bf16[2,4] bf16[4,3] bf16[3]", {"activation": "tanh"}, "bf16[2,3]"),
    ],
    "quantize": [
        ("f32[b,n,4] f32[] u8[]", {"dtype": DType.U8}, "u8[b,n,4]"),
        ("f32[b,n,4] f32[n,1] i16[n,1]", {"dtype": DType.I16}, "i16[b,n,4]"),
        ("f16[b,n] f16[n]", {"dtype": DType.I8, "bits": 4}, "i8[b,n]"),
    ],
    "dequantize": [
        ("u8[b,n,4] f32[] u8[]", {}, "f32[b,n,4]"),
        ("i8[b,n] f16[n]", {}, "f16[b,n]"),
        ("u8[n,3] f32[n,1] f32[n,1]", {}, "f32[n,3]"),
        ("i32[n] f32[] i32[]", {}, "f32[n]"),
    ],
    "integer_matmul": [
        ("u8[n,7] i8[7,3]", {}, "i32[n,3]"),
        ("i8[b,n] i8[n,4]", {}, "i32[b,4]"),
        ("u8[2,n] u8[n,b]", {}, "i32[2,b]"),
        ("i8[n,0] u8[0,2]", {}, "i32[n,2]"),
    ],
    "row_scale": [
        ("f32[b,n,5]", {}, "f32[b,n,1]"),
        ("f16[b,n]", {}, "f32[b,1]"),
        ("f32[7]", {}, "f32[1]"),
        ("f32[2,0]", {}, "f32[2,1]"),
    ],
    "integer_linear": [
        ("u8[b,n,7] i8[7,3] i32[3] f32[] f32[3] f32[3]", {}, "f32[b,n,3]"),
        ("i8[n,4] i8[4,3] i32[3] f32[n,1] f32[3] f32[3] f32[n,3]", {"activation": "relu"}, "f32[n,3]"),
        ("i8[6] i8[6,3] i32[3] f32[1] f32[3] f32[3]", {"activation": "gelu"}, "f32[3]"),
    ],
    "block_linear": [
        ("f32[b,n,32] i8[32,3] f32[2,3] f32[3]", {}, "f32[b,n,3]"),
        ("f32[64] i8[64,5] f16[1,5] f32[5]", {"bits": 4}, "f32[5]"),
        ("f32[b,16] i8[16,5] f32[2,5] f32[5]", {"bits": 4, "floats": True}, "f32[b,5]"),
        ("f32[b,n,32] f8e5m2[32,5] f32[2,5] f32[5]", {}, "f32[b,n,5]"),
        ("bf16[b,n,32] i8[32,3] f32[2,3] f32[3]", {}, "f32[b,n,3]"),
        ("f16[b,32] i8[32,3] f16[4,3] f32[3]", {"bits": 4}, "f32[b,3]"),
    ],
    "integer_block_linear": [
        ("i8[b,n,64] i8[64,3] f32[2,3] f32[b,n,1] f32[3]", {}, "f32[b,n,3]"),
        ("i8[n,64] i8[64,5] f16[1,5] f32[] f32[5] f32[n,5]", {"bits": 4, "activation": "relu"}, "f32[n,5]"),
        ("i8[32] i8[32,5] f32[1,5] f32[1] f32[5]", {"bits": 4, "activation": "gelu"}, "f32[5]"),
    ],
    "quantize_rows": [
        ("f32[b,n,5] f32[] u8[]", {}, "u8[b,n,5]"),
        ("f32[b,n,5] f32[b,n,1] i8[]", {}, "i8[b,n,5]"),
    ],
    "step": [("f32[] f32[]", {}, "f32[]"), ("f32[b] f32[b]", {}, "f32[b]")],
    "softmax": [("f32[b,n]", {}, "f32[b,n]"), ("f16[4]", {}, "f16[4]"), ("f32[2,0]", {}, "f32[2,0]")],
    "layer_norm": [
        ("f32[b,n,8] f32[8] f32[8]", {"epsilon": 1e-12}, "f32[b,n,8]"),
        ("f32[b,n,8] f32[8] f32[8] f32[b,n,8]", {"epsilon": 1e-5}, "f32[b,n,8]"),
        ("f16[3,8] f16[8] f16[8]", {"epsilon": 1e-5}, "f16[3,8]"),
    ],
    "rms_norm": [
        ("f32[b,n,8] f32[8]", {"epsilon": 1e-12}, "f32[b,n,8]"),
        ("f16[3,8] f16[8]", {"epsilon": 1e-5}, "f16[3,8]"),
    ],
    "kept_rows": [("i64[b,n]", {"dim": dims("kept")}, "i64[kept]")],
    "ragged_attention": [
        (
            "f32[4,n,8] f32[2,n,8] f32[2,n,6] i64[b] f32[n]",
            {"longest": dims("n"), "scale": 0.3},
            "f32[4,n,6]",
        ),
        (
            "f16[1,n,4] f16[1,n,4] f16[1,n,4] i64[b]",
            {"longest": dims("n"), "scale": 0.5, "safe": True, "causal": True},
            "f16[1,n,4]",
        ),
        (
            "bf16[4,n,8] bf16[2,n,8] bf16[2,n,6] i64[b] f32[n]",
            {"longest": dims("n"), "scale": 0.3, "mixed": True},
            "bf16[4,n,6]",
        ),
    ],
    "attention": [
        ("f32[b,4,n,8] f32[b,4,m,8] f32[b,4,m,6]", {"scale": 0.3}, "f32[b,4,n,6]"),
        ("f32[b,4,n,8] f32[b,2,n,8] f32[b,2,n,8] f32[b,1,1,n]", {"scale": 0.3}, "f32[b,4,n,8]"),
        ("f32[b,4,n,8] f32[b,4,m,8] f32[b,4,m,8] f32[n,m]", {"scale": 1.0, "safe": True}, "f32[b,4,n,8]"),
        ("f16[1,1,2,4] f16[1,1,2,4] f16[1,1,2,4]", {"scale": 0.5}, "f16[1,1,2,4]"),
        ("f32[b,4,n,8] f32[b,4,m,8] f32[b,4,m,8]", {"scale": 1.0, "causal": True}, "f32[b,4,n,8]"),
    ],
}  # fmt: skip
