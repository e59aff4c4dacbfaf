"""The chip: a 64-bit x86 host with SSE2, and beside it the unit of npu.c.

Products of integers of 8 bits go to the unit; everything else runs on the host.
"""

from __future__ import annotations

from importlib import resources

from isthmus.systems import LINUX
from isthmus.target import Caches, Routine, Runner, Target, VectorUnit

_UNIT = (resources.files("imaginary_npu") / "npu.c").read_text(encoding="utf-8")

TARGETS = (
    Target(
        name="imaginary-npu",
        description="an imaginary unit for 8x8 matrices of bytes beside a 64-bit x86, simulated",
        arch="x86_64",
        features=("sse2", "npu-8x8-i8"),
        tvm={"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "x86-64"},
        vector=VectorUnit(bits=128, registers=16, fma=False),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        toolchain=LINUX.toolchain("x86_64", "x86_64"),
        # No machine has this flag, so none takes itself for such a chip: `host` will not choose it.
        cpu_flags=("imaginary_npu",),
        # The simulator is part of the library, so that programs start as they are.
        runners=(Runner("simulator", ("env",), "coreutils"),),
        routines=(
            Routine("integer_matmul", ("u8", "i8"), "i32", "npu_product_u8_i8", _UNIT),
            Routine("integer_matmul", ("i8", "i8"), "i32", "npu_product_i8_i8", _UNIT),
        ),
    ),
)
