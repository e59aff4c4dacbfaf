"""Zeros in matrices: found, described, and left out exactly where that is expected to be faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.encodings import Interleaved, Padded, Panels
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.sparse import Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType, TensorType
from isthmus.ir.weights import Weight
from isthmus.ops.integer import integer_linear
from isthmus.ops.nn import linear
from isthmus.passes import pipeline
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.passes.sparsify.choose import ChooseSparse, matrix_of
from isthmus.passes.sparsify.costs import BALANCE, EVEN, Form, candidates, step_of
from isthmus.passes.sparsify.decisions import Decision, Record, Sizes
from isthmus.passes.sparsify.patterns import Pattern, pattern, pattern_of
from isthmus.target import Target, panel_width
from isthmus.targets import arm, x86_64
from isthmus.tools.costs import multiply_adds
from isthmus.tools.sparsity import as_json, decision_of, layers, with_zeros

TARGET = next(t for t in x86_64.TARGETS if t.name == "x86-64-v4")
PAIRS = next(t for t in x86_64.TARGETS if t.instruction("dot_bf16") and t.tiles is None)
TILES = next(t for t in x86_64.TARGETS if t.multiplies_in_tiles("bf16"))
EXPANDING = next(t for t in x86_64.TARGETS if t.expands_bytes)
NEON = next(t for t in arm.TARGETS if t.name == "armv8-neon")


def sparse(
    density: float, block: tuple[int, int] = (1, 1), shape: tuple[int, int] = (256, 320)
) -> np.ndarray:
    random = np.random.default_rng(1)
    outputs, inputs = block
    kept = random.random((shape[0] // inputs, shape[1] // outputs)) < density
    kept = np.repeat(np.repeat(kept, inputs, 0), outputs, 1)
    return np.where(kept, random.standard_normal(shape), 0).astype(np.float32)


def grouped(kept: int, size: int) -> np.ndarray:
    order = np.argsort(np.random.default_rng(2).random((8, size, 40)), axis=1)
    return (order < kept).reshape(8 * size, 40).astype(np.float32)


def program(matrix: np.ndarray, rows: object = None) -> Program:
    leading = symbol("rows") if rows is None else rows
    x = graph_input("x", TensorType(DType.F32, (leading, matrix.shape[0])))  # type: ignore[arg-type]
    y = linear(x, constant("w", matrix), constant("b", np.ones(matrix.shape[1], np.float32)), loc="fc")
    dims = () if isinstance(leading, int) else (NamedDim("rows"),)
    return Program("p", (Graph("g", (x,), (("y", y),)),), dims)


def bytes_program(matrix: np.ndarray) -> Program:
    """The product of rows of bytes with a matrix, whole numbers from -127 to 127."""
    depth, columns = matrix.shape
    x = graph_input("x", TensorType(DType.U8, (symbol("rows"), depth)))
    w = np.clip(np.rint(matrix * 40), -127, 127).astype(np.int8)
    rows = [np.full(columns, 3, np.int32), *np.ones((2, columns), np.float32)]
    offset, scales, bias = (constant(f"c{i}", array) for i, array in enumerate(rows))
    scale = constant("s", np.float32(0.5))
    y = integer_linear(x, constant("w", w), offset, scale, scales, bias, activation="none", loc="fc")
    return Program("p", (Graph("g", (x,), (("y", y),)),), (NamedDim("rows"),))


def bf16_program(matrix: np.ndarray, target: Target) -> Program:
    """A product in bf16 whose result is rounded for the next one, which is dense."""
    x = graph_input("x", TensorType(DType.F32, (symbol("rows"), matrix.shape[0])))
    y = linear(x, constant("w", matrix), constant("b", np.ones(matrix.shape[1], np.float32)), loc="fc")
    again = np.random.default_rng(3).standard_normal((matrix.shape[1], 3)).astype(np.float32)
    z = linear(y, constant("v", again), constant("c", np.zeros(3, np.float32)), loc="last")
    program = Program("p", (Graph("g", (x,), (("y", z),)),), (NamedDim("rows"),))
    return pipeline.run(program, target, stop_after="quantize", quantize=FLOATS["bf16"])


def product_of(made: Program, loc: str = "fc") -> Value:
    (node,) = (n for n in made.main.nodes() if n.op is linear and n.loc == loc)
    return node


def chosen_for(before: Program, rows: int, chip: Target) -> Program:
    """`before` with its matrices stored for so many rows."""
    choose = ChooseSparse(sizes=Sizes({"rows": rows}))
    return pipeline.run_rest(pipeline.run_shared(before, chip), chip, choose=choose)


def stored(made: Program) -> object:
    (weight,) = (w for node in made.main.nodes() if (w := matrix_of(node)) is not None)
    return weight.type.encoding


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.ones((8, 8)), "dense"),
        (np.zeros((8, 8)), "all zero"),
        (np.zeros((0, 8)), "all zero"),
        (sparse(0.1), "unstructured"),
        (sparse(0.2, (1, 4)), "block 1x4"),
        (sparse(0.1, (4, 1)), "block 4x1"),
        (sparse(0.2, (4, 4)), "block 4x4"),
        (grouped(2, 4), "2:4"),
        (grouped(4, 8), "4:8"),
        (np.where(np.arange(40) % 8 == 0, 0, np.ones((16, 40))), "5 empty columns"),
        (np.where(np.arange(16)[:, None] < 3, 0, np.ones((16, 40))), "3 empty rows"),
        (np.where(np.arange(40) % 8 == 0, 0, np.full((16, 40), np.nan)), "5 empty columns"),
    ],
)
def test_patterns(matrix: np.ndarray, text: str) -> None:
    found = str(pattern(matrix.astype(np.float32)))
    assert found == text


def test_a_pattern_is_of_the_contents() -> None:
    one, other = Weight.of("a", sparse(0.1)), Weight.of("b", sparse(0.2))
    assert pattern_of(one) == pattern_of(one.encoded(Panels(16))) != pattern_of(other)


@pytest.mark.parametrize("block", [(1, 1), (4, 1), (4, 4)], ids=str)
def test_few_numbers_are_stored_as_blocks(block: tuple[int, int]) -> None:
    before = program(sparse(0.05, block))
    made = pipeline.run(before, TARGET)
    encoding = stored(made)
    assert isinstance(encoding, Blocks)
    assert (encoding.outputs, encoding.inputs) == block
    assert encoding.masked == (block == (1, 1))
    (node,) = (n for n in made.main.nodes() if n.op is linear)
    assert node.args[2].t.encoding == Padded(16)
    x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    want, got = (evaluate(p.main, {"x": x})["y"] for p in (before, made))
    np.testing.assert_array_equal(got, want)
    assert str(multiply_adds(made.main)) == f"{2 * encoding.pairs * block[0] * block[1]}*rows"


@pytest.mark.parametrize("density", [0.6, 0.8, 1.0])
def test_many_numbers_stay_dense(density: float) -> None:
    assert isinstance(stored(pipeline.run(program(sparse(density)), TARGET)), Panels)


@pytest.mark.parametrize(("rows", "kind"), [(None, Panels), (2, Panels), (300, Blocks)])
def test_a_few_rows_are_not_worth_a_tile(rows: int | None, kind: type) -> None:
    """What whole tiles gain, a few rows do not; where these may come, the matrix stays dense."""
    matrix = sparse(0.35)
    before = program(matrix) if rows is None else program(matrix, rows=rows)
    assert isinstance(stored(pipeline.run(before, TARGET)), kind)


def test_what_few_rows_lose_counts() -> None:
    """With open sizes the worst of few rows decides as well, but for matrices that wait for memory anyway."""
    step = step_of(DType.F32, TARGET)
    assert step is not None
    cases = (((384, 1536), 0.1, True), ((384, 1536), 0.4, False), ((4096, 4096), 0.4, True))
    for shape, density, worst in cases:
        numbers = int(density * shape[0] * shape[1])
        found = Pattern(shape, numbers, {(1, 1): numbers})
        (way,) = candidates(found, 4096, TARGET.vector, step, 1)
        assert way.gain > 1.1
        assert (way.balance >= BALANCE) == worst
        alone = [candidates(found, rows, TARGET.vector, step)[0].gain for rows in range(1, 17)]
        assert way.worst == min(*alone, way.gain)


def test_an_empty_matrix_and_one_without_elements() -> None:
    assert stored(pipeline.run(program(np.zeros((64, 48), np.float32)), TARGET)) == Blocks(1, 1, 64, 0, True)
    assert isinstance(stored(pipeline.run(program(np.zeros((0, 48), np.float32)), TARGET)), Panels)


def test_gains_grow_with_zeros_on_every_chip() -> None:
    for target in {t.vector: t for t in x86_64.TARGETS}.values():
        gains = [candidates(pattern(sparse(d)), 4096, target.vector)[0].gain for d in (0.02, 0.1, 0.3, 0.6)]
        assert gains == sorted(gains, reverse=True)
        assert gains[0] > 2 > gains[-1]


def test_the_report_says_what_was_decided() -> None:
    for density, word in ((0.05, "csr"), (0.7, "dense wins")):
        made = pipeline.run(program(sparse(density)), TARGET)
        (layer,) = with_zeros(layers(made, TARGET))
        assert layer.node == "fc"
        assert layer.pattern == "unstructured"
        assert layer.decision.startswith(word)
        assert abs(layer.density - density) < 0.01
        assert layer.bytes < 0.2 * layer.dense_bytes or word == "dense wins"
    made = pipeline.run(program(sparse(1.0)), TARGET)
    assert with_zeros(layers(made, TARGET)) == ()
    assert layers(made, TARGET)[0].decision == "dense: hardly any zeros"


def test_bounded_dims_count_as_their_bound() -> None:
    few = replace(program(sparse(0.35)), dims=(NamedDim("rows", 1, 8),))
    assert isinstance(stored(pipeline.run(few, TARGET)), Panels)
    many = replace(few, dims=(NamedDim("rows", 128, 4096),))
    assert isinstance(stored(pipeline.run(many, TARGET)), Blocks)


def test_sizes_count_where_they_are_given() -> None:
    before = program(sparse(0.35))
    for rows, kind in ((8, Panels), (4096, Blocks)):
        choose = ChooseSparse(sizes=Sizes({"rows": rows}))
        made = pipeline.run_rest(pipeline.run_shared(before, TARGET), TARGET, choose=choose)
        assert isinstance(stored(made), kind)
        assert layers(made, TARGET, choose)[0].rows == rows


def recorded(name: str, matrix: str, blocks: Form | None) -> ChooseSparse:
    return ChooseSparse(record=Record({name: Decision(matrix, blocks, 7, 1.5)}))


@pytest.mark.parametrize("blocks", [None, (1, 1), (4, 1)])
def test_a_record_is_followed_and_told_again(blocks: tuple[int, int] | None) -> None:
    before = pipeline.run_shared(program(sparse(0.1)), TARGET)
    (layer,) = layers(pipeline.run_rest(before, TARGET), TARGET)
    choose = recorded(layer.node, layer.matrix, blocks)
    made = pipeline.run_rest(before, TARGET, choose=choose)
    encoding = stored(made)
    found = (encoding.outputs, encoding.inputs) if isinstance(encoding, Blocks) else None
    assert found == blocks
    (again,) = layers(made, TARGET, choose)
    assert decision_of(as_json(again)) == Decision(layer.matrix, blocks, 7, 1.5)
    assert "1.50x measured" in again.decision


@pytest.mark.parametrize(("name", "known"), [("fc", "another matrix"), ("other", "nothing")])
def test_a_record_of_something_else_is_refused(name: str, known: str) -> None:
    before = pipeline.run_shared(program(sparse(0.1)), TARGET)
    with pytest.raises(ModelError, match=f"{known} is recorded") as caught:
        pipeline.run_rest(before, TARGET, choose=recorded(name, "0" * 16, (1, 1)))
    assert [(p.code, p.where) for p in caught.value.problems] == [(Code.BAD_SPARSITY, "fc")]


@pytest.mark.parametrize(
    ("density", "block", "name"),
    [(0.03, (1, 1), "1x2"), (0.08, (1, 2), "1x2"), (0.2, (4, 2), "4x2"), (0.2, (4, 4), "4x4")],
)
@pytest.mark.parametrize("target", [PAIRS, TARGET], ids=lambda target: target.name)
def test_bf16_is_stored_as_blocks_of_pairs(
    density: float, block: tuple[int, int], name: str, target: Target
) -> None:
    before = bf16_program(sparse(density, block), target)
    made = pipeline.run(before, target, start="legalize")
    node = product_of(made)
    encoding = node.args[1].t.encoding
    assert isinstance(encoding, Blocks)
    assert str(encoding).startswith(f"block({name},")
    assert (node.args[1].dtype, node.attr("rounded")) == (DType.BF16, True)
    assert node.args[2].t.encoding == Padded(16)
    found = {layer.node: layer for layer in layers(made, target)}["fc"]
    assert found.predicted is not None
    assert found.predicted > 1.1
    assert found.dense_bytes == 2 * 256 * 320
    assert decision_of(as_json(found)).form == tuple(map(int, name.split("x")))
    x = np.random.default_rng(0).standard_normal((5, 256)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(made.main, {"x": x})["y"], evaluate(before.main, {"x": x})["y"])


def test_tiles_and_many_numbers_keep_bf16_dense() -> None:
    for density, target in ((0.1, TILES), (0.5, PAIRS), (0.5, TARGET)):
        made = pipeline.run(bf16_program(sparse(density), target), target, start="legalize")
        assert isinstance(product_of(made).args[1].t.encoding, Interleaved)


@pytest.mark.parametrize(("density", "block", "name"), [(0.2, (1, 4), "1x4"), (0.1, (4, 4), "4x4")])
def test_bytes_are_stored_as_blocks_of_words(density: float, block: tuple[int, int], name: str) -> None:
    before = bytes_program(sparse(density, block))
    made = pipeline.run(before, TARGET)
    assert str(stored(made)).startswith(f"block({name},")
    (layer,) = with_zeros(layers(made, TARGET))
    assert layer.dense_bytes == 256 * 320
    assert layer.bytes < (0.37 if block == (1, 4) else 0.25) * layer.dense_bytes
    assert layer.predicted is not None
    assert layer.predicted > 1.1
    encoding = stored(made)
    assert isinstance(encoding, Blocks)
    assert str(multiply_adds(made.main)) == f"{2 * encoding.pairs * block[0] * block[1]}*rows"
    x = np.random.default_rng(0).integers(0, 256, (5, 256)).astype(np.uint8)
    np.testing.assert_array_equal(evaluate(made.main, {"x": x})["y"], evaluate(before.main, {"x": x})["y"])


def test_bytes_with_single_zeros_stay_dense() -> None:
    made = pipeline.run(bytes_program(sparse(0.5)), TARGET)
    assert not isinstance(stored(made), Blocks)
    (layer,) = with_zeros(layers(made, TARGET))
    assert layer.decision.startswith("dense wins")


def half_of(group: int, depth: int = 256) -> np.ndarray:
    rng = np.random.default_rng(4)
    order = np.argsort(rng.random((-(-depth // group), group, 320)), axis=1)
    kept = (order < group // 2).reshape(-1, 320)[:depth]
    return np.where(kept, 1 + rng.random((depth, 320)), 0).astype(np.float32)


@pytest.mark.parametrize("depth", [256, 255, 2])
def test_two_of_four_bytes_are_stored_as_such_where_a_chip_has_it(depth: int) -> None:
    """A K that groups do not divide is taken as if it went on with zeros."""
    before = bytes_program(half_of(4, depth))
    made = pipeline.run(before, EXPANDING)
    assert stored(made) == MaskedPanels(48, 16)
    (node,) = (n for n in made.main.nodes() if n.op is integer_linear)
    assert [node.args[i].t.encoding for i in (2, 4, 5)] == [Padded(48)] * 3
    (layer,) = with_zeros(layers(made, EXPANDING))
    assert layer.bytes == 0.625 * 4 * -(-depth // 4) * 336
    assert layer.predicted is not None
    assert EVEN <= layer.predicted <= 1
    assert layer.decision.startswith("nm: ")
    assert decision_of(as_json(layer)).form == "2:4"
    x = np.random.default_rng(0).integers(0, 256, (5, depth)).astype(np.uint8)
    np.testing.assert_array_equal(evaluate(made.main, {"x": x})["y"], evaluate(before.main, {"x": x})["y"])


@pytest.mark.parametrize("chip", [TARGET, NEON], ids=lambda target: target.name)
@pytest.mark.parametrize("group", [4, 8])
@pytest.mark.parametrize("kind", ["f32", "bf16", "i8"])
def test_half_of_a_matrix_is_stored_for_every_type_on_every_chip(kind: str, group: int, chip: Target) -> None:
    matrix = half_of(group)
    make = {"f32": program, "bf16": lambda matrix: bf16_program(matrix, chip), "i8": bytes_program}[kind]
    before = make(matrix)
    shared = pipeline.run_shared(before, chip)
    made = pipeline.run_rest(shared, chip, choose=ChooseSparse(even=0.0))
    (node,) = (n for n in made.main.nodes() if n.op in (linear, integer_linear) and n.loc == "fc")
    width = panel_width(chip.vector)
    assert node.args[1].t.encoding == GroupPanels(group // 2, group, width)
    assert node.args[2].t.encoding == Padded(width)
    (layer,) = with_zeros(layers(made, chip))
    size = {"f32": 4, "bf16": 2, "i8": 1}[kind]
    columns = -(-320 // width) * width
    assert layer.bytes == 256 // 8 * (-(-width // 4) * 4 * columns // width + 4 * size * columns)
    assert layer.predicted is not None
    assert 0.8 <= layer.predicted <= 1
    assert layer.decision.startswith("nm: ")
    assert decision_of(as_json(layer)).form == f"{group // 2}:{group}"
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (5, 256)).astype(np.uint8 if kind == "i8" else np.float32)
    np.testing.assert_array_equal(evaluate(made.main, {"x": x})["y"], evaluate(before.main, {"x": x})["y"])


def test_half_of_floats_depends_on_rows_and_on_memory() -> None:
    """Few rows lose more by widening than they gain, except where memory is waited for."""
    near, far = program(half_of(4)), program(half_of(4, 32768))
    for before, rows, kind in (
        (near, 1, Panels),
        (near, 16, Panels),
        (near, 128, Panels),
        (far, 1, GroupPanels),
        (far, 4, Blocks),
        (far, 16, Panels),
        (far, 128, Panels),
    ):
        assert isinstance(stored(chosen_for(before, rows, TARGET)), kind)


def test_two_of_four_depend_on_rows_and_on_what_else_there_is() -> None:
    near, far = bytes_program(half_of(4)), bytes_program(half_of(4, 4096))
    for before, rows, kind in (
        (near, 1, Interleaved),
        (near, 16, Interleaved),
        (near, 128, MaskedPanels),
        (far, 1, MaskedPanels),
        (far, 16, Interleaved),
        (far, 128, MaskedPanels),
    ):
        assert isinstance(stored(chosen_for(before, rows, EXPANDING)), kind)
    # One number more, and it is no such matrix; with few numbers in blocks, those are faster.
    more = half_of(4)
    more[:4, 0] = 1
    assert isinstance(stored(pipeline.run(bytes_program(more), EXPANDING)), Interleaved)
    fewer = np.where(np.arange(320) % 20, 0, half_of(4, 4096))
    assert isinstance(stored(pipeline.run(bytes_program(fewer), EXPANDING)), Blocks)


@pytest.mark.parametrize("form", [None, "2:4", (1, 4)])
def test_a_record_of_two_of_four_is_followed(form: Form | None) -> None:
    before = pipeline.run_shared(bytes_program(half_of(4)), EXPANDING)
    (layer,) = layers(pipeline.run_rest(before, EXPANDING), EXPANDING)
    choose = recorded(layer.node, layer.matrix, form)
    (again,) = layers(pipeline.run_rest(before, EXPANDING, choose=choose), EXPANDING, choose)
    assert decision_of(as_json(again)) == Decision(layer.matrix, form, 7, 1.5)
