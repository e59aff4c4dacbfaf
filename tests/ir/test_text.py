"""The text form: what is shown reads back as the same program, and what cannot be read says where."""

from __future__ import annotations

import random
import string

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import programs, random_arrays, random_program

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.encodings import Padded, Panels
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of, weight_value
from isthmus.ir.parser import WeightStore
from isthmus.ir.printer import contents_digest, element_text, show, unique_names
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.verify import verify
from isthmus.ir.weights import Source, Weight
from isthmus.ops.nn import linear
from isthmus.ops.pointwise import add, mul
from isthmus.ops.text import parse

F32 = DType.F32


class OfProgram:
    """The contents of a program's own weights."""

    def __init__(self, program: Program) -> None:
        weights = [w for graph in program.graphs for w in graph.weights()]
        self.sources = {contents_digest(w): w.source for w in weights}

    def find(self, digest: str, type_: TensorType) -> Source | None:
        return self.sources.get(digest)


def again(program: Program) -> Program:
    store: WeightStore = OfProgram(program)
    return parse(show(program), store)


@given(programs())
def test_round_trip(program: Program) -> None:
    text = show(program)
    back = again(program)
    assert show(back) == text
    assert (back.name, back.origin, back.dims) == (program.name, program.origin, program.dims)
    assert verify(program) == []


@given(programs(), st.integers(0, 100))
@settings(max_examples=50)
def test_what_is_read_computes_the_same(program: Program, seed: int) -> None:
    arrays = random_arrays(program, seed)
    before, after = evaluate(program.main, arrays), evaluate(again(program).main, arrays)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        assert array.tobytes() == after[name].tobytes()


def test_the_shape_of_the_text() -> None:
    seq = symbol("seq")
    x = graph_input("hidden states", TensorType(F32, (1, seq, 4)))
    word = constant("word", np.zeros((4, 5), np.float32))
    scale = weight_value(Weight.of("scale", np.float32(0.1)), "/LayerNorm/Constant")
    y = linear(x, word, constant("b", np.arange(5, dtype=np.float32)), activation="gelu", loc="/dense/Gelu")
    program = Program(
        "tiny",
        (Graph("main", (x,), (("461", mul(y, scale, loc="a b")), ("x", x))),),
        (NamedDim("seq", 1, 512),),
        "sha256:ab",
    )
    assert show(program) == (
        """program tiny origin=sha256:ab {
  dim seq = 1..512
  weight @word : f32[4,5] sha256:5b6fb58e61fa475939767d68a446f97f1bff02c0e5935a3ea8bb51e6515783d8
  weight @b : f32[5] = [0.0, 1.0, 2.0, 3.0, 4.0]
  weight @scale : f32[] = 0.1 at /LayerNorm/Constant
  graph main(%"hidden states": f32[1,seq,4]) {
    %0 = linear(%"hidden states", @word, @b) activation="gelu" : f32[1,seq,5] at /dense/Gelu
    %1 = mul(%0, @scale) : f32[1,seq,5] at "a b"
    return "461"=%1, x=%"hidden states"
  }
}
"""
    )
    assert show(again(program)) == show(program)


def test_a_graph_alone_reads_too() -> None:
    program = random_program(3, 10)
    text = show(program.main)
    assert not text.startswith("program")
    back = parse(text, OfProgram(program))
    assert show(back.main) == text
    assert {d.name for d in back.dims} == {"batch", "seq"}


def test_many_inputs_stand_on_lines_of_their_own() -> None:
    inputs = tuple(graph_input(f"past_key_values.{i}.key", TensorType(F32, (1, 8, 64))) for i in range(6))
    program = Program("m", (Graph("main", inputs, (("y", inputs[3]),)),), ())
    text = show(program)
    assert max(map(len, text.splitlines())) < 60
    assert show(parse(text)) == text


def test_several_graphs_share_weights() -> None:
    w = constant("w", np.arange(20, dtype=np.float32))
    graphs = []
    for name in ("prefill", "decode"):
        x = graph_input("x", TensorType(F32, (20,)))
        graphs.append(Graph(name, (x,), (("y", add(x, w)),)))
    program = Program("m", tuple(graphs), ())
    assert show(program).count("weight @w") == 1
    back = again(program)
    first, second = (next(graph.weights()) for graph in back.graphs)
    assert first is second


# --- weights -------------------------------------------------------------------------------------


def one(array: Array, name: str = "c") -> Program:
    value = constant(name, array)
    return Program("m", (Graph("main", (), (("y", value),)),), ())


def constant_of(program: Program) -> Array:
    weight = weight_of(program.main.outputs[0][1])
    assert weight is not None
    return weight.read()


@pytest.mark.parametrize("dtype", list(DType), ids=str)
@given(data=st.binary(min_size=0, max_size=128))
@settings(max_examples=60)
def test_constants_are_exact_to_the_bit(dtype: DType, data: bytes) -> None:
    usable = data[: len(data) // dtype.bytes * dtype.bytes][: 16 * dtype.bytes]
    if dtype is DType.BOOL:
        usable = bytes(b & 1 for b in usable)
    if dtype is DType.F4E2M1:
        usable = bytes(b & 15 for b in usable)
    array = np.frombuffer(usable, dtype.numpy)
    program = one(array)
    back = constant_of(parse(show(program)))
    assert back.dtype == array.dtype
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("number", "dtype", "text"),
    [
        (0.1, np.float32, "0.1"),
        (-0.0, np.float32, "-0.0"),
        (1 / 3, np.float16, "0.3333"),
        (3.0e-45, np.float32, "3e-45"),
        (np.inf, np.float64, "inf"),
        (-np.inf, ml_dtypes.bfloat16, "-inf"),
        (np.nan, np.float32, "nan"),
    ],
)
def test_numbers_are_short(number: float, dtype: type, text: str) -> None:
    array = np.asarray(number).astype(dtype)
    assert element_text(array[()], DType.of(array.dtype)) == text
    assert constant_of(parse(show(one(array)))).tobytes() == array.tobytes()


def test_only_small_constants_are_written_out() -> None:
    assert "= [" in show(one(np.zeros(16, np.float32)))
    assert "sha256:" in show(one(np.zeros(17, np.float32)))
    assert "= []" in show(one(np.zeros((0, 5), np.float32)))


def test_weights_that_share_a_name_are_told_apart() -> None:
    x = graph_input("x", TensorType(F32, ()))
    parts: list[Value] = [constant(n, np.float32(v)) for n, v in (("c", 1), ("c", 2), ("c.1", 3), ("c", 1))]
    total = x
    for part in parts:
        total = add(total, part)
    program = Program("m", (Graph("main", (x,), (("y", total),)),), ())
    text = show(program)
    assert [line.split()[1] for line in text.splitlines() if "weight" in line] == ["@c", "@c.2", "@c.1"]
    assert show(parse(text)) == text
    assert evaluate(parse(text).main, {"x": np.zeros((), np.float32)}) == {"y": 7.0}


@given(st.lists(st.sampled_from(["a", "b", "a.1", "a.2", "", "b.1"])))
def test_unique_names(names: list[str]) -> None:
    unique = list(unique_names(names))
    assert len(set(unique)) == len(unique) == len(names)
    assert list(unique_names(unique)) == unique
    for i, name in enumerate(names):
        assert unique[i] == name or name in names[:i]


@pytest.mark.parametrize("encoding", [Panels(4), Padded(8)], ids=str)
def test_encodings_are_kept(encoding: Panels | Padded) -> None:
    shape = (3, 5) if isinstance(encoding, Panels) else (5,)
    weight = Weight.of("w", np.arange(np.prod(shape), dtype=np.float32).reshape(shape)).encoded(encoding)
    x = graph_input("x", TensorType(F32, shape))
    program = Program("m", (Graph("main", (x,), (("y", add(x, weight_value(weight))),)),), ())
    assert f"as {encoding}" in show(program)
    back = next(again(program).main.weights())
    assert back.type == weight.type
    np.testing.assert_array_equal(back.stored(), weight.stored())


# --- text that cannot be read --------------------------------------------------------------------

HEAD = "graph g(%x: f32[n,8]) {"
BAD = [
    ("", "the program has no graph"),
    ("program", "expected the name of the program, found the end of the text"),
    ("program m {", "expected '}', found the end of the text"),
    ("program m { grph g() {} }", "expected dim, weight or graph, found 'grph'"),
    ("graph g() { return } x", "expected dim, weight or graph, found 'x'"),
    ("program m { } x", "expected the end of the text, found 'x'"),
    (f"{HEAD}\n  %0 = rleu(%x) : f32[n,8]\n", "no op is called 'rleu'; did you mean 'relu'?"),
    (f"{HEAD} %0 = relu(%1) : f32[n,8]", "%1 is not defined before it is used"),
    (f"{HEAD} %0 = relu(%x) : f32[n,8] %0 = relu(%x) : f32[n,8]", "%0 is defined twice"),
    (f"{HEAD} %0 = relu(%x) axis=1 : f32[n,8]", "relu has no attribute 'axis'; there are none"),
    (f"{HEAD} %0 = gather(%x, %x) : f32[n,8]", "gather needs the attributes axis"),
    (f"{HEAD} %0 = gather(%x, %x) axis=1.5 : f32", "expected an integer, found '1.5'"),
    (f"{HEAD} %0 = gather(%x, %x) axis=1 axis=1 : f32", "the attribute 'axis' is given twice"),
    (f"{HEAD} %0 = relu(%x : f32[n,8]", "expected ',' or ')', found ':'"),
    (f"{HEAD} %0 = relu(%x) : f33[n,8]", "no element type 'f33'"),
    (f"{HEAD} %0 = relu(%x) : f32[n,8", "expected ',' or ']', found the end of the text"),
    (f"{HEAD} %0 = relu(@w) : f32[n,8]", "no weight is called 'w'; there are none"),
    (f"{HEAD} return y=%x, y=%x }}", "2 outputs are called 'y'"),
    ("graph g(%x: f32[n], %x: f32[n]) {", "%x is defined twice"),
    ("weight @w : f32[2] = [1]", "f32[2] needs 2 elements, there are 1"),
    ("weight @w : i8[1] = [128]", "128 does not fit 8 bits"),
    ("weight @w : u8[1] = [-1]", "-1 does not fit 8 bits"),
    ("weight @w : f16[1] = [nan:0x1ffff]", "131071 does not fit 16 bits"),
    ("weight @w : bool[1] = [2]", "expected true or false"),
    ("weight @w : f32[n] = [2]", "a weight has no symbolic dims"),
    ("weight @w : f32[4] sha256:12", "expected '=' and elements, or sha256: and a digest"),
    ("weight @w : f32[] = 1 weight @w : f32[] = 2", "two weights are called 'w'"),
    ("weight @w : f32[4] as panels(4) = [1,2,3,4] graph g() { return y=@w }", "does not fit the shape"),
    ("weight @w : f32[4] as what(4) = [1,2,3,4]", "not an encoding: 'what(4)'"),
    (f"weight @w : f32[4] sha256:{'0' * 64} graph g() {{ return y=@w }}", "there are no contents for"),
    ("dim n = 4..2 graph g(%x: f32[n]) { return y=%x }", "the bounds of 'n' hold no size"),
    ("dim n = one", "expected the lower bound, found 'one'"),
    ("graph g(%x: f32[n//0]) {", "a dimension is divided by zero"),
    ("graph g(%x: f32[2*n+1]) { return y=%x }", "no axis of an input has the size 'n'"),
    (f"{HEAD} %0 = relu(%x) : f32[m,8] return y=%0 }}", "does not declare the dim 'm'"),
    (f"{HEAD} %0 = hole() : f32[n,8]", "no op is called 'hole'"),
    (f'{HEAD} %0 = relu(%x) : f32[n,8] at "\\q"', "a quoted text has an unknown escape"),
    (f"{HEAD} %0 = relu(%x) : f32[{'(' * 100}n", "nested more than 64 deep"),
    (f"{HEAD} %0 = relu(%x) : f32[{'-' * 100}n", "nested more than 64 deep"),
    (f"{HEAD} %0 = relu(%x) : f32[{'*'.join(f'(a{i}+b{i})' for i in range(30))}]", "terms"),
    (f"{HEAD} %0 = relu(%x) : f32[{'n*' * 100}n]", "too many terms"),
    (f"{HEAD} %0 = relu(%x) : f32[{'9' * 19}]", "more than 63 bits"),
    (f"{HEAD} %0 = relu(%x) : f32[{'1,' * 40}1]", "more than 32 dims"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse(text)
    assert all(p.code is Code.BAD_TEXT for p in caught.value.problems)
    assert message in str(caught.value)


def test_places_are_exact() -> None:
    text = (
        "; a comment\ngraph g(%x: f32[n,8]) {\n"
        "  %0 = relu(%x) : f32[n,9]\n  %1 = relu(%0) : f32[8]\n  return y=%1 }"
    )
    with pytest.raises(ModelError) as caught:
        parse(text, where="dump.txt")
    assert [(p.where, p.message) for p in caught.value.problems] == [
        ("dump.txt:3:3", "declared f32[n,9], inferred f32[n,8]"),
        ("dump.txt:4:3", "declared f32[8], inferred f32[n,9]"),
    ]
    with pytest.raises(ModelError) as caught:
        parse("graph g() {\n  return y=%0\n}")
    assert caught.value.problems[0].where == "text:2:12"


def test_hand_written_text() -> None:
    program = parse(
        """
        ; values may have names, dims are declared by use, order is free, what nobody uses is dropped
        weight @two : f32[] = 2
        graph main(%x: f32[n,8]) {
          %unused = exp(%x) : f32[n,8]
          %scores = mul(@two, %x) : f32[n,8]
          %7 = softmax(%scores) : f32[n,8]
          return y=%7
        }
        """
    )
    assert [v.op.name for v in program.main.nodes()] == ["weight", "mul", "softmax"]
    assert show(program).count("%unused") == 0


@given(st.text(alphabet=string.printable, max_size=200))
@settings(max_examples=300)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except ModelError:
        return


def test_damaged_text_is_read_or_refused() -> None:
    rng = random.Random(0)
    program = random_program(5, 20)
    text = show(program)
    store = OfProgram(program)
    refused = 0
    for _ in range(400):
        i = rng.randrange(len(text))
        j = i + rng.choice((0, 1, 1, 3, 10))
        damaged = text[:i] + rng.choice(("", "", "(", ")", "%", "9", ",", "x", '"', "\n")) + text[j:]
        try:
            parse(damaged, store)
        except ModelError:
            refused += 1
    assert refused > 200
