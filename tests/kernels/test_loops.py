"""Loop nests against an interpreter of nests in NumPy: strides, gathers, reductions, parts, faults."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.types import DType
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops import (
    Apply,
    Fold,
    Gather,
    Index,
    Load,
    Nest,
    Node,
    Operand,
    Parameter,
    Reduced,
    Scalar,
    kernel,
    symbol,
    text,
)
from isthmus.ops import OPS
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
F32, I32, I64, BOOL = DType.F32, DType.I32, DType.I64, DType.BOOL
UNIT, ZERO, ANY = Operand(F32, "unit"), Operand(F32, "zero"), Operand(F32, "any")
FOLDS = {"sum": np.sum, "prod": np.prod, "max": np.max, "min": np.min}


@dataclass
class Run:
    """One call of a nest's kernel: memory, strides along every loop, (extent, stride) of gather indices."""

    nest: Nest
    extents: tuple[int, ...]
    memories: list[np.ndarray]
    strides: list[tuple[int, ...]]
    y_strides: tuple[int, ...]
    gathers: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    parameters: tuple[int, ...] = ()

    def expected(self) -> tuple[np.ndarray, bool]:
        """The output's memory as the definition of a nest has it, and whether there is a fault."""
        self.fault = False
        grid = np.meshgrid(*(np.arange(e) for e in self.extents), indexing="ij", sparse=True)
        body = np.broadcast_to(self._value(self.nest.body, grid, None), self.extents)
        if self.nest.fold:
            axes = self.nest.reduced_loops
            wide = np.float64 if self.nest_dtype.is_float else self.nest_dtype.numpy
            start = {} if self.nest.fold in ("sum", "prod") else {"initial": self._initial()}
            folded = FOLDS[self.nest.fold](body.astype(wide), axis=axes, keepdims=True, **start)
            zero = np.zeros((1,) * len(grid), np.int64)
            kept = [zero if i in axes else g for i, g in enumerate(grid)]
            finish = self.nest.finish or Reduced()
            body = np.broadcast_to(
                self._value(finish, kept, folded.astype(self.nest_dtype.numpy)), folded.shape
            )
            grid = kept
        y = self._output()
        places = np.broadcast_to(
            sum((g * s for g, s in zip(grid, self.y_strides, strict=True)), np.int64(0)), body.shape
        )
        y[places.reshape(-1)] = body.reshape(-1)
        return y, self.fault

    @property
    def nest_dtype(self) -> DType:
        body = self.nest.body
        return self.nest.operands[body.operand].dtype if isinstance(body, Load | Gather) else body.dtype

    def _initial(self) -> float:
        return -np.inf if self.nest.fold == "max" else np.inf

    def _output(self) -> np.ndarray:
        size = 1 + sum((e - 1) * s for e, s in zip(self.extents, self.y_strides, strict=True) if e > 0)
        return np.full(max(size, 1) + 3, 77).astype(self.nest.output.dtype.numpy)

    def _value(self, node: Node, grid: list[np.ndarray], reduced: np.ndarray | None) -> np.ndarray:
        match node:
            case Scalar(value=value, dtype=dtype):
                return np.asarray(value, dtype.numpy)
            case Parameter(slot=slot, dtype=dtype):
                return np.asarray(self.parameters[slot]).astype(dtype.numpy)
            case Index(loop=loop, dtype=dtype):
                return grid[loop].astype(dtype.numpy)
            case Reduced():
                assert reduced is not None
                return reduced
            case Apply(op=op, args=args, dtype=dtype):
                attrs = {"dtype": dtype} if op in ("cast", "bitcast") else {}
                values = [self._value(a, grid, reduced) for a in args]
                return np.asarray(OPS[op].reference(*values, **attrs)).astype(dtype.numpy)
            case Load(operand=operand) | Gather(operand=operand):
                place: np.ndarray = np.zeros((), np.int64)
                for g, stride in zip(grid, self.strides[operand], strict=True):
                    place = place + g * stride
                indices = node.indices if isinstance(node, Gather) else ()
                for index, (extent, stride) in zip(indices, self.gathers.get(operand, ()), strict=False):
                    chosen = self._value(index, grid, reduced).astype(np.int64)
                    chosen = np.where(chosen < 0, chosen + extent, chosen)
                    valid = (chosen >= 0) & (chosen < extent)
                    self.fault |= not valid.all()
                    place = place + np.where(valid, chosen, 0) * stride
                return self.memories[operand].reshape(-1)[place]

    def check(self, call: Call, parts: int = 1, tolerance: float = 1e-6) -> None:
        """Compare; the kernel does its units in `parts` calls."""
        expected, fault = self.expected()
        y, seen = self.run(call, parts)
        assert seen == (7 if fault else 0)
        if y.dtype.kind == "f":
            np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(y, expected)

    def run(self, call: Call, parts: int = 1) -> tuple[np.ndarray, int]:
        y, fault = self._output(), np.zeros(1, np.int32)
        strides: list[int] = []
        for i, along in enumerate(self.strides):
            strides += [*along, *(v for pair in self.gathers.get(i, ()) for v in pair)]
        strides += self.y_strides
        units = int(np.prod([self.extents[i] for i in self.nest.unit_loops], dtype=np.int64))
        cuts = [units * p // parts for p in range(parts + 1)]
        arrays = np.array([*self.extents, *self.parameters], np.int64), np.array(strides, np.int64)
        for begin, end in itertools.pairwise(cuts):
            call(*self.memories, y, *arrays, fault, 7, begin, end)
        return y, int(fault[0])


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def _row_major(*shape: int) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))


def add(a: Node, b: Node, dtype: DType = F32) -> Apply:
    return Apply("add", (a, b), dtype)


KEPT3 = ("kept", "kept", "kept")


@pytest.mark.parametrize("inner", [1, 3, 16, 45, 150])
@pytest.mark.parametrize("parts", [1, 4])
def test_broadcasting(inner: int, parts: int, target: Target, compiled: Compiled) -> None:
    nest = Nest((UNIT, UNIT, ZERO), UNIT, KEPT3, Apply("mul", (add(Load(0), Load(1)), Load(2)), F32))
    shape = (3, 5, inner)
    Run(
        nest,
        shape,
        [_floats(*shape), _floats(inner), _floats(3)],
        [_row_major(*shape), (0, 0, 1), (1, 0, 0)],
        (5 * inner + 2, inner, 1),
    ).check(compiled(kernel(nest, target)), parts)


@pytest.mark.parametrize("shape", [(7, 40), (33, 70), (1, 1)])
def test_transposing(shape: tuple[int, int], target: Target, compiled: Compiled) -> None:
    rows, columns = shape
    read = Nest((ANY, UNIT), UNIT, ("kept", "kept"), add(Load(0), Load(1)))
    memories = [_floats(columns, rows), _floats(rows, columns)]
    Run(read, shape, memories, [(1, rows), (columns, 1)], (columns, 1)).check(
        compiled(kernel(read, target)), 3
    )
    write = Nest((UNIT,), ANY, ("kept", "kept"), Load(0))
    Run(write, shape, memories[1:], [(columns, 1)], (1, rows)).check(compiled(kernel(write, target)), 2)


def test_negative_strides(target: Target, compiled: Compiled) -> None:
    nest = Nest((ANY,), UNIT, ("kept",), Load(0))
    x = _floats(50)
    fault = np.zeros(1, np.int32)
    y = np.zeros(50, np.float32)
    extents, strides = np.array([50], np.int64), np.array([-1, 1], np.int64)
    compiled(kernel(nest, target))(x[49:], y, extents, strides, fault, 1, 0, 1)
    np.testing.assert_array_equal(y, x[::-1])


def test_without_loops(target: Target, compiled: Compiled) -> None:
    nest = Nest((ZERO, ZERO), ZERO, (), add(Load(0), Load(1)))
    Run(nest, (), [_floats(1), _floats(2)], [(), ()], ()).check(compiled(kernel(nest, target)))


def test_no_units_and_no_columns(target: Target, compiled: Compiled) -> None:
    nest = Nest((UNIT,), UNIT, ("kept", "kept"), Load(0))
    call = compiled(kernel(nest, target))
    for shape in ((0, 4), (4, 0)):
        Run(nest, shape, [_floats(1)], [(4, 1)], (4, 1)).check(call)


def test_in_place(target: Target, compiled: Compiled) -> None:
    nest = Nest((UNIT, UNIT), UNIT, ("kept", "kept"), add(Load(0), Load(1)))
    x, y = _floats(4, 41), _floats(4, 42)[:, :41].copy()
    expected = x + y
    extents, strides = np.array([4, 41], np.int64), np.array([41, 1] * 3, np.int64)
    compiled(kernel(nest, target))(x, y, y, extents, strides, np.zeros(1, np.int32), 1, 0, 4)
    np.testing.assert_array_equal(y, expected)


def test_misaligned(
    target: Target, compiled: Compiled, misaligned: Callable[[np.ndarray], np.ndarray]
) -> None:
    nest = Nest((UNIT, UNIT), UNIT, ("kept", "kept"), add(Load(0), Load(1)))
    a, b, y = misaligned(_floats(3, 70)), misaligned(_floats(70)), misaligned(_floats(3, 70))
    extents, strides = np.array([3, 70], np.int64), np.array([70, 1, 0, 1, 70, 1], np.int64)
    compiled(kernel(nest, target))(a, b, y, extents, strides, np.zeros(1, np.int32), 1, 0, 3)
    np.testing.assert_array_equal(y, a + b)


def test_indices_and_parameters(target: Target, compiled: Compiled) -> None:
    # A causal mask with an offset: column <= row + parameter ? 0 : -inf.
    row, column = Index(0, I64), Index(1, I64)
    seen = Apply("less_equal", (column, add(row, Parameter(1, I64), I64)), BOOL)
    nest = Nest(
        (), UNIT, ("kept", "kept"), Apply("where", (seen, Scalar(0.0, F32), Scalar(-np.inf, F32)), F32)
    )
    Run(nest, (9, 37), [], [], (37, 1), parameters=(5, 12)).check(compiled(kernel(nest, target)), 2)


def test_mixed_widths(target: Target, compiled: Compiled) -> None:
    # (1 - mask) * least, the additive attention mask; mask is int64.
    inverse = Apply("sub", (Scalar(1.0, F32), Apply("cast", (Load(0),), F32)), F32)
    nest = Nest(
        (Operand(I64, "unit"),), UNIT, ("kept", "kept"), Apply("mul", (inverse, Scalar(-3.4e38, F32)), F32)
    )
    mask = np.random.default_rng(1).integers(0, 2, (4, 61))
    Run(nest, (4, 61), [mask], [(61, 1)], (61, 1)).check(compiled(kernel(nest, target)))


# Gathers


def _embedding(ids: np.ndarray) -> Run:
    word = Gather(0, (Load(1),))
    nest = Nest((UNIT, Operand(I64, "zero"), UNIT), UNIT, KEPT3, add(word, Load(2)))
    return Run(
        nest,
        (3, 5, 37),
        [_floats(11, 37), ids, _floats(5, 37)],
        [(0, 0, 1), (5, 1, 0), (0, 37, 1)],
        (5 * 37, 37, 1),
        {0: ((11, 37),)},
    )


def test_rows_are_gathered(target: Target, compiled: Compiled) -> None:
    run = _embedding(np.random.default_rng(2).integers(-11, 11, (3, 5)))
    run.check(compiled(kernel(run.nest, target)), 2)


@pytest.mark.parametrize(
    "bad", [11, -12, 1 << 40, -(1 << 62), np.iinfo(np.int64).max, np.iinfo(np.int64).min]
)
def test_an_index_out_of_range(bad: int, target: Target, compiled: Compiled) -> None:
    ids = np.zeros((3, 5), np.int64)
    ids[2, 3] = bad
    run = _embedding(ids)
    assert run.expected()[1]
    run.check(compiled(kernel(run.nest, target)))


@pytest.mark.parametrize("bad", [None, 8, -9])
@pytest.mark.parametrize("inner", ["unit", "zero"])
def test_elements_are_gathered(bad: int | None, inner: str, target: Target, compiled: Compiled) -> None:
    ids = np.random.default_rng(4).integers(-8, 8, (4, 53)).astype(np.int32)
    if bad is not None:
        ids[3, 52 if inner == "unit" else 3] = bad
    nest = Nest(
        (Operand(F32, inner), Operand(I32, "unit")),
        UNIT,
        ("kept", "kept"),
        Gather(0, (Load(1),)),  # type: ignore[arg-type]
    )
    strides = [(0, int(inner == "unit")), (53, 1)]
    run = Run(nest, (4, 53), [_floats(8, 53), ids], strides, (53, 1), {0: ((8, 53),)})
    run.check(compiled(kernel(nest, target)), 2)


def test_gathered_by_two_indices(target: Target, compiled: Compiled) -> None:
    # One index varies by row, the other by element.
    nest = Nest(
        (ZERO, Operand(I64, "zero"), Operand(I64, "unit")),
        UNIT,
        ("kept", "kept"),
        Gather(0, (Load(1), Load(2))),
    )
    rng = np.random.default_rng(5)
    memories = [_floats(6, 9), rng.integers(-6, 6, 7), rng.integers(-9, 9, 40)]
    run = Run(nest, (7, 40), memories, [(0, 0), (1, 0), (0, 1)], (40, 1), {0: ((6, 9), (9, 1))})
    run.check(compiled(kernel(nest, target)))


def test_nothing_to_gather_from(target: Target, compiled: Compiled) -> None:
    run = _embedding(np.zeros((3, 5), np.int64))
    run.gathers = {0: ((0, 37),)}
    run.memories[0] = np.zeros(0, np.float32)
    y, fault = run.run(compiled(kernel(run.nest, target)))
    assert fault == 7
    assert (y == 77).all()
    run.extents = (3, 0, 37)
    assert run.run(compiled(kernel(run.nest, target)))[1] == 0


# Reductions


@pytest.mark.parametrize("fold", list(FOLDS))
@pytest.mark.parametrize("extents", [(3, 2, 5), (2, 3, 150), (4, 1, 16), (3, 0, 5), (3, 2, 0)])
def test_reduced_rows(fold: Fold, extents: tuple[int, int, int], target: Target, compiled: Compiled) -> None:
    body = Apply("mul", (Load(0), Load(1)), F32)
    nest = Nest((UNIT, ZERO), ZERO, ("kept", "reduced", "reduced"), body, fold)
    memories = [_floats(*extents) if all(extents) else _floats(1), _floats(8)]
    strides = [_row_major(*extents), (1, 0, 0)]
    Run(nest, extents, memories, strides, (2, 0, 0)).check(compiled(kernel(nest, target)), 2, 3e-6)


@pytest.mark.parametrize("fold", list(FOLDS))
@pytest.mark.parametrize("extents", [(3, 6, 5), (2, 3, 170), (4, 1, 16), (3, 0, 37)])
def test_reduced_columns(
    fold: Fold, extents: tuple[int, int, int], target: Target, compiled: Compiled
) -> None:
    nest = Nest((UNIT, ZERO), UNIT, ("kept", "reduced", "kept"), Apply("mul", (Load(0), Load(1)), F32), fold)
    memories = [_floats(*extents) if all(extents) else _floats(1), _floats(8)]
    strides = [_row_major(*extents), (0, 1, 0)]
    Run(nest, extents, memories, strides, (extents[2], 0, 1)).check(compiled(kernel(nest, target)), 2, 3e-6)


@pytest.mark.parametrize("fold", list(FOLDS))
@pytest.mark.parametrize("dtype", [DType.I64, DType.U8, BOOL])
def test_reduced_integers(fold: Fold, dtype: DType, target: Target, compiled: Compiled) -> None:
    nest = Nest((Operand(dtype, "unit"),), Operand(dtype, "zero"), ("kept", "reduced"), Load(0), fold)
    x = np.random.default_rng(6).integers(0, 2 if dtype is BOOL else 200, (3, 171)).astype(dtype.numpy)
    y = np.zeros(3, dtype.numpy)
    extents, strides = np.array([3, 171], np.int64), np.array([171, 1, 1, 0], np.int64)
    compiled(kernel(nest, target))(x, y, extents, strides, np.zeros(1, np.int32), 1, 0, 3)
    attrs = {} if fold in ("max", "min") else {"dtype": dtype.numpy}
    np.testing.assert_array_equal(y, FOLDS[fold](x, axis=1, **attrs))


def test_extremes_of_nan(target: Target, compiled: Compiled) -> None:
    x = _floats(4, 77)
    x[0, 3], x[1, 76], x[2, :] = np.nan, np.nan, -np.inf
    for fold in ("max", "min"):
        nest = Nest((UNIT,), ZERO, ("kept", "reduced"), Load(0), fold)
        Run(nest, (4, 77), [x], [(77, 1)], (1, 0)).check(compiled(kernel(nest, target)))


@pytest.mark.parametrize("rows", [6, 0])
def test_pooling(rows: int, target: Target, compiled: Compiled) -> None:
    # sum over rows of x * mask, divided by max(count, tiny), count loaded in finish.
    count = Apply("max", (Load(2), Scalar(1e-9, F32)), F32)
    nest = Nest(
        (UNIT, ZERO, ZERO),
        UNIT,
        ("kept", "reduced", "kept"),
        Apply("mul", (Load(0), Load(1)), F32),
        "sum",
        Apply("div", (Reduced(), count), F32),
    )
    memories = [_floats(2, 6, 100), np.ones((2, 6), np.float32), np.array([6, 3], np.float32)]
    strides = [(600, 100, 1), (6, 1, 0), (1, 0, 0)]
    Run(nest, (2, rows, 100), memories, strides, (100, 0, 1)).check(compiled(kernel(nest, target)), 2)


def test_mean_and_bias(target: Target, compiled: Compiled) -> None:
    mean = Apply("div", (Reduced(), Parameter(0, F32)), F32)
    nest = Nest((UNIT, ANY), ZERO, ("kept", "reduced"), Load(0), "sum", add(mean, Load(1)))
    strides = [(90, 1), (3, 0)]
    Run(nest, (5, 90), [_floats(5, 90), _floats(15)], strides, (1, 0), parameters=(90,)).check(
        compiled(kernel(nest, target))
    )


def test_everything_reduced_with_gather(target: Target, compiled: Compiled) -> None:
    nest = Nest((ZERO, Operand(I64, "unit")), ZERO, ("reduced",), Gather(0, (Load(1),)), "sum")
    ids = np.random.default_rng(8).integers(-20, 20, 99)
    Run(nest, (99,), [_floats(20), ids], [(0,), (1,)], (0,), {0: ((20, 1),)}).check(
        compiled(kernel(nest, target)), 1, 1e-5
    )


# Names and rules


def test_the_symbol_follows_the_text() -> None:
    nest = Nest((UNIT, UNIT), UNIT, ("kept",), Apply("mul", (add(Load(0), Load(1)), Load(1)), F32))
    assert symbol(nest).startswith("loops_add_mul_")
    assert symbol(nest) == symbol(Nest(*(getattr(nest, f) for f in ("operands", "output", "loops", "body"))))
    others = [
        Nest((UNIT, ZERO), UNIT, ("kept",), nest.body),
        Nest((UNIT, UNIT), UNIT, ("kept", "kept"), nest.body),
        Nest((UNIT, UNIT), UNIT, ("kept",), Apply("mul", (add(Load(1), Load(0)), Load(1)), F32)),
    ]
    assert len({symbol(n) for n in (nest, *others)}) == 4
    assert "%2 = f32 add %0 %1" in text(nest)


def test_zero_and_minus_zero_are_different_constants() -> None:
    texts = {text(Nest((), UNIT, ("kept",), Scalar(value, F32))) for value in (0.0, -0.0)}
    assert len(texts) == 2


def test_shared_nodes_take_linear_time(target: Target, compiled: Compiled) -> None:
    node: Node = Load(0)
    for _ in range(40):
        half = Apply("mul", (node, Scalar(0.5, F32)), F32)
        node = add(half, half)
    nest = Nest((UNIT,), UNIT, ("kept",), node)
    # The interpreter would take 2^40 steps; halving and doubling is the identity.
    x, y = _floats(35), np.zeros(35, np.float32)
    extents, strides = np.array([35], np.int64), np.array([1, 1], np.int64)
    compiled(kernel(nest, target))(x, y, extents, strides, np.zeros(1, np.int32), 1, 0, 1)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("nest", "message"),
    [
        (Nest((UNIT,), UNIT, ("reduced", "kept", "kept"), Load(0), "sum"), "loops must be"),
        (Nest((UNIT,), UNIT, ("kept",), Load(0), "sum"), "fold sum over"),
        (Nest((UNIT,), UNIT, ("kept",), Apply("softmax", (Load(0),), F32)), "not a pointwise op"),
        (Nest((UNIT,), Operand(I32, "unit"), ("kept",), Load(0)), "the output is i32"),
        (Nest((UNIT,), UNIT, ("kept",), Reduced()), "outside of finish"),
    ],
)
def test_rules(nest: Nest, message: str, target: Target) -> None:
    with pytest.raises(CompilerBug, match=message):
        kernel(nest, target)
