"""Pruning: what was asked for is what goes, data helps, and shrunk graphs compute what is left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.ir.verify import check
from isthmus.ops.movement import reshape, slice_, transpose
from isthmus.ops.nn import attention, linear
from isthmus.passes.sparsify.options import parse_sparsity
from isthmus.passes.sparsify.patterns import pattern
from isthmus.passes.sparsify.prune import kept, pruned
from isthmus.passes.sparsify.shrink import Lengths, Shrink
from isthmus.targets import x86_64
from isthmus.tools.costs import multiply_adds

TARGET = x86_64.TARGETS[-1]
B, S = symbol("b"), symbol("s")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gram() -> tuple[np.ndarray, np.ndarray]:
    """Rows whose columns go together, as those of activations do, and their second moments."""
    x = random(400, 8) @ random(8, 64, seed=1) + 0.3 * random(400, 64, seed=2)
    return x, (x.T @ x).astype(np.float64)


@pytest.mark.parametrize("text", ["2:4", "4:8", "8:32", "unstructured@0.9", "block:1x4@0.8", "block:4x4@0.5"])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_what_was_asked_for_goes(text: str, method: str) -> None:
    asked = parse_sparsity(text, method)
    assert str(asked) == f"{text} by {method}"
    found = pattern(pruned(random(64, 48), asked, gram()[1]))
    assert abs(1 - found.density - asked.ratio) < 0.03
    if asked.form == "groups":
        assert found.group is not None
        assert found.group[1] <= asked.group
    if asked.form == "blocks":
        assert found.block == (asked.outputs, asked.inputs)


def test_magnitude_keeps_the_largest() -> None:
    w = random(16, 8)
    left = pruned(w, parse_sparsity("unstructured@0.75"))
    assert np.abs(w[left == 0]).max() < np.abs(left[left != 0]).min()
    np.testing.assert_array_equal(left[left != 0], w[left != 0])


def test_nothing_goes_at_0() -> None:
    w = random(16, 8)
    np.testing.assert_array_equal(pruned(w, parse_sparsity("unstructured@0")), w)


@pytest.mark.parametrize("text", ["2:4", "unstructured@0.5", "block:1x4@0.5"])
def test_data_helps(text: str) -> None:
    x, second = gram()
    x[:, ::3] *= 10
    second = (x.T @ x).astype(np.float64)
    w = random(64, 48, seed=5)
    errors = [
        float(np.linalg.norm(x @ (pruned(w, parse_sparsity(text, method), second) - w)))
        for method in ("sparsegpt", "wanda", "magnitude")
    ]
    assert errors == sorted(errors)
    assert errors[0] < 0.9 * errors[2]


def test_columns_that_never_occur_do_not_matter() -> None:
    second = gram()[1]
    second[5] = second[:, 5] = 0
    left = pruned(random(64, 8), parse_sparsity("unstructured@0.5", "sparsegpt"), second)
    assert np.isfinite(left).all()
    assert (left[5] == 0).all()


def test_what_does_not_divide_goes_on_with_zeros() -> None:
    assert kept(np.ones((6, 1)), parse_sparsity("2:4"))[:, 0].tolist() == [0, 0, 1, 1, 1, 1]
    assert kept(np.ones((5, 5)), parse_sparsity("block:4x4@0.75")).sum() == 16


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ("unstructured@1", "magnitude", "a share of 1 cannot go"),
        ("unstructured@-0.1", "magnitude", "a share of -0.1 cannot go"),
        ("unstructured@1.2.3", "magnitude", "no number"),
        ("unstructured", "magnitude", "no sparsity"),
        ("4:4", "magnitude", "4 of 4 cannot stay"),
        ("0:4", "magnitude", "0 of 4 cannot stay"),
        ("2:64", "magnitude", "groups of 64"),
        ("block:9x1@0.5", "magnitude", "blocks of 9x1"),
        ("block:0x1@0.5", "magnitude", "blocks of 0x1"),
        ("2:4", "guess", "no method 'guess'"),
        ("heads@0.5", "sparsegpt", "does not judge heads"),
        ("", "magnitude", "no sparsity"),
    ],
)
def test_what_cannot_be(text: str, method: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        parse_sparsity(text, method)
    assert [p.code for p in caught.value.problems] == [Code.BAD_SPARSITY]


def layer() -> Program:
    """Attention of 4 heads of 8 and a feed-forward part of 96, over rows of 32."""

    def matrix(name: str, depth: int, columns: int) -> Value:
        return constant(name, random(depth, columns, seed=len(name)) / 6)

    x = graph_input("x", TensorType(DType.F32, (B, S, 32)))
    wide = linear(x, matrix("w", 32, 96), constant("wb", random(96, seed=7)), loc="qkv")
    parts = [
        transpose(
            reshape(
                slice_(wide, starts=(0, 0, 32 * i), sizes=(B, S, 32), steps=(1, 1, 1)), shape=(B, S, 4, 8)
            ),
            perm=(0, 2, 1, 3),
        )
        for i in range(3)
    ]
    joined = reshape(transpose(attention(*parts, scale=0.3), perm=(0, 2, 1, 3)), shape=(B, S, 32))
    out = linear(joined, matrix("oo", 32, 32), constant("ob", random(32)), x, loc="out")
    up = linear(out, matrix("upp", 32, 96), constant("ub", random(96)), activation="gelu", loc="up")
    down = linear(up, matrix("down", 96, 32), constant("db", random(32)), out, loc="down")
    return Program("p", (Graph("g", (x,), (("y", down),)),), (NamedDim("b"), NamedDim("s")))


def matrices(program: Program) -> dict[str, np.ndarray]:
    found = {n.loc: weight_of(n.args[1]) for n in program.main.nodes() if n.op is linear}
    return {name: weight.read() for name, weight in found.items() if weight is not None}


def silenced(program: Program, name: str, rows: list[int]) -> Program:
    """The same program with rows of one matrix as zeros."""
    done: dict[Value, Value] = {}
    for node in program.main.nodes():
        args = [done.get(a, a) for a in node.args]
        if node.op is linear and node.loc == name:
            array = matrices(program)[name].copy()
            array[rows] = 0
            args[1] = constant(name, array)
        done[node] = replace(node, args=tuple(args)) if node.args else node
    return replace(
        program, graphs=(program.main.with_outputs(tuple(done[v] for _, v in program.main.outputs)),)
    )


@pytest.mark.parametrize(("what", "name", "inner"), [("channels", "down", 96), ("heads", "out", 32)])
def test_what_is_taken_out_is_what_a_zero_matrix_would_silence(what: str, name: str, inner: int) -> None:
    before = layer()
    after = Shrink(what, 0.25)(before, TARGET, lambda _: None)
    check(after, "shrink")
    left = matrices(after)[name]
    assert left.shape == (inner * 3 // 4, 32)
    kept_rows = {row.tobytes() for row in left}
    gone = [i for i, row in enumerate(matrices(before)[name]) if row.tobytes() not in kept_rows]
    assert len(gone) == inner // 4
    if what == "heads":
        assert gone == list(range(gone[0], gone[0] + 8))
        assert gone[0] % 8 == 0
    x = {"x": random(2, 5, 32, seed=9)}
    want = evaluate(silenced(before, name, gone).main, x)["y"]
    np.testing.assert_allclose(evaluate(after.main, x)["y"], want, rtol=1e-4, atol=1e-4)


def test_the_drop_in_arithmetic() -> None:
    before = layer()
    after = before
    for what in ("channels", "heads"):
        after = Shrink(what, 0.25)(after, TARGET, lambda _: None)
    constant_part = 32 * 96 + 32 * 32 + 2 * 32 * 96
    assert str(multiply_adds(before.main)) == f"64*b*s*s+{constant_part}*b*s"
    assert str(multiply_adds(after.main)) == f"48*b*s*s+{constant_part * 3 // 4}*b*s"


def test_data_says_which_channels_count() -> None:
    lengths = np.ones(96)
    lengths[10:34] = 0
    after = Shrink("channels", 0.25, Lengths({"down": lengths}))(layer(), TARGET, lambda _: None)
    want = np.delete(matrices(layer())["down"], range(10, 34), 0)
    np.testing.assert_array_equal(matrices(after)["down"], want)


def test_refusals_say_why() -> None:
    x = graph_input("x", TensorType(DType.F32, (B, 8)))
    middle = linear(x, constant("a", random(8, 8)), constant("ab", random(8)), loc="a")
    y = linear(middle, constant("b", random(8, 8)), constant("bb", random(8)), loc="b")
    program = Program("p", (Graph("g", (x,), (("y", y), ("z", middle))),), (NamedDim("b"),))
    reasons: list[str] = []
    after = Shrink("channels", 0.5)(program, TARGET, lambda event: reasons.append(event.reason))
    assert after is program
    assert reasons == ["what is between the two products is used elsewhere"]
