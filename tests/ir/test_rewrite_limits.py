"""The rewriter at its limits: rules that are wrong, exact use counts, random graphs and large ones."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import programs, random_arrays

from isthmus.errors import CompilerBug
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, Marker, Value, graph_input, use_counts
from isthmus.ir.printer import show
from isthmus.ir.rewrite import Match, Rule, _prepare, _Sweep, named, rewrite
from isthmus.ir.types import DType, TensorType
from isthmus.ops.movement import transpose
from isthmus.ops.pointwise import (
    absolute,
    add,
    cos,
    exp,
    maximum,
    minimum,
    mul,
    neg,
    relu,
    sigmoid,
    silu,
    sin,
    sqrt,
    sub,
    tanh,
)

TYPE = TensorType(DType.F32, (2, 3))

FUSE_SILU = Rule("fuse-silu", find=lambda x: mul(x, sigmoid(x)), make=lambda x: silu(x))
DOUBLE_NEG = Rule("double-neg", find=lambda x: neg(neg(x)), make=lambda x: x)
ABS_NEG = Rule("abs-neg", find=lambda x: absolute(neg(x)), make=lambda x: absolute(x))


def inputs(*names: str) -> list[Value]:
    return [graph_input(name, TYPE) for name in names]


def graph_of(*outputs: Value, using: list[Value]) -> Graph:
    return Graph("g", tuple(using), tuple((f"y{i}", v) for i, v in enumerate(outputs)))


def ops_of(graph: Graph) -> list[str]:
    return [v.op.name for v in graph.nodes()]


def used_once(m: Match) -> str | None:
    return None if m.uses("s") == 1 else f"sigmoid has {m.uses('s')} users"


PICKY = Rule("picky", find=lambda x: mul(x, named("s", sigmoid(x))), make=lambda x: silu(x), unless=used_once)


# --- rules that are wrong ------------------------------------------------------------------------


def test_rules_that_undo_each_other() -> None:
    there = Rule("there", find=lambda x: sin(x), make=lambda x: cos(x))
    back = Rule("back", find=lambda x: cos(x), make=lambda x: sin(x))
    (x,) = inputs("x")
    with pytest.raises(CompilerBug, match=r"undo each other at (sin|cos) .*/here"):
        rewrite(graph_of(sin(x, loc="/here"), using=[x]), (there, back))


def test_a_rule_that_grows_without_end() -> None:
    # Each firing makes two more places to fire at.
    grow = Rule("grow", find=lambda x: exp(x), make=lambda x: maximum(exp(neg(x)), exp(sin(x))))
    (x,) = inputs("x")
    with pytest.raises(CompilerBug, match="grow"):
        rewrite(graph_of(exp(x), using=[x]), (grow,))


def test_a_rule_that_keeps_what_it_replaces() -> None:
    wrap = Rule("wrap", find=lambda x: exp(x), make=lambda m: relu(m.root))
    same = Rule("same", find=lambda x: exp(x), make=lambda m: m.root)
    (x,) = inputs("x")
    for rule in (wrap, same):
        with pytest.raises(CompilerBug, match=f"{rule.name} keeps what it replaces"):
            rewrite(graph_of(exp(x), using=[x]), (rule,))


def test_a_rule_that_changes_the_type() -> None:
    rule = Rule("flip", find=lambda x: exp(x), make=lambda x: transpose(x, perm=(1, 0)))
    (x,) = inputs("x")
    with pytest.raises(CompilerBug, match=r"flip changed the type .*f32\[2,3\] became f32\[3,2\]"):
        rewrite(graph_of(exp(x), using=[x]), (rule,))


def test_a_rule_that_builds_what_does_not_fit() -> None:
    rule = Rule("bad", find=lambda x: exp(x), make=lambda x: transpose(x, perm=(0, 1, 2)))
    (x,) = inputs("x")
    with pytest.raises(CompilerBug, match=r"bad .*not a permutation"):
        rewrite(graph_of(exp(x, loc="/here"), using=[x]), (rule,))


# --- use counts ----------------------------------------------------------------------------------


def test_uses_fall_when_users_go() -> None:
    # When mul(x, sigmoid(x)) has become silu(x), exp has one user less.
    seen: list[int] = []

    def note(m: Match) -> str | None:
        seen.append(m.uses("e"))
        return "only looking"

    look = Rule("look", find=lambda x: relu(silu(named("e", exp(x)))), make=lambda x: x, unless=note)
    (x,) = inputs("x")
    e = exp(x)
    rewrite(graph_of(relu(mul(e, sigmoid(e))), using=[x]), (FUSE_SILU, look))
    assert seen == [1]


def test_uses_rise_when_users_come() -> None:
    seen: list[int] = []

    def note(m: Match) -> str | None:
        seen.append(m.uses("e"))
        return "only looking"

    look = Rule("look", find=lambda x: cos(named("e", exp(x))), make=lambda x: x, unless=note)
    (x,) = inputs("x")
    e = exp(x)
    # neg(neg(e)) has two users, and e itself another: three, and cos is the fourth.
    n = neg(neg(e))
    rewrite(graph_of(sin(n), sqrt(n), e, cos(e), using=[x]), (DOUBLE_NEG, look))
    assert seen == [4]


SOME_RULES = (
    FUSE_SILU,
    DOUBLE_NEG,
    ABS_NEG,
    PICKY,
    Rule("tanh", find=lambda x: tanh(x), make=lambda x: neg(neg(sin(neg(x))))),
    Rule("relu", find=lambda x: relu(x), make=lambda x: absolute(neg(x))),
    Rule("add-self", find=lambda a, b: add(a, b), make=lambda a, b: sub(a, neg(b))),
    Rule("max-self", find=lambda x: maximum(x, x), make=lambda x: x),
    Rule("min-self", find=lambda x: minimum(x, x), make=lambda x: x),
    Rule(
        "flat",
        find=lambda x: transpose(transpose(x, perm=Marker("p")), perm=Marker("p")),
        make=lambda x, p: transpose(x, perm=tuple(p[i] for i in p)),
    ),
)


@given(programs(max_steps=20))
@settings(max_examples=100)
def test_counts_stay_exact_on_random_graphs(program: object) -> None:
    graph = program.main  # type: ignore[attr-defined]
    sweep = _Sweep(graph, _prepare(SOME_RULES), lambda _: None)
    for node in graph.nodes():
        sweep.settle(node)
    after = graph.with_outputs(tuple(sweep.done[v] for _, v in graph.outputs))
    assert {v: n for v, n in sweep.uses.items() if n} == use_counts(after)


SOUND_RULES = tuple(r for r in SOME_RULES if r.name not in ("tanh", "relu"))


@given(programs(max_steps=20))
@settings(max_examples=60)
def test_equations_keep_the_meaning_of_random_graphs(program: object) -> None:
    before = program.main  # type: ignore[attr-defined]
    after = rewrite(before, SOUND_RULES)
    arrays = random_arrays(program, 0)  # type: ignore[arg-type]
    left, right = evaluate(before, arrays), evaluate(after, arrays)
    for name in left:
        np.testing.assert_allclose(right[name], left[name], rtol=1e-3, atol=1e-4)


# --- size ----------------------------------------------------------------------------------------


def test_deep_graphs_need_no_deep_stack() -> None:
    (x,) = inputs("x")
    value = x
    for i in range(10_000):
        value = neg(neg(value)) if i % 2 else sin(value)
    graph = graph_of(value, using=[x])
    assert sum(1 for _ in graph.nodes()) == 15_000
    after = rewrite(graph, (DOUBLE_NEG, FUSE_SILU))
    assert sum(1 for _ in after.nodes()) == 5_000
    assert show(after).count("\n") == 5_003


def test_a_rule_may_make_a_deep_graph() -> None:
    def tower(x: Value) -> Value:
        for _ in range(3_000):
            x = sin(x)
        return x

    rule = Rule("tower", find=lambda x: exp(x), make=tower)
    (x,) = inputs("x")
    after = rewrite(graph_of(exp(x, loc="/here"), using=[x]), (rule,))
    assert {v.loc for v in after.nodes()} == {"/here"}
    assert sum(1 for _ in after.nodes()) == 3_000


def test_many_rewrites_of_many_nodes_take_linear_time() -> None:
    (x,) = inputs("x")

    def seconds(count: int) -> float:
        value = x
        for _ in range(count):
            value = mul(value, sigmoid(value))
        graph = graph_of(value, using=[x])
        start = time.perf_counter()
        rewrite(graph, (FUSE_SILU,))
        return time.perf_counter() - start

    seconds(200)
    # Eight times the nodes: 8 times the time if linear, 64 times if quadratic.
    assert min(seconds(8_000) for _ in range(3)) < 30 * max(seconds(1_000), 0.005)
