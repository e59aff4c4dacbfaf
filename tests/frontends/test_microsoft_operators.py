"""Importers of com.microsoft against onnxruntime, one line for each operator and way of using it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.frontends.onnx.operators import (
    OPERATORS,
    microsoft_activation,
    microsoft_attention,
    microsoft_group_query,
    microsoft_matmul,
    microsoft_moe,
    microsoft_norm,
    microsoft_position,
)


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)
    sizes: tuple[dict[str, int], ...] = ()

    def __str__(self) -> str:
        shown = ",".join(a if isinstance(a, str) else "-" if a is None else "const" for a in self.inputs)
        return f"{self.op}({shown})({','.join(f'{k}={v}' for k, v in self.attrs.items())})"


def c(op: str, *inputs: Any, outputs: Any = (0,), sizes: Any = (), **attrs: Any) -> Case:
    return Case(op, inputs, attrs, tuple(outputs), tuple(sizes))


X = "f32[b,s,8]"
MHA, DECODER, ROTARY = "MultiHeadAttention", "DecoderMaskedMultiHeadAttention", "RotaryEmbedding"
TOKENS, ROUTER = "f32[s,8]", "f32[s,5]"
ONE, OLD, PAST = "f32[b,1,8]", "f32[b,2,t,4]", "f32[2,b,2,t,4]"
ROW, X5, OLD3 = "f32[2,1,8]", "f32[2,5,8]", "f32[2,2,3,4]"
BUFFERS = (ROW, ROW, ROW, None, None, OLD3, OLD3, "i32[1]<3")
LOWEST = float(np.finfo(np.float32).min)
EMBED = "EmbedLayerNormalization"
RNG = np.random.default_rng(1)
V8 = RNG.standard_normal(8).astype(np.float32)
W = RNG.standard_normal((8, 6)).astype(np.float32)
QKV, QKV_BIAS = RNG.standard_normal((8, 24)).astype(np.float32), RNG.standard_normal(24).astype(np.float32)
COS, SIN = RNG.standard_normal((2, 16, 2)).astype(np.float32)
UP, DOWN, HALF = (RNG.standard_normal(s).astype(np.float32) for s in ((5, 12, 8), (5, 8, 12), (5, 8, 6)))
UP_BIAS, DOWN_BIAS = (RNG.standard_normal(s).astype(np.float32) for s in ((5, 12), (5, 8)))
# Four or eight bits each; rows of 32 numbers in blocks of 16, or in one.
Q4_UP, Q4_DOWN, Q8_UP, Q8_DOWN = (
    RNG.integers(0, 256, s).astype(np.uint8) for s in ((5, 32, 16), (5, 32, 16), (5, 32, 32), (5, 32, 32))
)
Q_ROWS, Q_BLOCKS = (RNG.random(s).astype(np.float32) * 0.02 + 0.01 for s in ((5, 32), (5, 32, 2)))
Q_BIAS, Q_HALF = RNG.standard_normal((5, 32)).astype(np.float32), Q4_DOWN[:, :, :8]
Z_ROWS, Z_BLOCKS = (RNG.integers(0, 256, s).astype(np.uint8) for s in ((5, 16), (5, 32, 1)))
Q_TOKENS, LAYER4, LAYER8 = "f32[s,32]", (Q4_UP, Q_ROWS, Q_BIAS), (Q8_UP, Q_BLOCKS, Q_BIAS)
BLOCKS4 = (Q4_UP, Q_BLOCKS, None, Q4_DOWN, Q_BLOCKS, None)
NO_THIRD, SHARES = (None, None, None), RNG.random((3, 5)).astype(np.float32)
WORDS = RNG.standard_normal((9, 8)).astype(np.float32)
PLACES = RNG.standard_normal((16, 8)).astype(np.float32)
IDS = "i32[b,s]<9"

CASES = [
    c("BiasGelu", X, V8),
    c("FastGelu", X),
    c("FastGelu", X, V8),
    c("Gelu", X),
    c("QuickGelu", X),
    c("QuickGelu", X, alpha=1.5),
    c("QuickGelu", X, alpha=1.0),
    # products
    c("FusedMatMul", X, "f32[b,t,8]", transB=1, alpha=0.5),
    c("FusedMatMul", "f32[b,8,s]", "f32[b,8,t]", transA=1),
    c("FusedMatMul", "f32[s,b,4,8]", "f32[b,4,8,t]", transBatchA=1),
    c("FusedMatMul", "f32[8,b,4,s]", "f32[b,4,8,t]", transA=1, transBatchA=1),
    c("FusedMatMul", "f32[b,4,s,8]", "f32[t,b,4,8]", transB=1, transBatchB=1),
    c("FusedMatMul", X, W, alpha=2.0),
    c("TransposeMatMul", X, "f32[b,t,8]", transB=1),
    c("FusedGemm", "f32[b,8]", W, "f32[6]", activation="Relu"),
    c("FusedGemm", "f32[b,8]", W.T.copy(), V8[:6].copy(), transB=1, activation="Tanh", alpha=0.5, beta=2.0),
    c("FusedGemm", "f32[8,b]", W, transA=1, activation="LeakyRelu", activation_alpha=0.2),
    # normalisation
    c("SkipLayerNormalization", X, X, V8, V8),
    c("SkipLayerNormalization", X, X, V8),
    c("SkipLayerNormalization", X, X, V8, V8, V8, outputs=(0, 3), epsilon=0.1),
    c("SkipLayerNormalization", X, "f32[s,8]", V8, V8),
    c("SkipLayerNormalization", X, "f32[1,s,8]", V8, V8, V8, outputs=(0, 3)),
    c("SkipSimplifiedLayerNormalization", X, X, V8),
    c("SkipSimplifiedLayerNormalization", X, X, V8, V8, outputs=(0, 3), epsilon=0.1),
    c("::SimplifiedLayerNormalization", X, V8),
    c("::SimplifiedLayerNormalization", X, V8, axis=-1, epsilon=0.1, stash_type=1),
    c(EMBED, IDS, None, WORDS, PLACES, None, V8, V8, outputs=(0, 1)),
    c(EMBED, IDS, "i32[b,s]<3", WORDS, PLACES, PLACES[:3].copy(), V8, V8, outputs=(0, 1, 2)),
    c(EMBED, IDS, None, WORDS, PLACES, None, V8, V8, "i32[b,s]<2", outputs=(0, 1)),
    c(EMBED, IDS, None, WORDS, PLACES, None, V8, V8, None, "i32[b,s]<16", outputs=(0, 1)),
    c(EMBED, IDS, None, WORDS, PLACES, None, V8, V8, None, "i32[1,s]<16", outputs=(0, 1)),
    # attention with its projection: 2 heads of 4
    c("Attention", X, QKV, QKV_BIAS, num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, num_heads=2, scale=0.2),
    c("Attention", X, QKV[:, :20].copy(), QKV_BIAS[:20].copy(), num_heads=2, qkv_hidden_sizes=[8, 8, 4]),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s]<2", num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s]<2", num_heads=2, mask_filter_value=LOWEST),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s,s]<2", num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, "i32[b]<5", num_heads=2),
    c("Attention", "f32[2,s,8]", QKV, QKV_BIAS, "i32[4]<5", num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, num_heads=2, unidirectional=1),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s]<2", num_heads=2, unidirectional=1),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s]<2", num_heads=2, unidirectional=1, mask_filter_value=LOWEST),
    c("Attention", X, QKV, QKV_BIAS, None, PAST, num_heads=2, outputs=(0, 1)),
    c("Attention", X, QKV, QKV_BIAS, None, PAST, num_heads=2, outputs=(0, 1), unidirectional=1),
    c("Attention", "f32[2,5,8]", QKV, QKV_BIAS, "i32[2,8]<2", "f32[2,2,2,3,4]", num_heads=2, outputs=(0, 1)),
    c("Attention", X, QKV, QKV_BIAS, None, None, "f32[b,2,s,s]", num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, "i32[b,s]<2", None, "f32[1,2,s,s]", num_heads=2),
    c("Attention", X, QKV, QKV_BIAS, None, None, "f32[1,1,s,s]", num_heads=2, unidirectional=1),
    # attention over what is projected already
    c(MHA, X, X, X, num_heads=2),
    c(MHA, X, "f32[b,t,8]", "f32[b,t,6]", num_heads=2, scale=0.3),
    c(MHA, X, "f32[b,t,8]", "f32[b,t,8]", QKV_BIAS, num_heads=2),
    c(MHA, X, X, X, None, "i32[b,s]<2", num_heads=2),
    c(MHA, X, X, X, None, "i32[b,s]<2", num_heads=2, mask_filter_value=LOWEST, unidirectional=1),
    c(MHA, X, "f32[b,t,8]", "f32[b,t,8]", None, "i32[b,s,t]<2", num_heads=2),
    c(MHA, X, "f32[b,t,8]", "f32[b,t,8]", None, "i32[b]<3", num_heads=2),
    c(MHA, X, X, X, None, None, "f32[1,2,s,s]", num_heads=2, unidirectional=1),
    c(MHA, X, X, X, QKV_BIAS, None, None, OLD, OLD, num_heads=2, outputs=(0, 1, 2)),
    c(MHA, X, X, X, None, None, None, OLD, OLD, num_heads=2, outputs=(0, 1, 2), unidirectional=1),
    c(MHA, X5, X5, X5, None, "i32[2,8]<2", None, OLD3, OLD3, num_heads=2, outputs=(0, 1, 2)),
    c(MHA, X, "f32[b,2,t,4]", "f32[b,2,t,4]", num_heads=2),
    c(MHA, X, X, X, num_heads=2, outputs=(0, 1, 2)),
    c(MHA, X, X, X, None, "i32[b,s]<2", num_heads=2, outputs=(0, 3)),
    c(DECODER, *BUFFERS, num_heads=2, outputs=(0, 1, 2), past_present_share_buffer=1),
    c(DECODER, *BUFFERS, None, None, QKV_BIAS, num_heads=2, outputs=(0, 1, 2), past_present_share_buffer=1),
    c(DECODER, ONE, "f32[b,2,t,4]", "f32[b,2,t,4]", "i32[b,t]<2", num_heads=2),
    # positions
    c(ROTARY, X, "i64[b,s]<16", COS, SIN),
    c(ROTARY, X, "i64[b,s]<16", COS, SIN, interleaved=1),
    c(ROTARY, X, "i64[1]<9", COS, SIN),
    c(ROTARY, "f32[b,2,s,4]", "i64[b,s]<16", COS, SIN),
    c(ROTARY, "f32[b,2,s,8]", "i64[b,s]<16", COS, SIN, num_heads=2, rotary_embedding_dim=4),
    c(ROTARY, "f32[b,s,16]", "i64[b,s]<16", COS, SIN, num_heads=2, rotary_embedding_dim=4),
    c(ROTARY, X, "i64[b,s]<16", COS, SIN, scale=2.0),
    # experts: 5 of them, 8 -> 12 -> 8
    c("QMoE", Q_TOKENS, ROUTER, *LAYER4, Q4_DOWN, Q_ROWS, Q_BIAS, k=2, activation_type="silu"),
    c("QMoE", Q_TOKENS, ROUTER, *LAYER4, Q4_DOWN, Q_ROWS, None, *NO_THIRD, Z_ROWS, Z_ROWS, k=2),
    c("QMoE", Q_TOKENS, ROUTER, *BLOCKS4, k=2, block_size=16, normalize_routing_weights=1),
    c("QMoE", Q_TOKENS, ROUTER, *BLOCKS4, *NO_THIRD, Z_BLOCKS, Z_BLOCKS, k=1, block_size=16),
    c("QMoE", "f32[3,32]", "f32[3,5]", *BLOCKS4, *NO_THIRD, None, None, None, SHARES, k=2, block_size=16),
    c("QMoE", Q_TOKENS, ROUTER, *BLOCKS4, k=2, block_size=16, accuracy_level=4),
    c("QMoE", Q_TOKENS, ROUTER, *LAYER8, Q8_DOWN, Q_BLOCKS, None, k=2, expert_weight_bits=8, block_size=16),
    c("QMoE", Q_TOKENS, ROUTER, *LAYER4, Q_HALF, Q_ROWS, None, k=2, activation_type="swiglu",
      swiglu_fusion=1),
    c("MoE", TOKENS, ROUTER, UP, None, DOWN, None, k=2),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, DOWN, DOWN_BIAS, k=2, normalize_routing_weights=1),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, DOWN, DOWN_BIAS, k=1, activation_type="silu"),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, DOWN, DOWN_BIAS, k=3, activation_type="gelu"),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, DOWN, DOWN_BIAS, k=5, activation_type="identity"),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, HALF, DOWN_BIAS, k=2, activation_type="swiglu", swiglu_fusion=1),
    c("MoE", TOKENS, ROUTER, UP, UP_BIAS, HALF, DOWN_BIAS, k=2, activation_type="swiglu", swiglu_fusion=1,
      swiglu_limit=0.5, activation_alpha=1.7, activation_beta=1.0, normalize_routing_weights=1),
]  # fmt: skip

# Tested in other files: those that onnxruntime has no kernel for here, and those that need larger graphs.
ELSEWHERE = {
    "com.microsoft::BiasAdd",
    "com.microsoft::BiasSplitGelu",
    "com.microsoft::FusedMatMulActivation",
    "com.microsoft::GatedRelativePositionBias",
    "com.microsoft::GemmFastGelu",
    "com.microsoft::GroupQueryAttention",
    "com.microsoft::RelativePositionBias",
    "com.microsoft::SimplifiedLayerNormalization",
}
DECLARED = {MHA: ("y3",)}
GROUPS = (
    microsoft_activation,
    microsoft_attention,
    microsoft_group_query,
    microsoft_matmul,
    microsoft_moe,
    microsoft_norm,
    microsoft_position,
)


def full_name(op: str) -> str:
    return op[2:] if op.startswith("::") else f"com.microsoft::{op}"


def model_of(case: Case, tools: Any) -> tuple[Any, dict[str, str]]:
    names = [f"x{n}" for n in range(len(case.inputs))]
    given = dict(zip(names, case.inputs, strict=True))
    inputs = {n: spec for n, spec in given.items() if isinstance(spec, str)}
    constants = {n: a for n, a in given.items() if isinstance(a, np.ndarray)}
    outputs = [f"y{n}" if n in case.outputs else "" for n in range(max(case.outputs) + 1)]
    domain, _, op = full_name(case.op).rpartition("::")
    node_inputs = ["" if a is None else n for n, a in given.items()]
    node = helper.make_node(op, node_inputs, outputs, name="node", domain=domain, **case.attrs)
    model = tools.make_model([node], inputs, [o for o in outputs if o], constants)
    for output in model.graph.output:
        # onnxruntime does not find the type of every optional output.
        if output.name in DECLARED.get(case.op, ()):
            output.type.tensor_type.elem_type = 1
    return model, inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    model, inputs = model_of(case, tools)
    tools.check_model(model, inputs, tmp_path, **({"sizes": case.sizes} if case.sizes else {}))


def test_every_importer_is_tested() -> None:
    tested = {full_name(case.op) for case in CASES} | ELSEWHERE
    assert not {op for group in GROUPS for op in group.OPERATORS} - tested
    assert tested <= OPERATORS.keys()
