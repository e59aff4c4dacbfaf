"""Lowering of intrinsics: what TVM's own pass makes of every form of statement, without its proofs."""

from __future__ import annotations

import pytest

from isthmus.codegen.lower import lower_intrinsics
from isthmus.kernels import attention, gemm, layer_norm, sparse
from isthmus.kernels.arithmetic import DotBF16
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.tir import tirx, tvm
from isthmus.target import Target
from isthmus.targets import x86_64

CHIP, UNFUSED, PAIRS = (
    next(target for target in x86_64.TARGETS if target.name == name)
    for name in ("x86-64-v3", "x86-64-v2", "x86-64-v4-bf16")
)
KERNELS = [
    (CHIP, layer_norm.kernel(CHIP, True)),
    (CHIP, sparse.kernel(CHIP, 1, 4, "gelu", True)),
    (UNFUSED, attention.kernel(UNFUSED, 8, 8, "none", False, causal=True)),
    (PAIRS, gemm.kernel(PAIRS, "silu", True, DotBF16)),  # with an instruction of the chip's own
]


@pytest.mark.parametrize(("chip", "kernel"), KERNELS, ids=lambda given: getattr(given, "symbol", ""))
def test_the_same_as_the_pass_alone(chip: Target, kernel: Kernel) -> None:
    tvm_target = tvm.target.Target(dict(chip.tvm))
    module = tvm.IRModule({kernel.symbol: kernel.func})
    wanted = tirx.transform.LowerIntrin()(tirx.transform.BindTarget(tvm_target)(module))
    found = lower_intrinsics(kernel.symbol, kernel.func, tvm_target)
    tvm.ir.assert_structural_equal(found, wanted)
    assert found.script() == wanted.script()
    assert found.script() != module.script(), "nothing to lower"
