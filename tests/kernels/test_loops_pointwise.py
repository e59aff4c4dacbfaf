"""Every pointwise op on every element type, against its reference, over the values that tend to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.native import Call, load
from isthmus.errors import ModelError
from isthmus.ir.graph import Trait, TypeMismatch
from isthmus.ir.types import DType, TensorType
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops import Apply, Index, Load, Nest, Node, Operand, Scalar, kernel
from isthmus.kernels.loops_pointwise import check_op
from isthmus.ops import OPS
from isthmus.target import Target

CASTS = ("cast", "bitcast")
POINTWISE = sorted(name for name, op in OPS.items() if Trait.POINTWISE in op.traits and name not in CASTS)
HALVES = tuple(d for d in DType if d.is_narrow)
# The rest is float32 arithmetic, tested as such.
HALF_OPS = ("abs", "add", "div", "exp", "less", "max", "neg", "round", "where")
# The other levels differ in vectors only, so a few types are enough there.
EVERYWHERE = (DType.F32, DType.I64, DType.BOOL)
# Not every byte is an f4e2m1, and it has no NaN: test_narrow_floats.py.
SOMEWHERE = tuple(d for d in DType if d not in (DType.I16, DType.U16, DType.U32, DType.U64, DType.F4E2M1))

# Absolute error beyond the relative one: polynomials that are absolute approximations.
ABSOLUTE = {"gelu": 5e-6, "gelu_tanh": 4e-6, "sin": 3e-7, "cos": 3e-7, "log": 2e-7}
# Ops that are tested on fewer arguments, and so in kernels of their own.
PARTIAL = {"pow": "power", "div": "division", "mod": "division"}
# Floats of 8 bits are only moved.
RELATIVE = {
    **{d: 0.0 for d in DType if d.is_stored},
    DType.F32: 1e-6,
    DType.F64: 1e-13,
    DType.F16: 1e-3,
    DType.BF16: 8e-3,
}


def _values(dtype: DType) -> np.ndarray:
    if dtype is DType.BOOL:
        return np.array([False, True, True, False, True], np.bool_)
    if not dtype.is_float:
        info = np.iinfo(dtype.numpy)
        edges = [info.min, info.min + 1, -3, -2, -1, 0, 1, 2, 3, 5, 7, 10, 100, info.max - 1, info.max]
        return np.array([e for e in edges if info.min <= e <= info.max], dtype.numpy)
    inf, tiny = np.inf, {DType.F32: 1e-41, DType.F64: 1e-310}.get(dtype, 1e-7)
    edges = [
        0.0,
        -0.0,
        1,
        -1,
        0.5,
        -0.5,
        1.5,
        -1.5,
        2.5,
        3,
        -3,
        1e-3,
        -2e-5,
        30,
        -30,
        100,
        9000.5,
        inf,
        -inf,
        np.nan,
    ]
    more = [tiny, -tiny] if dtype in HALVES else [tiny, -tiny, 3e38, -3e38, 1e-30, -1e10, 2**24 + 1, 0.3333]
    line = np.linspace(-20, 20, 83) if dtype is not DType.F16 else np.linspace(-9, 9, 41)
    return np.concatenate([np.array([*edges, *more]), line]).astype(dtype.numpy)


def _pairs(dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    values = _values(dtype)[:40]
    return np.repeat(values, values.size), np.tile(values, values.size)


def _arguments(op: str, dtype: DType) -> list[np.ndarray]:
    count = OPS[op].arity[0]
    if op == "where":
        a, b = _pairs(dtype)
        return [np.arange(a.size) % 3 == 0, a, b]
    if count == 1:
        values = _values(dtype)
        return [np.tile(values, 64 // values.size + 2)]
    a, b = _pairs(dtype)
    if op == "pow" and not dtype.is_float:
        # What f64 can hold, and no 0 to a negative power, which is infinite.
        with np.errstate(all="ignore"):
            size = np.abs(a.astype(np.float64)) ** np.abs(b.astype(np.float64))
        exact = (size < min(2.0**53, np.iinfo(dtype.numpy).max)) & ~((a == 0) & (b < 0))
        a, b = a[exact], b[exact]
    elif op in PARTIAL and dtype.is_integer:
        # The reference takes the absolute value of the least number, which overflows.
        fits = a != np.iinfo(dtype.numpy).min if str(dtype).startswith("i") else a == a
        a, b = a[fits], b[fits]
    return [a, b]


def _nest(op: str, dtypes: list[DType], result: DType) -> Nest:
    args = tuple(Load(i) for i in range(len(dtypes)))
    operands = tuple(Operand(d, "unit") for d in dtypes)
    return Nest(operands, Operand(result, "unit"), ("kept",), Apply(op, args, result))


def _call(call: Call, arrays: list[np.ndarray], result: DType) -> np.ndarray:
    n = arrays[0].size
    y = np.empty(n, result.numpy)
    fault = np.zeros(1, np.int32)
    strides = np.ones(len(arrays) + 1, np.int64)
    call(*arrays, y, np.array([n], np.int64), strides, fault, 1, 0, 1)
    assert not fault[0]
    return y


def _result(op: str, dtypes: list[DType]) -> DType | None:
    try:
        return OPS[op].infer(*(TensorType(d, (1,)) for d in dtypes)).dtype
    except TypeMismatch:
        return None


@dataclass(frozen=True)
class Group:
    """Ops of one signature, computed by one kernel: row i of the result is that of `ops[i]`."""

    dtypes: tuple[DType, ...]
    result: DType
    ops: tuple[str, ...]

    def kernel(self, target: Target) -> Kernel:
        args = tuple(Load(i) for i in range(len(self.dtypes)))
        body: Node = Apply(self.ops[-1], args, self.result)
        for i, op in reversed(list(enumerate(self.ops[:-1]))):
            chosen = Apply("equal", (Index(0, DType.I64), Scalar(i, DType.I64)), DType.BOOL)
            body = Apply("where", (chosen, Apply(op, args, self.result), body), self.result)
        operands = tuple(Operand(d, "unit") for d in self.dtypes)
        return kernel(Nest(operands, Operand(self.result, "unit"), ("kept", "kept"), body), target)

    def run(self, call: Call, arrays: list[np.ndarray]) -> np.ndarray:
        shape = (len(self.ops), arrays[0].size)
        y = np.empty(shape, self.result.numpy)
        fault = np.zeros(1, np.int32)
        strides = np.array([0, 1] * len(arrays) + [shape[1], 1], np.int64)
        call(*arrays, y, np.array(shape, np.int64), strides, fault, 1, 0, shape[0])
        assert not fault[0]
        return y


def _supported(op: str, dtype: DType) -> bool:
    try:
        check_op(op, dtype)
    except ModelError:
        assert dtype is DType.BOOL, f"{op} of {dtype} is not supported"
        return False
    return True


def _groups(types: Sequence[DType]) -> list[Group]:
    groups: dict[tuple[tuple[DType, ...], DType, str], list[str]] = {}
    for dtype in types:
        for op in HALF_OPS if dtype in HALVES else POINTWISE:
            dtypes = (dtype,) * OPS[op].arity[0] if op != "where" else (DType.BOOL, dtype, dtype)
            result = _result(op, list(dtypes))
            if result is not None and _supported(op, dtype):
                groups.setdefault((dtypes, result, PARTIAL.get(op, "")), []).append(op)
    return [Group(dtypes, result, tuple(ops)) for (dtypes, result, _), ops in groups.items()]


def _reference(op: str, dtype: DType, result: DType, arrays: list[np.ndarray]) -> np.ndarray:
    if dtype in HALVES:
        arrays = [a.astype(np.float32) if a.dtype == dtype.numpy else a for a in arrays]
    elif dtype in (DType.F32, DType.F64) and op in ("exp", "log", "sin", "cos", "tanh", "pow"):
        arrays = [a.astype(np.float64) for a in arrays]
    with np.errstate(all="ignore"):
        return np.asarray(OPS[op].reference(*arrays)).astype(result.numpy)


def _compare(
    op: str, dtype: DType, got: np.ndarray, expected: np.ndarray, arrays: list[np.ndarray]
) -> list[str]:
    if not dtype.is_float:
        wrong = got != expected
    else:
        a, b = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(all="ignore"):
            close = np.abs(a - b) <= _absolute(op, dtype) + RELATIVE[dtype] * np.abs(b)
        wrong = ~(close | (a == b) | (np.isnan(a) & np.isnan(b)))
    if op in ("sin", "cos"):
        wrong &= ~((np.abs(arrays[0].astype(np.float64)) > 1e8) & np.isfinite(arrays[0]))
    at = np.flatnonzero(wrong)
    shown = [(*(x[i] for x in arrays), got[i], expected[i]) for i in at[:5]]
    return (
        [f"{op} to {dtype}: {at.size} of {got.size} wrong, (arguments, got, expected): {shown}"]
        if at.size
        else []
    )


def _absolute(op: str, result: DType) -> float:
    smallest = {DType.F16: 6e-8, DType.BF16: 1e-40, DType.F32: 2e-45}.get(result, 5e-324)
    if result is DType.F64:
        return 1e-13
    return ABSOLUTE.get(op, smallest)


def _is_thorough(target: Target) -> bool:
    """Of the levels one is enough; C has a code generator of its own."""
    return "v4" in target.name or target.kernels == "c"


def test_table(target: Target, tmp_path: Path) -> None:
    groups = _groups(SOMEWHERE if _is_thorough(target) else EVERYWHERE)
    kernels = [group.kernel(target) for group in groups]
    calls = load(kernels, target, tmp_path)
    problems = []
    for group, made in zip(groups, kernels, strict=True):
        arrays = _arguments(group.ops[0], group.dtypes[-1])
        rows = group.run(calls[made.symbol], arrays)
        for op, got in zip(group.ops, rows, strict=True):
            expected = _reference(op, group.dtypes[-1], group.result, arrays)
            problems += _compare(op, group.result, got, expected, arrays)
    assert not problems, "\n".join(problems)


def _castable(source: DType, wanted: DType) -> np.ndarray:
    values = _values(source)
    if source.is_float and not wanted.is_float and wanted is not DType.BOOL:
        info = np.iinfo(wanted.numpy)
        wide = values.astype(np.float64)
        # One unit of the source beyond the edge is out of range already.
        fits = (wide >= max(info.min, -(2.0**62))) & (wide <= min(info.max, 2.0**62) * 0.999)
        values = values[fits]
    return np.tile(values, 64 // values.size + 2)


def test_cast(target: Target, tmp_path: Path) -> None:
    types = (
        list(SOMEWHERE) if _is_thorough(target) else [DType.F32, DType.I64, DType.I32, DType.BOOL, DType.F16]
    )
    pairs = [(a, b) for a in types for b in types]
    kernels = {(a, b): kernel(_nest("cast", [a], b), target) for a, b in pairs}
    calls = load(list(kernels.values()), target, tmp_path)
    problems = []
    for source, wanted in pairs:
        x = _castable(source, wanted)
        with np.errstate(all="ignore"):
            expected = OPS["cast"].reference(x, dtype=wanted)
        got = _call(calls[kernels[source, wanted].symbol], [x], wanted)
        same = got.view(f"u{wanted.bytes}") == expected.view(f"u{wanted.bytes}")
        if wanted.is_float:
            same |= np.isnan(got.astype(np.float64)) & np.isnan(expected.astype(np.float64))
        if not same.all():
            i = np.flatnonzero(~same)[0]
            problems.append(f"{source} {x[i]} to {wanted}: {got[i]}, expected {expected[i]}")
    assert not problems, "\n".join(problems)


def test_bitcast(target: Target, tmp_path: Path) -> None:
    types = SOMEWHERE if _is_thorough(target) else (DType.F32, DType.I32, DType.F64, DType.I64)
    pairs = [(a, b) for a in types for b in types if a.bits == b.bits and DType.BOOL not in (a, b)]
    kernels = {(a, b): kernel(_nest("bitcast", [a], b), target) for a, b in pairs}
    calls = load(list(kernels.values()), target, tmp_path)
    for source, wanted in pairs:
        x = np.tile(_values(source), 3)
        x = x[~np.isnan(x)] if source.is_float else x
        got = _call(calls[kernels[source, wanted].symbol], [x], wanted)
        expected = x.view(wanted.numpy)
        # A NaN may come back as another one from a type that is widened to be computed with.
        same = got.view(f"u{wanted.bytes}") == expected.view(f"u{wanted.bytes}")
        if wanted.is_float:
            same |= np.isnan(got.astype(np.float64)) & np.isnan(expected.astype(np.float64))
        assert same.all(), f"{source} to {wanted}"


@pytest.mark.parametrize("dtype", [DType.I32, DType.I64])
def test_the_least_integer_wraps(dtype: DType, target: Target, compiled: Callable[[Kernel], Call]) -> None:
    least = np.iinfo(dtype.numpy).min
    x = np.full(37, least, dtype.numpy)

    def value(op: str, divisor: int) -> int:
        body: Node = Apply(op, (Load(0), Scalar(divisor, dtype)), dtype)
        nest = Nest((Operand(dtype, "unit"),), Operand(dtype, "unit"), ("kept",), body)
        y = _call(compiled(kernel(nest, target)), [x], dtype)
        assert (y == y[0]).all()
        return int(y[0])

    assert value("div", -1) == least
    assert value("div", 2) == least // 2
    assert value("div", 0) == 0
    assert value("mod", -1) == 0
    assert value("mod", 10) == least % 10


def test_what_makes_no_sense_is_refused(target: Target) -> None:
    with pytest.raises(ModelError, match="no kernel for sub of bool"):
        kernel(_nest("sub", [DType.BOOL, DType.BOOL], DType.BOOL), target)
