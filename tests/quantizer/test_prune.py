"""Pruning as it is asked for: what it refuses, and integers of what is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, find_target
from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.ops.integer import block_linear, integer_linear
from isthmus.ops.nn import layer_norm, linear
from isthmus.passes import pipeline
from isthmus.quantizer.plan import Asked, asked, with_precision
from isthmus.tools.data import Request

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}), start="quantize")
HOST = find_target("host")
WIDTH = 64


def model(odd: float | None = None) -> Program:
    """Rows of 64 through three products; the one called `middle` may have a number that is none."""
    random = np.random.default_rng(1)

    def affine(x: Value, name: str) -> Value:
        array = (random.standard_normal((WIDTH, WIDTH)) / 8).astype(np.float32)
        if odd is not None and name == "middle":
            array[3, 4] = odd
        return linear(x, constant(name, array), constant(f"{name}.b", np.zeros(WIDTH, np.float32)), loc=name)

    ones, zeros = (constant(n, np.full(WIDTH, v, np.float32)) for n, v in (("s", 1), ("t", 0)))
    x = graph_input("x", TensorType(DType.F32, (symbol("rows"), WIDTH)))
    first = layer_norm(affine(x, "first"), ones, zeros, epsilon=1e-5)
    y = layer_norm(affine(affine(first, "middle"), "last"), ones, zeros, epsilon=1e-5)
    return Program("pruned", (Graph("main", (x,), (("y", y),)),), (NamedDim("rows"),))


def requests() -> list[Request]:
    random = np.random.default_rng(2)
    return [{"x": random.standard_normal((30, WIDTH)).astype(np.float32)} for _ in range(8)]


def made(wanted: Asked, program: Program) -> Program:
    options = with_precision(program, HOST, OPTIONS, wanted)
    return pipeline.run(program, HOST, start="quantize", stop_after="quantize", quantize=options.quantize)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["2:4", "unstructured@0.5", "channels@0.25"])
def test_weights_that_are_no_numbers_are_refused(form: str, odd: float) -> None:
    with pytest.raises(ModelError, match="a matrix with NaN or infinity cannot be pruned") as caught:
        made(asked("f32", sparsity=form), model(odd))
    assert [(p.code, p.where) for p in caught.value.problems] == [(Code.BAD_SPARSITY, "middle")]


@pytest.mark.parametrize(
    ("form", "method"), [("2:4", "wanda"), ("unstructured@0.5", "sparsegpt"), ("channels@0.25", "wanda")]
)
def test_methods_that_need_data_are_refused_without(form: str, method: str) -> None:
    with pytest.raises(ModelError, match="cannot be chosen without data") as caught:
        made(asked("f32", sparsity=form, sparsity_method=method), model())
    assert [p.code for p in caught.value.problems] == [Code.NO_CALIBRATION]


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("data", [None, requests()], ids=["magnitude", "sparsegpt"])
def test_zeros_stay_zeros_in_integers(precision: str, data: list[Request] | None) -> None:
    """Integers are made of what is left, with data and without."""
    program, wanted = model(), asked(precision, data, sparsity="2:4")
    passes = with_precision(program, HOST, OPTIONS, wanted).quantize
    found = pipeline.run(program, HOST, start="quantize", quantize=passes)
    products = [n for n in found.main.nodes() if n.op in (integer_linear, block_linear)]
    assert [n.loc for n in products] == ["middle", "last"]
    for node in products:
        weight = weight_of(node.args[1])
        assert weight is not None
        kept = (weight.read().reshape(WIDTH // 4, 4, WIDTH) != 0).sum(axis=1)
        assert kept.max() <= 2 and kept.mean() > 1.9
