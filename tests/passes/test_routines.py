"""Products that a chip has a routine for: they become `integer_matmul`, and mean the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import weight_of
from isthmus.ir.types import DType
from isthmus.ops.movement import transpose
from isthmus.ops.nn import matmul
from isthmus.ops.pointwise import cast, sub
from isthmus.passes.pipeline import run
from isthmus.target import Routine, Target
from isthmus.tools.conformance.cases import Case, Maker, program

SIGNED = Routine("integer_matmul", ("i8", "i8"), "i32", "signed", "static int x;")
MIXED = Routine("integer_matmul", ("u8", "i8"), "i32", "mixed", "static int x;")


def product(left: DType, right: DType, zero: bool = False, to: DType = DType.I32) -> Case:
    maker = Maker("test", f"{left} {right} {zero} {to}")
    x = cast(maker.integers(f"{left}[b,n,9]"), dtype=to)
    if zero:
        x = sub(x, cast(maker.integers(f"{left}[]"), dtype=to))
    return maker.case(matmul(x, cast(maker.whole_weight(9, 4, dtype=right), dtype=to)))


def after(case: Case, target: Target, *routines: Routine) -> Counter[str]:
    """The ops of the legal program, which has to mean what the given one does."""
    whole, arrays = program([case])
    legal = run(whole, replace(target, routines=routines))
    for name, wanted in evaluate(whole.main, arrays).items():
        np.testing.assert_array_equal(evaluate(legal.main, arrays)[name], wanted)
    return Counter(node.op.name for node in legal.main.nodes())


@pytest.mark.parametrize("zero", [False, True])
def test_bytes_go_to_the_routine(zero: bool, target: Target) -> None:
    ops = after(product(DType.U8, DType.I8, zero), target, SIGNED, MIXED)
    assert ops["integer_matmul"] == 1 and not ops["linear"] and not ops["matmul"]
    assert after(product(DType.I8, DType.I8, zero), target, SIGNED)["integer_matmul"] == 1


def test_what_the_routine_does_not_take_goes_the_usual_way(target: Target) -> None:
    for case, routines in (
        (product(DType.U8, DType.I8), ()),
        (product(DType.U8, DType.I8), (SIGNED,)),
        (product(DType.U8, DType.U8), (SIGNED, MIXED)),
        (product(DType.I16, DType.I8), (SIGNED, MIXED)),
        (product(DType.I8, DType.I8, to=DType.I64), (SIGNED, MIXED)),
    ):
        ops = after(case, target, *routines)
        assert not ops["integer_matmul"] and ops["linear"] + ops["reduce_sum"] > 0


def test_weights_stay_bytes(target: Target) -> None:
    whole, _ = program([product(DType.U8, DType.I8)])
    legal = run(whole, replace(target, routines=(MIXED,)))
    weights = [weight_of(node) for node in legal.main.nodes() if weight_of(node) is not None]
    assert [str(weight.type) for weight in weights if weight is not None] == ["i8[9,4]"]


def test_a_cast_that_wraps_is_kept(target: Target) -> None:
    """Numbers that were cut to bytes are those bytes, not what they were before."""
    maker = Maker("test", "wrapping")
    cut = cast(maker.integers("i32[n,9]"), dtype=DType.I8)
    w = cast(maker.whole_weight(9, 4), dtype=DType.I32)
    assert after(maker.case(matmul(cast(cut, dtype=DType.I32), w)), target, SIGNED)["integer_matmul"] == 1


def test_two_computed_matrices(target: Target) -> None:
    maker = Maker("test", "computed")
    a, b = maker.integers("u8[n,9]"), maker.integers("i8[4,9]")
    wide = [cast(v, dtype=DType.I32) for v in (a, transpose(b, perm=(1, 0)))]
    assert after(maker.case(matmul(wide[0], wide[1])), target, MIXED)["integer_matmul"] == 1
