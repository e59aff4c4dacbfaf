"""The verifier finds each broken invariant, all of them at once, and prints them where they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import CompilerBug
from isthmus.ir.dims import symbol
from isthmus.ir.encodings import Padded, Panels
from isthmus.ir.graph import (
    HOLE,
    WEIGHT,
    Graph,
    Marker,
    NamedDim,
    Program,
    Value,
    constant,
    graph_input,
    weight_value,
)
from isthmus.ir.types import DType, TensorType
from isthmus.ir.verify import check, report, verify
from isthmus.ir.weights import InFile, InMemory, Weight
from isthmus.ops.movement import gather, transpose
from isthmus.ops.pointwise import add, exp, relu

n = symbol("n")
F32 = DType.F32
TYPE = TensorType(F32, (n, 4))
X = graph_input("x", TYPE)


def program_of(*outputs: Value, inputs: tuple[Value, ...] = (X,), dims: tuple[NamedDim, ...] = ()) -> Program:
    graph = Graph("main", inputs, tuple((f"y{i}", v) for i, v in enumerate(outputs)))
    return Program("m", (graph,), dims or (NamedDim("n", 1, 512),))


def messages(program: Program) -> list[str]:
    report(program, verify(program))  # must not fail, whatever is wrong
    return [d.message for d in verify(program)]


def weight_of_type(type_: TensorType, data: bytes) -> Value:
    return weight_value(Weight("w", type_, InMemory(data)))


GOOD = program_of(relu(X))
HOLED = Value(relu, (Value(HOLE, (), (("name", "h"),), None),), (), TYPE)
SQUARE = TensorType(F32, (2, 2))
BROKEN = [
    (replace(GOOD, graphs=()), "the program has no graph"),
    (replace(GOOD, graphs=GOOD.graphs * 2), "2 graphs are called 'main'"),
    (replace(GOOD, dims=GOOD.dims * 2), "2 dims are called 'n'"),
    (replace(GOOD, dims=(*GOOD.dims, NamedDim("a b"))), "'a b' cannot name a dim"),
    (replace(GOOD, dims=(*GOOD.dims, NamedDim("min"))), "'min' cannot name a dim"),
    (replace(GOOD, dims=(NamedDim("n", 5, 4),)), "the bounds of 'n' hold no size"),
    (replace(GOOD, dims=(NamedDim("n", -1),)), "the bounds of 'n' hold no size"),
    (program_of(), "the graph has no outputs"),
    (program_of(relu(X), inputs=(X, graph_input("x", TYPE))), "2 inputs are called 'x'"),
    (
        replace(GOOD, graphs=(Graph("g", (X,), (("y", X), ("y", X))),)),
        "2 outputs are called 'y'",
    ),
    (program_of(relu(X), inputs=()), "the graph does not declare its input 'x'"),
    (program_of(relu(X), inputs=(X, constant("c", np.zeros(3)))), "the graph declares weight as an input"),
    (program_of(relu(X), dims=(NamedDim("m"),)), "the program does not declare the dim 'n'"),
    (
        program_of(Value(relu, (X,), (), TensorType(F32, (symbol("m"), 4)))),
        "the program does not declare the dim 'm'",
    ),
    (
        program_of(relu(graph_input("x", TensorType(F32, (2 * n + 1,)))), inputs=()),
        "no axis of an input has the size 'n'",
    ),
    (program_of(Value(relu, (X,), (), TensorType(F32, (n, 5)))), "declared f32[n,5], inferred f32[n,4]"),
    (program_of(Value(relu, (X,), (), None)), "the value has no type"),
    (program_of(Value(relu, (X,), (("axis", 1),), TYPE)), "relu takes attributes [], has ['axis']"),
    (program_of(Value(relu, (X, X), (), TYPE)), "relu takes 1 to 1 arguments, has 2"),
    (
        program_of(Value(transpose, (X,), (("perm", (1.0, 0)),), TYPE)),
        "attribute perm should be of kind ints, is (1.0, 0)",
    ),
    (
        program_of(Value(transpose, (X,), (("perm", Marker("p")),), TYPE)),
        "attribute perm is a marker",
    ),
    (program_of(Value(transpose, (X,), (("perm", (0, 0)),), TYPE)), "(0, 0) is not a permutation"),
    (
        program_of(Value(gather, (X, X), (("axis", True),), TYPE)),
        "attribute axis should be of kind int, is True",
    ),
    (program_of(HOLED), "part of a pattern is left in the graph"),
    (
        program_of(exp(graph_input("x", TensorType(F32, (n - 600,)))), inputs=()),
        "the size n-600 is always negative",
    ),
    (
        program_of(replace(X, type=replace(TYPE, shape=(2, 2), encoding=Panels(4)))),
        "only weights have encodings",
    ),
    (program_of(weight_of_type(SQUARE, bytes(12))), "f32[2,2] needs 16 bytes, there are 12"),
    (
        program_of(weight_value(Weight("w", SQUARE, InFile(Path("gone"), 0, 20)))),
        "f32[2,2] needs 16 bytes, there are 20",
    ),
    (program_of(weight_of_type(TYPE, b"")), "a weight has no symbolic dims, this is f32[n,4]"),
    (
        program_of(weight_of_type(replace(SQUARE, encoding=Padded(4)), bytes(16))),
        "the encoding padded(4) does not fit the shape of f32[2,2]",
    ),
    (
        program_of(Value(WEIGHT, (), weight_of_type(SQUARE, bytes(16)).attrs, TensorType(F32, (4,)))),
        "declared f32[4], the weight is f32[2,2]",
    ),
    (
        program_of(Value(WEIGHT, (), (("weight", 3),), SQUARE)),
        "attribute weight should be of kind weight, is 3",
    ),
]


def test_a_good_program() -> None:
    assert verify(GOOD) == []
    check(GOOD, "import")


@pytest.mark.parametrize(("program", "message"), BROKEN, ids=[message[:50] for _, message in BROKEN])
def test_each_broken_invariant_is_found(program: Program, message: str) -> None:
    assert any(message in found for found in messages(program))


def test_all_problems_under_their_lines() -> None:
    wrong = Value(relu, (X,), (), TensorType(F32, (n, 9)))
    broken = Value(transpose, (add(wrong, wrong),), (("perm", (0, 0)),), TYPE, "/Transpose")
    program = replace(program_of(broken), dims=(NamedDim("n", 3, 2),))
    assert report(program, verify(program)) == (
        """program m {
  dim n = 3..2
  ^ error: the bounds of 'n' hold no size
  graph main(%x: f32[n,4]) {
    %0 = relu(%x) : f32[n,9]
    ^ error: declared f32[n,9], inferred f32[n,4]
    %1 = add(%0, %0) : f32[n,9]
    %2 = transpose(%1) perm=[0,0] : f32[n,4] at /Transpose
    ^ error: (0, 0) is not a permutation of the axes of f32[n,9]
    return y0=%2
  }
}
"""
    )


def test_an_undeclared_dim_is_told_once() -> None:
    program = replace(program_of(relu(exp(relu(X)))), dims=())
    assert messages(program) == ["the program does not declare the dim 'n'"]


def test_check_names_the_culprit() -> None:
    with pytest.raises(CompilerBug, match="fold left a program that is broken:\nprogram m "):
        check(program_of(Value(relu, (X,), (), None)), "fold")
