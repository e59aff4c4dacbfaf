"""A model with zeros in it: smaller and as right, on any number of threads, and what was done is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runners import KNOWN, MACHINE

from isthmus.chips import best_for
from isthmus.cli import app
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Bundle, Options, compile_program, find_target
from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.ops.movement import reshape, slice_, transpose
from isthmus.ops.nn import attention, layer_norm, linear
from isthmus.passes.sparsify.options import parse_sparsity
from isthmus.quantizer.decide import Deciding, with_decisions
from isthmus.quantizer.plan import Asked, with_precision
from isthmus.quantizer.plan import asked as wanted
from isthmus.runtime import load

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}))
WIDTH, INNER = 192, 740


def feed_forward(density: float) -> Program:
    """A feed-forward part over batch x seq rows, its matrices with so many numbers."""
    random = np.random.default_rng(3)

    def matrix(name: str, depth: int, columns: int) -> Value:
        kept = random.random((depth, columns)) < density
        array = np.where(kept, random.standard_normal((depth, columns)), 0) / np.sqrt(depth * (density or 1))
        return constant(name, array.astype(np.float32))

    def vector(name: str, size: int) -> Value:
        return constant(name, random.standard_normal(size).astype(np.float32))

    x = graph_input("x", TensorType(DType.F32, (symbol("batch"), symbol("seq"), WIDTH)))
    up = linear(x, matrix("up", WIDTH, INNER), vector("a", INNER), activation="gelu", loc="up")
    down = linear(up, matrix("down", INNER, WIDTH), vector("b", WIDTH), x, loc="down")
    y = layer_norm(down, vector("c", WIDTH), vector("d", WIDTH), epsilon=1e-5)
    return Program(
        f"ffn{int(100 * density)}", (Graph("main", (x,), (("y", y),)),), (NamedDim("batch"), NamedDim("seq"))
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return compile_program(
        feed_forward(0.06), find_target("host"), tmp_path_factory.mktemp("sparse"), OPTIONS
    )


def test_it_answers_as_the_evaluator_and_to_the_bit_on_any_threads(bundle: Bundle) -> None:
    graph = feed_forward(0.06).main
    sessions = [load(bundle.path, threads=n) for n in (1, 2, 3)]
    for shape in ((1, 1), (1, 17), (2, 50), (3, 128)):
        x = np.random.default_rng(shape[1]).standard_normal((*shape, WIDTH)).astype(np.float32)
        want = evaluate(graph, {"x": x})["y"]
        answers = [session.run({"x": x})["y"] for session in sessions]
        np.testing.assert_allclose(answers[0], want, atol=2e-4)
        for other in answers[1:]:
            np.testing.assert_array_equal(other, answers[0])


def test_everything_says_what_was_done(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((bundle.path / "report.json").read_text("utf-8"))
    assert [layer["node"] for layer in report["sparsity"]] == ["up", "down"]
    for layer in report["sparsity"]:
        assert layer["stored"].startswith("csr(")
        assert layer["pattern"] == "unstructured"
        assert layer["bytes"] <= 0.2 * layer["dense_bytes"]
        assert layer["predicted_gain"] > 1.5
    arithmetic = next(c["multiply_adds"] for c in report["calls"] if c["node"] == "up")
    assert int(arithmetic.split("*")[0]) < 0.11 * WIDTH * INNER
    assert app.run(["inspect", str(bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "matrix with zeros" in shown
    assert "csr:" in shown


def test_dense_wins_is_said(tmp_path: Path) -> None:
    made = compile_program(feed_forward(0.75), find_target("host"), tmp_path, OPTIONS)
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    assert [layer["stored"] for layer in report["sparsity"]] == ["dense", "dense"]
    assert all(layer["decision"].startswith("dense wins") for layer in report["sparsity"])


@pytest.mark.parametrize("density", [0.03, 0.0])
def test_in_bf16_it_answers_as_the_evaluator_and_to_the_bit_on_any_threads(
    density: float, tmp_path: Path
) -> None:
    program, target = feed_forward(density), find_target("host")
    options = with_precision(program, target, OPTIONS, wanted("bf16"))
    made = compile_program(program, target, tmp_path, options)
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    kinds = {layer["stored"].partition(",")[0] for layer in report["sparsity"]}
    assert kinds == {"block(1x2"} or target.tiles is not None
    sessions = [load(made.path, threads=n) for n in (1, 2, 3)]
    for shape in ((1, 1), (1, 2), (1, 17), (3, 128)):
        x = np.random.default_rng(shape[1]).standard_normal((*shape, WIDTH)).astype(np.float32)
        answers = [session.run({"x": x})["y"] for session in sessions]
        np.testing.assert_allclose(answers[0], evaluate(program.main, {"x": x})["y"], atol=4e-2)
        for other in answers[1:]:
            np.testing.assert_array_equal(other, answers[0])


def test_a_product_with_nothing_rounds_its_bias_for_the_next(tmp_path: Path) -> None:
    """A small matrix of zeros is no weight any more, and stays f32; what it gives is bf16 all the same."""
    random = np.random.default_rng(1)
    x = graph_input("x", TensorType(DType.F32, (symbol("batch"), 64)))
    bias, last = random.standard_normal(48).astype(np.float32), random.standard_normal((48, 9))
    first = linear(x, constant("w", np.zeros((64, 48), np.float32)), constant("b", bias), loc="first")
    rest = constant("v", last.astype(np.float32)), constant("c", np.zeros(9, np.float32))
    program = Program(
        "p", (Graph("g", (x,), (("y", linear(first, *rest, loc="last")),)),), (NamedDim("batch"),)
    )
    target = find_target("host")
    options = with_precision(program, target, OPTIONS, wanted("bf16"))
    made = compile_program(program, target, tmp_path, options)
    rows = random.standard_normal((40, 64)).astype(np.float32)
    got = load(made.path).run({"x": rows})["y"]
    np.testing.assert_allclose(got, np.broadcast_to(bias @ last, (40, 9)), atol=4e-2)


@pytest.mark.parametrize("form", ["unstructured@0.9", "2:4", "block:4x1@0.8", "channels@0.25"])
@pytest.mark.parametrize("method", ["magnitude", "data"])
def test_pruned_it_answers_as_its_evaluator(form: str, method: str, tmp_path: Path) -> None:
    """The self-test of a bundle is that of the pruned program, and compiling runs it."""
    program, target = feed_forward(1.0), find_target("host")
    data = None
    if method == "data":
        random = np.random.default_rng(5)
        data = [{"x": random.standard_normal((2, 40, WIDTH)).astype(np.float32)} for _ in range(4)]
    asked = Asked(None, data=data, sparsity=parse_sparsity(form, method))
    options = with_precision(program, target, replace(OPTIONS, even=0.0), asked)
    made = compile_program(program, target, tmp_path, options)
    step = "shrink-channels" if form.startswith("channels") else f"prune-linear{{matrices={form} by"
    assert step in made.manifest.pipeline
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    if form.startswith("channels"):
        arithmetic = {c["node"]: c["multiply_adds"] for c in report["calls"]}
        assert arithmetic["up"] == f"{WIDTH * INNER * 3 // 4}*batch*seq"
    else:
        stored = {layer["stored"].partition("(")[0] for layer in report["sparsity"]}
        assert stored == {"nm"} if form == "2:4" else stored <= {"csr", "block", "dense"}
        assert len(report["sparsity"]) == (1 if report["sparsity"][0]["node"] == "down" else 2)


def transformer(widths: tuple[int, int] = (64, 160)) -> Program:
    """Attention of 4 heads and a feed-forward part between two products that no pruning touches."""
    random, (width, inner) = np.random.default_rng(7), widths
    batch, seq = symbol("batch"), symbol("seq")

    def affine(x: Value, columns: int, name: str, *rest: Value, activation: str = "none") -> Value:
        depth = x.shape[-1]
        assert isinstance(depth, int)
        array = (random.standard_normal((depth, columns)) / depth**0.5).astype(np.float32)
        bias = constant(f"{name}.bias", random.standard_normal(columns).astype(np.float32))
        return linear(x, constant(name, array), bias, *rest, activation=activation, loc=name)

    x = graph_input("x", TensorType(DType.F32, (batch, seq, width)))
    first = affine(x, width, "first")
    wide = affine(first, 3 * width, "qkv")
    parts = [
        transpose(
            reshape(
                slice_(wide, starts=(0, 0, width * i), sizes=(batch, seq, width), steps=(1, 1, 1)),
                shape=(batch, seq, 4, width // 4),
            ),
            perm=(0, 2, 1, 3),
        )
        for i in range(3)
    ]
    joined = reshape(transpose(attention(*parts, scale=0.25), perm=(0, 2, 1, 3)), shape=(batch, seq, width))
    out = affine(joined, width, "out", first)
    up = affine(out, inner, "up", activation="gelu")
    down = affine(up, width, "down", out)
    norm = layer_norm(down, *(constant(n, np.ones(width, np.float32)) for n in ("c", "d")), epsilon=1e-5)
    return Program("t", (Graph("main", (x,), (("y", norm),)),), (NamedDim("batch"), NamedDim("seq")))


@pytest.mark.parametrize(
    ("form", "less"),
    [
        ("heads@0.25", {"qkv": (64, 144), "out": (48, 64)}),
        ("channels@0.25", {"up": (64, 120), "down": (120, 64)}),
    ],
)
def test_a_quarter_of_heads_or_channels_is_a_quarter_of_the_arithmetic(
    form: str, less: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    """The bundle verifies itself against the evaluator of the pruned program when it is made."""
    program, target = transformer(), find_target("host")
    options = with_precision(program, target, OPTIONS, Asked(None, sparsity=parse_sparsity(form)))
    made = compile_program(program, target, tmp_path, options)
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    arithmetic = {c["node"]: c["multiply_adds"] for c in report["calls"] if c["op"] == "linear"}
    for name, (depth, columns) in less.items():
        assert arithmetic[name] == f"{depth * columns}*batch*seq"
    assert app.run(["verify", str(made.path)]) == 0


def test_where_nothing_can_go_is_said() -> None:
    asked = Asked(None, sparsity=parse_sparsity("heads@0.25"))
    with pytest.raises(ModelError, match="no layer of the model lets heads go") as caught:
        with_precision(feed_forward(1.0), find_target("host"), OPTIONS, asked)
    assert [p.code for p in caught.value.problems] == [Code.BAD_SPARSITY]


def test_a_method_for_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="nothing is pruned") as caught:
        wanted("f32", sparsity_method="wanda")
    assert [p.code for p in caught.value.problems] == [Code.BAD_SPARSITY]


def test_integers_leave_blocks_out_and_answer_as_their_evaluator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiling runs the self-test, whose answers are the evaluator's; threads change nothing."""
    # In tiles dense products of bytes are faster.
    target = best_for(MACHINE, {n: t for n, t in KNOWN.items() if not t.multiplies_in_tiles("u8")})
    assert target is not None
    program = feed_forward(1.0)
    options = with_precision(program, target, OPTIONS, wanted("int8", sparsity="block:1x4@0.95"))
    made = compile_program(program, target, tmp_path, options)
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    (layer,) = (layer for layer in report["sparsity"] if layer["node"] == "down")
    assert layer["stored"].startswith("block(1x4,")
    assert layer["dense_bytes"] == WIDTH * INNER, "bytes of integers"
    assert layer["bytes"] < 0.35 * layer["dense_bytes"]
    assert layer["decision"].startswith("block: ")
    sessions = [load(made.path, threads=n) for n in (1, 3)]
    x = np.random.default_rng(1).standard_normal((2, 70, WIDTH)).astype(np.float32)
    one, three = (session.run({"x": x})["y"] for session in sessions)
    np.testing.assert_array_equal(one, three)
    assert app.run(["inspect", str(made.path)]) == 0
    assert "block:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("precision", "form", "share"),
    [("f32", "2:4", 0.56), ("f32", "4:8", 0.56), ("bf16", "4:8", 0.63), ("int8", "2:4", 0.63)],
)
def test_half_of_a_matrix_takes_half_and_a_bit_each_and_gives_the_same_bits(
    precision: str, form: str, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiling runs the self-test, whose answers are the evaluator's."""
    target = find_target("host")
    if target.multiplies_in_tiles({"bf16": "bf16", "int8": "u8"}.get(precision, "f32")):
        pytest.skip("tiles are too fast for it")
    program = transformer((96, 240))
    options = with_precision(program, target, replace(OPTIONS, even=0.0), wanted(precision, sparsity=form))
    made = compile_program(program, target, tmp_path / "halves", options)
    report = json.loads((made.path / "report.json").read_text("utf-8"))
    found = {layer["node"]: layer for layer in report["sparsity"] if layer["stored"] != "dense"}
    assert set(found) == {"qkv", "out", "up", "down"}
    for layer in found.values():
        assert layer["stored"].startswith(f"nm({form},")
        assert layer["bytes"] <= share * layer["dense_bytes"]
    for layer in report["sparsity"]:
        layer["stored"] = "dense"
    record = tmp_path / "dense.json"
    record.write_text(json.dumps(report), "utf-8")
    dense_options = with_decisions(program, target, options, Deciding(record=record))
    dense = compile_program(program, target, tmp_path / "dense", dense_options)
    saved = sum(layer["dense_bytes"] - layer["bytes"] for layer in found.values())
    sizes = [(bundle.path / "weights.bin").stat().st_size for bundle in (dense, made)]
    assert abs(sizes[0] - sizes[1] - saved) < 64 * len(found), "weights begin cache lines"
    sessions = [load(made.path, threads=n) for n in (1, 3)] + [load(dense.path, threads=1)]
    for shape in ((1, 1), (1, 5), (1, 17), (2, 70)):
        x = np.random.default_rng(shape[1]).standard_normal((*shape, 96)).astype(np.float32)
        one, *others = (session.run({"x": x})["y"] for session in sessions)
        for other in others:
            np.testing.assert_array_equal(other, one)
    assert app.run(["inspect", str(made.path)]) == 0
    assert "nm: " in capsys.readouterr().out
