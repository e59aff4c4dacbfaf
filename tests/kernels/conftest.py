"""Kernels as Python functions, on every level of the instruction set that this machine can run, and as C."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runners import CACHE, most_capable, native, quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call, load
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

# Chips with the same vectors have the same kernels: the most capable that runs here stands for all of them.
LEVELS = most_capable(lambda target: target.vector)


@pytest.fixture(scope="session", params=(*LEVELS, CHECKED_C), ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    """Every level that this machine can run, and C."""
    return quick(request.param)


@pytest.fixture(scope="session", params=LEVELS, ids=lambda target: target.name)
def level(request: pytest.FixtureRequest) -> Target:
    """Every level that this machine can run: kernels with vectors, from LLVM."""
    return native(request.param)


@pytest.fixture(scope="session")
def compiled(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kernel], Call]:
    """The function behind a kernel of `target`; each symbol is compiled once."""
    calls: dict[str, Call] = {}

    def get(kernel: Kernel) -> Call:
        if kernel.symbol not in calls:
            calls.update(load([kernel], target, tmp_path_factory.mktemp(kernel.symbol), CACHE))
        return calls[kernel.symbol]

    return get


@pytest.fixture(scope="session")
def misaligned() -> Callable[[np.ndarray], np.ndarray]:
    """Copies of float32 arrays that start 4 bytes past a 64-byte boundary."""

    def copy(array: np.ndarray) -> np.ndarray:
        room = np.empty(array.size + 32, np.float32)
        start = (-room.ctypes.data // 4) % 16 + 1
        moved = room[start : start + array.size].reshape(array.shape)
        moved[...] = array
        assert moved.ctypes.data % 64 == 4
        return moved

    return copy
