"""Kernels printed as C: each construct against NumPy, with traps for all that C leaves undefined."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from strict_c import CHECKED_C, C, with_flags
from tvm import tirx

from isthmus.codegen.kernel_c import kernel_c
from isthmus.codegen.native import load
from isthmus.errors import CompilerBug
from isthmus.kernels import math as kmath
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

INTEGERS = tuple(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))
FLOATS = ("float32", "float64")
Node = Callable[..., Expr]


def elementwise(symbol: str, source: str, nodes: Mapping[str, Node], target: Target = CHECKED_C) -> Kernel:
    """y[j][i] = nodes[j](a[i], b[i], c[i])"""
    k = Builder(symbol, target)
    a, b, c = (k.input(name, source) for name in "abc")
    y, n = k.output("y", source), k.size("n")
    with k.loop("i", 0, n) as i:
        p, q, r = (k.let(x, memory.load(i)) for x, memory in (("p", a), ("q", b), ("r", c)))
        for j, node in enumerate(nodes.values()):
            y.store(i + n * j, node(k, p, q, r))
    return k.finish()


def random_values(dtype: str, count: int = 300) -> np.ndarray:
    random = np.random.default_rng(len(dtype) + count)
    edges: Sequence[float]
    if dtype in FLOATS:
        edges = [0.0, -0.0, 1.5, -2.5, np.inf, -np.inf, np.nan, 1e-40, 3e38, 0.5]
        return np.concatenate([np.array(edges), random.standard_normal(count) * 100]).astype(dtype)
    info = np.iinfo(dtype)
    drawn = random.integers(info.min, info.max, count, dtype, endpoint=True)
    return np.concatenate([np.array([info.min, info.max, 0, 1, info.max - 1], dtype), drawn])


# Of two numbers, the second a shift or a divisor in the last rows.
OPERATIONS: dict[str, Node] = {
    "add": lambda k, p, q, r: tirx.Add(p, q),
    "sub": lambda k, p, q, r: tirx.Sub(p, q),
    "mul": lambda k, p, q, r: tirx.Mul(p, q),
    "min": lambda k, p, q, r: tirx.Min(p, q),
    "max": lambda k, p, q, r: tirx.Max(p, q),
    "less": lambda k, p, q, r: k.select(p < q, p, q),
    "more": lambda k, p, q, r: k.select(p >= q, p, q),
    "same": lambda k, p, q, r: k.select(k.equal(p, q), p, r),
    "both": lambda k, p, q, r: k.select(tirx.And(p > q, tirx.Not(tirx.Or(p <= r, k.equal(q, r)))), p, q),
}
FLOATING: dict[str, Node] = {**OPERATIONS, "nan": lambda k, p, q, r: k.select(k.is_nan(p), q, p)}
INTEGRAL: dict[str, Node] = {
    **OPERATIONS,
    "and": lambda k, p, q, r: tirx.bitwise_and(p, q),
    "or": lambda k, p, q, r: tirx.bitwise_or(p, q),
    "xor": lambda k, p, q, r: tirx.bitwise_xor(p, q),
    "not": lambda k, p, q, r: tirx.bitwise_not(p),
    "nested": lambda k, p, q, r: tirx.Sub(tirx.Mul(tirx.Add(p, q), tirx.Sub(p, r)), tirx.Mul(q, r)),
    "left": lambda k, p, q, r: tirx.shift_left(p, r),
    "right": lambda k, p, q, r: tirx.shift_right(p, r),
    "div": lambda k, p, q, r: tirx.Div(p, r),
    "mod": lambda k, p, q, r: tirx.Mod(p, r),
}


def expected(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> dict[str, np.ndarray]:
    """The same operations in NumPy, which wraps around; of truncating division, in Python's own numbers."""
    with np.errstate(all="ignore"):
        rows = {
            "add": p + q, "sub": p - q, "mul": p * q,
            "min": np.where(p < q, p, q), "max": np.where(p > q, p, q),
            "less": np.where(p < q, p, q), "more": np.where(p >= q, p, q), "same": np.where(p == q, p, r),
            "both": np.where((p > q) & ~((p <= r) | (q == r)), p, q), "nan": np.where(np.isnan(p), q, p),
        }  # fmt: skip
        if p.dtype.kind == "f":
            return rows
        pairs = [(int(a), int(b)) for a, b in zip(p, r, strict=True)]
        quotients = [abs(a) // b if a >= 0 else -(abs(a) // b) for a, b in pairs]
        rest = [a - b * quotient for (a, b), quotient in zip(pairs, quotients, strict=True)]
        return {
            **rows, "and": p & q, "or": p | q, "xor": p ^ q, "not": ~p, "nested": (p + q) * (p - r) - q * r,
            "left": np.left_shift(p, r), "right": np.right_shift(p, r),
            "div": np.array(quotients, p.dtype), "mod": np.array(rest, p.dtype),
        }  # fmt: skip


def test_operations(tmp_path: Path) -> None:
    tables = {dtype: FLOATING if dtype in FLOATS else INTEGRAL for dtype in (*INTEGERS, *FLOATS)}
    kernels = {dtype: elementwise(f"table_{dtype}", dtype, nodes) for dtype, nodes in tables.items()}
    calls = load(list(kernels.values()), CHECKED_C, tmp_path)
    for dtype, nodes in tables.items():
        p, q = random_values(dtype), random_values(dtype)[::-1].copy()
        q[::3] = p[::3]
        # Small and positive: a shift that keeps within the type, a divisor that is neither 0 nor -1.
        r = random_values(dtype)[::2].repeat(2)[: p.size] if dtype in FLOATS else (np.arange(p.size) % 7 + 1)
        r = r.astype(dtype)
        y = np.zeros((len(nodes), p.size), dtype)
        calls[kernels[dtype].symbol](p, q, r, y, p.size)
        wanted = expected(p, q, r)
        for row, name in zip(y, nodes, strict=True):
            np.testing.assert_array_equal(row, wanted[name], err_msg=f"{name} of {dtype}")


def converted(symbol: str, source: str, wanted: Sequence[str], node: Callable[..., Expr]) -> Kernel:
    """y_j[i] = a[i] as the type wanted[j]"""
    k = Builder(symbol, CHECKED_C)
    a, n = k.input("a", source), k.size("n")
    outputs = [k.output(f"y_{dtype}", dtype) for dtype in wanted]
    with k.loop("i", 0, n) as i:
        for y, dtype in zip(outputs, wanted, strict=True):
            y.store(i, node(k, a.load(i), dtype))
    return k.finish()


def test_casts(tmp_path: Path) -> None:
    types = (*INTEGERS, *FLOATS)
    kernels = {source: converted(f"casts_{source}", source, types, Builder.cast) for source in types}
    calls = load(list(kernels.values()), CHECKED_C, tmp_path)
    for source in types:
        a = random_values(source)
        outputs = [np.zeros(a.size, dtype) for dtype in types]
        calls[kernels[source].symbol](a, a.size, *outputs)
        for got in outputs:
            with np.errstate(all="ignore"):
                wanted = a.astype(got.dtype)
                if source in FLOATS and got.dtype.kind in "iu":
                    info = np.iinfo(got.dtype)
                    fits = (a > float(info.min) - 1) & (a < float(info.max))
                    wanted, got = wanted[fits], got[fits]
            np.testing.assert_array_equal(got, wanted, err_msg=f"{source} to {wanted.dtype}")


def test_floats_that_fit_no_integer_give_the_least(tmp_path: Path) -> None:
    a = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 2.0**31, 2.0**63], np.float32)
    kernel = converted("no_fit", "float32", ("int32", "int64"), Builder.cast)
    narrow, wide = np.zeros(a.size, np.int32), np.zeros(a.size, np.int64)
    load([kernel], CHECKED_C, tmp_path)["no_fit"](a, a.size, narrow, wide)
    assert narrow.tolist() == [-(2**31)] * 7
    assert wide.tolist() == [-(2**63)] * 5 + [2**31, -(2**63)]


def test_bits_of_other_types(tmp_path: Path) -> None:
    types = {bits: [t for t in (*INTEGERS, *FLOATS) if t.endswith(str(bits))] for bits in (8, 16, 32, 64)}
    kernels = {t: converted(f"bits_{t}", t, same, Builder.bits) for same in types.values() for t in same}
    calls = load(list(kernels.values()), CHECKED_C, tmp_path)
    for bits, same in types.items():
        for source in same:
            a = random_values(source)
            outputs = [np.zeros(a.size, dtype) for dtype in same]
            calls[kernels[source].symbol](a, a.size, *outputs)
            for got in outputs:
                np.testing.assert_array_equal(got.view(f"u{bits // 8}"), a.view(f"u{bits // 8}"))


FUNCTIONS = {
    "sqrt": (kmath.sqrt, np.sqrt),
    "abs": (kmath.absolute, np.abs),
    "floor": (kmath.floor, np.floor),
    "ceil": (kmath.ceil, np.ceil),
    "trunc": (kmath.truncate, np.trunc),
    "rint": (kmath.round_even, np.rint),
}


@pytest.mark.parametrize("own", [False, True], ids=["instructions", "own"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_library_functions_are_exact(dtype: str, own: bool, tmp_path: Path) -> None:
    """On all exponents, on halves, around the numbers from which on all are whole; the bits are NumPy's."""
    target = with_flags(CHECKED_C, *(("-DISTHMUS_OWN_SQRT",) if own else ()))
    unsigned = f"u{np.dtype(dtype).itemsize}"
    random = np.random.default_rng(5)
    drawn = random.integers(0, np.iinfo(unsigned).max, 200_000, unsigned, endpoint=True).view(dtype)
    whole = 2.0 ** np.arange(0, 60)[:, None] + np.arange(-8, 9)[None] * 0.5
    halves = np.arange(-4000, 4000) * 0.5
    x = np.concatenate([drawn, *(s * v.ravel().astype(dtype) for s in (1, -1) for v in (whole, halves))])
    x = x.astype(dtype)
    nodes: dict[str, Node] = {
        name: lambda k, p, q, r, f=function: f(k, p) for name, (function, _) in FUNCTIONS.items()
    }
    y = np.zeros((len(nodes), x.size), dtype)
    kernel = elementwise("functions", dtype, nodes, target)
    load([kernel], target, tmp_path)["functions"](x, x, x, y, x.size)
    for row, (name, (_, reference)) in zip(y, FUNCTIONS.items(), strict=True):
        with np.errstate(all="ignore"):
            wanted = reference(x)
        same = (row.view(unsigned) == wanted.view(unsigned)) | (np.isnan(row) & np.isnan(wanted))
        assert same.all(), (name, x[~same][:5], row[~same][:5], wanted[~same][:5])


def test_constants_are_exact(tmp_path: Path) -> None:
    floats = [0.0, -0.0, 1.0, -1.0, 0.1, -1e-45, 3.4e38, 1 / 3, 123456.0, 0.125, np.inf, -np.inf, np.nan, 1e6]
    values: dict[str, list[float]] = dict.fromkeys(FLOATS, floats)
    for dtype in INTEGERS:
        info = np.iinfo(dtype)
        values[dtype] = [int(info.min), int(info.min) + 1, 0, 1, 100, int(info.max) - 1, int(info.max)]
    kernels = []
    for dtype, constants in values.items():
        k = Builder(f"constants_{dtype}", CHECKED_C)
        y = k.output("y", dtype)
        for i, value in enumerate(constants):
            y.store(i, tirx.const(value, dtype))
        kernels.append(k.finish())
    calls = load(kernels, CHECKED_C, tmp_path)
    for dtype, constants in values.items():
        out, wanted = np.zeros(len(constants), dtype), np.array(constants, dtype)
        calls[f"constants_{dtype}"](out)
        np.testing.assert_array_equal(out, wanted)
        assert (np.signbit(out) == np.signbit(wanted))[out == wanted].all()


def test_loops_branches_and_memory(tmp_path: Path) -> None:
    """A loop's end is computed once, before it; locals live where they are declared; else-if chains."""
    k = Builder("statements", CHECKED_C)
    y, n = k.output("y", "int64"), k.size("n")
    end = k.register("end", 1, 0, "int64")
    end.set(n)
    memory = k.stack("memory", 4, "int64")
    count = k.register("count", 1, 0, "int64")
    with k.loop("i", 1, end.value) as i:
        end.set(end.value + 1)
        count.add(i)
        with k.loop("j", i, i + 2) as j:
            memory.store(k.remainder(j, 4), j)
    k.choose(
        [(n < 3, lambda: y.store(0, -1)), (n < 10, lambda: y.store(0, count.value))],
        lambda: y.store(0, end.value),
    )
    with k.loop("m", 0, 4) as m:
        y.store(m + 1, memory.load(m))
    kernel = k.finish()
    call = load([kernel], CHECKED_C, tmp_path)[kernel.symbol]
    for size, first in ((2, -1), (5, 10), (12, 23)):
        out = np.zeros(5, np.int64)
        call(out, size)
        expected = [0] * 4
        for number in range(1, size):
            for other in (number, number + 1):
                expected[other % 4] = other
        assert out.tolist() == [first, *expected]


def test_names_are_made_to_fit(tmp_path: Path) -> None:
    """Names that mean something in C, that repeat, that the header has; what nobody uses is not there."""
    k = Builder("names", CHECKED_C)
    x, y, unused = k.input("int"), k.output("f32_max"), k.size("while")
    k.let("nobody", x.load(1) * 2.0)
    total = x.load(0)
    for _ in range(3):
        total = k.let("uint32_t", total + x.load(0))
    y.store(0, total)
    x.prefetch(unused)
    text = kernel_c(k.finish())
    assert "nobody" not in text and "prefetch" not in text and "(void)while_2;" in text
    out = np.zeros(1, np.float32)
    load([k.finish()], CHECKED_C, tmp_path)["names"](np.array([1.5, 0], np.float32), out, 0)
    assert out[0] == 6


def test_it_can_be_read() -> None:
    k = Builder("scale_relu_f32", C)
    x, y, alpha, n = k.input("x"), k.output("y"), k.scalar("alpha"), k.size("n")

    def element(i: Expr, lanes: int) -> None:
        scaled = k.let("scaled", x.load(i, lanes) * alpha)
        y.store(i, k.select(scaled < 0.0, 0.0, scaled))

    k.vectorized("i", n, element)
    assert kernel_c(k.finish()) == (
        '#include "kernel.h"\n\n'
        "void scale_relu_f32(const float *x, float *y, float alpha, int64_t n) {\n"
        "  for (int64_t i_block = 0; i_block < n; i_block++) {\n"
        "    const float scaled = x[i_block] * alpha;\n"
        "    y[i_block] = (scaled < 0.0f) ? 0.0f : scaled;\n"
        "  }\n"
        "}\n"
    )


def _refused(body: Callable[[Builder], None]) -> str:
    k = Builder("refused", C)
    body(k)
    with pytest.raises(CompilerBug) as caught:
        kernel_c(k.finish())
    return str(caught.value)


def test_what_cannot_be_printed_is_refused() -> None:
    assert "an element at int64x4" in _refused(lambda k: k.output("y").store(0, k.input("x").load(0, 4)))
    assert "NE" in _refused(
        lambda k: k.output("y").store(
            0, tirx.Select(tirx.NE(k.scalar("a"), k.scalar("b")), k.scalar("c"), k.scalar("d"))
        )
    )
    assert "llvm.sin" in _refused(
        lambda k: k.output("y").store(0, k.intrinsic("float32", "llvm.sin", k.scalar("a")))
    )
    assert "llvm.trap" in _refused(lambda k: k.intrinsic_statement("llvm.trap"))


OVERFLOW = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from strict_c import CHECKED_C
from isthmus.codegen.native import load
from isthmus.kernels.builder import Builder
k = Builder("overflow", CHECKED_C)
y, n = k.output("y", "int64"), k.size("n")
y.store(0, n * n)
out = np.zeros(1, np.int64)
call = load([k.finish()], CHECKED_C, Path(sys.argv[1]))["overflow"]
call(out, 3)
print(out[0], flush=True)
call(out, 1 << 40)
print("went on")
"""


def test_the_traps_are_real(tmp_path: Path, root: Path) -> None:
    """A position that overflows, which no model makes, is undefined, and ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", OVERFLOW, str(tmp_path), str(root / "tests" / "support")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "9\n", done.stderr
    assert done.returncode in (-signal.SIGILL, -signal.SIGTRAP)


def test_the_header_names_are_reserved(root: Path) -> None:
    header = (root / "compiler" / "runtime" / "c" / "kernel.h").read_text()
    functions = set(re.findall(r"^static inline \w+ (\w+)\(", header, re.MULTILINE))
    assert {"f32_sqrt", "f64_rint", "u64_from_float"} <= functions
    k = Builder("shadow", C)
    x, y = k.input("x"), k.output("y")
    for name in sorted(functions):
        y.store(0, k.let(name, x.load(0) + 1.0))
    assert not set(re.findall(r"const float (\w+) =", kernel_c(k.finish()))) & functions
