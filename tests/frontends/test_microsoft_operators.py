"""Importers of com.microsoft against onnxruntime, one line for each operator and way of using it.

Where onnxruntime has no kernel for this processor, a model of standard operators says what is meant.
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
    microsoft_activation,
    microsoft_matmul,
    microsoft_norm,
)


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        shown = ",".join(a if isinstance(a, str) else "-" if a is None else "const" for a in self.inputs)
        return f"{self.op}({shown})({','.join(f'{k}={v}' for k, v in self.attrs.items())})"


def c(op: str, *inputs: Any, outputs: Any = (0,), **attrs: Any) -> Case:
    return Case(op, inputs, attrs, tuple(outputs))


X = "f32[b,s,8]"
EMBED = "EmbedLayerNormalization"
RNG = np.random.default_rng(1)
V8 = RNG.standard_normal(8).astype(np.float32)
W = RNG.standard_normal((8, 6)).astype(np.float32)
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
    c(EMBED, IDS, None, WORDS, PLACES, None, V8, V8, None, "i32[1,s]<16", epsilon=0.1),
]  # fmt: skip

# Operators that onnxruntime does not have for this processor, and those tested inside larger graphs.
ELSEWHERE = {
    "com.microsoft::BiasAdd",
    "com.microsoft::BiasSplitGelu",
    "com.microsoft::FusedMatMulActivation",
    "com.microsoft::GemmFastGelu",
    "com.microsoft::SimplifiedLayerNormalization",
}
GROUPS = (microsoft_activation, microsoft_matmul, microsoft_norm)


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
    return tools.make_model([node], inputs, [o for o in outputs if o], constants), inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    model, inputs = model_of(case, tools)
    tools.check_model(model, inputs, tmp_path)


def test_every_importer_is_tested() -> None:
    tested = {full_name(case.op) for case in CASES} | ELSEWHERE
    assert not {op for group in GROUPS for op in group.OPERATORS} - tested
    assert tested <= OPERATORS.keys()
