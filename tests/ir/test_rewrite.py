"""The rewriter: what matches, what fires, what is refused and why, and what stays as it was."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import programs, random_arrays

from isthmus.errors import CompilerBug
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, Marker, Value, constant, graph_input, use_counts
from isthmus.ir.printer import show
from isthmus.ir.rewrite import Event, Match, Rule, _prepare, _Sweep, named, rewrite, scalar, such, weight
from isthmus.ir.types import DType, TensorType
from isthmus.ops.movement import reshape, transpose
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
from isthmus.ops.reduce import reduce_max, reduce_sum

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


# --- matching ------------------------------------------------------------------------------------


def test_commutative_arguments_match_either_way() -> None:
    (x,) = inputs("x")
    for y in (mul(x, sigmoid(x)), mul(sigmoid(x), x)):
        assert ops_of(rewrite(graph_of(y, using=[x]), (FUSE_SILU,))) == ["silu"]


def test_commutativity_inside_patterns_is_tried_with_what_is_outside() -> None:
    # The inner sum must be turned for the outer hole to agree.
    rule = Rule("r", find=lambda a, b: sub(add(a, b), b), make=lambda a, b: a)
    x, y = inputs("x", "y")
    for value in (sub(add(x, y), y), sub(add(y, x), y), sub(add(x, y), x), sub(add(x, x), x)):
        assert ops_of(rewrite(graph_of(value, using=[x, y]), (rule,))) == []
    z = inputs("z")[0]
    kept = graph_of(sub(add(x, y), z), using=[x, y, z])
    assert rewrite(kept, (rule,)) is kept


def test_sub_does_not_commute() -> None:
    rule = Rule("r", find=lambda x: sub(x, exp(x)), make=lambda x: x)
    (x,) = inputs("x")
    graph = graph_of(sub(exp(x), x), using=[x])
    assert rewrite(graph, (rule,)) is graph


def test_a_hole_stands_for_one_value() -> None:
    x, y = inputs("x", "y")
    graph = graph_of(mul(x, sigmoid(y)), mul(exp(x), sigmoid(exp(x))), using=[x, y])
    assert rewrite(graph, (FUSE_SILU,)) is graph, "equal text is not the same value"


def test_a_name_stands_for_one_value() -> None:
    rule = Rule(
        "r", find=lambda x: add(named("e", exp(x)), sin(named("e", exp(x)))), make=lambda x, e: add(e, x)
    )
    (x,) = inputs("x")
    e = exp(x)
    assert "sin" not in ops_of(rewrite(graph_of(add(e, sin(e)), using=[x]), (rule,)))
    two = graph_of(add(exp(x), sin(exp(x))), using=[x])
    assert rewrite(two, (rule,)) is two


def test_markers_match_anything_and_bind() -> None:
    def keep_axes(m: Match) -> Value:
        return neg(reduce_max(neg(m.value("x")), axes=m.attr("axes")))

    any_axes = Rule("r", find=lambda x: reduce_sum(x, axes=Marker()), make=lambda x: reduce_max(x, axes=(0,)))
    bound = Rule("s", find=lambda x: reduce_sum(x, axes=Marker("axes")), make=keep_axes)
    (x,) = inputs("x")
    graph = graph_of(reduce_sum(x, axes=(0,)), using=[x])
    assert ops_of(rewrite(graph, (any_axes,))) == ["reduce_max"]
    after = rewrite(graph, (bound,))
    assert ops_of(after) == ["neg", "reduce_max", "neg"]
    assert [v.attr("axes") for v in after.nodes() if v.op is reduce_max] == [(0,)]


def test_a_marker_is_one_attribute() -> None:
    rule = Rule(
        "r",
        find=lambda x: sub(reduce_max(x, axes=Marker("a")), reduce_sum(x, axes=Marker("a"))),
        make=lambda x, a: reduce_max(x, axes=a),
    )
    (x,) = inputs("x")
    same = sub(reduce_max(x, axes=(1,)), reduce_sum(x, axes=(1,)))
    assert ops_of(rewrite(graph_of(same, using=[x]), (rule,))) == ["reduce_max"]
    other = graph_of(sub(reduce_max(x, axes=(0, 1)), reduce_sum(x, axes=(1,))), using=[x])
    assert rewrite(other, (rule,)) is other


def test_attributes_must_agree() -> None:
    rule = Rule("r", find=lambda x: transpose(x, perm=(1, 0)), make=lambda x: transpose(neg(x), perm=(0, 1)))
    x = graph_input("x", TensorType(DType.F32, (3, 3)))
    graph = graph_of(transpose(x, perm=(0, 1)), using=[x])
    assert rewrite(graph, (rule,)) is graph


def test_restrictions() -> None:
    x = inputs("x")[0]
    half = constant("c", np.full((2, 3), 0.5, np.float32))
    mixed = constant("c", np.arange(6, dtype=np.float32).reshape(2, 3))

    def fires(rule: Rule, value: Value) -> bool:
        graph = graph_of(value, using=[x])
        return rewrite(graph, (rule,)) is not graph

    by_half = Rule("r", find=lambda x, c=scalar(0.5): mul(x, c), make=lambda x, c: add(x, c))
    by_any = Rule("r", find=lambda x, c=scalar(): mul(x, c), make=lambda x, c: add(x, c))
    by_weight = Rule("r", find=lambda x, c=weight(rank=2): mul(x, c), make=lambda x, c: add(x, c))
    by_rank = Rule("r", find=lambda x, c=weight(rank=1): mul(x, c), make=lambda x, c: add(x, c))
    negated = Rule("r", find=lambda x=such(lambda v: v.op is exp): neg(x), make=lambda x: sin(x))
    assert fires(by_half, mul(half, x)) and fires(by_any, mul(x, half))
    assert (
        not fires(by_half, mul(x, mixed))
        and not fires(by_any, mul(x, mixed))
        and not fires(by_half, mul(x, x))
    )
    assert fires(by_weight, mul(x, mixed)) and not fires(by_rank, mul(x, mixed))
    assert fires(negated, neg(exp(x))) and not fires(negated, neg(sin(x)))


def test_chains_of_commutative_ops_match_quickly() -> None:
    def chain(*parts: Value) -> Value:
        total = parts[0]
        for part in parts[1:]:
            total = add(part, total)
        return total

    rule = Rule("r", find=lambda a, b, c, d, e: chain(a, b, c, d, exp(e)), make=lambda a, b, c, d, e: a)
    xs = inputs(*"abcdefgh")
    value = chain(*xs)
    for _ in range(300):
        value = add(value, xs[0])
    graph = graph_of(value, using=xs)
    start = time.perf_counter()
    assert rewrite(graph, (rule,)) is graph
    assert time.perf_counter() - start < 2


# --- firing --------------------------------------------------------------------------------------


def test_nothing_to_do_is_the_same_graph() -> None:
    (x,) = inputs("x")
    graph = graph_of(relu(exp(x)), using=[x])
    assert rewrite(graph, (FUSE_SILU, DOUBLE_NEG)) is graph
    assert rewrite(graph, ()) is graph


def test_sharing_is_kept() -> None:
    (x,) = inputs("x")
    shared = neg(neg(exp(x)))
    graph = graph_of(sin(shared), cos(shared), using=[x])
    after = rewrite(graph, (DOUBLE_NEG,))
    (_, left), (_, right) = after.outputs
    assert left.args[0] is right.args[0]
    assert left.args[0] is shared.args[0].args[0], "what did not change is the same object"
    assert ops_of(after) == ["exp", "sin", "cos"]


def test_outputs_may_be_replaced_by_inputs() -> None:
    (x,) = inputs("x")
    after = rewrite(graph_of(neg(neg(x)), x, using=[x]), (DOUBLE_NEG,))
    assert [v for _, v in after.outputs] == [x, x]
    assert [name for name, _ in after.outputs] == ["y0", "y1"]


def test_rules_apply_to_what_rules_made() -> None:
    # tanh -> neg(neg(relu)); the two neg are new values inside what was made, and go as well.
    unfold = Rule("unfold", find=lambda x: tanh(x), make=lambda x: relu(neg(neg(sin(neg(neg(x)))))))
    (x,) = inputs("x")
    after = rewrite(graph_of(tanh(x), using=[x]), (unfold, DOUBLE_NEG))
    assert ops_of(after) == ["sin", "relu"]


def test_rules_apply_above_what_was_rewritten() -> None:
    (x,) = inputs("x")
    value = absolute(neg(neg(neg(x))))
    assert ops_of(rewrite(graph_of(value, using=[x]), (DOUBLE_NEG, ABS_NEG))) == ["abs"]


def test_rules_are_tried_in_order() -> None:
    first = Rule("first", find=lambda x: exp(x), make=lambda x: sin(x))
    second = Rule("second", find=lambda x: exp(x), make=lambda x: cos(x))
    (x,) = inputs("x")
    graph = graph_of(exp(x), using=[x])
    assert ops_of(rewrite(graph, (first, second))) == ["sin"]
    assert ops_of(rewrite(graph, (second, first))) == ["cos"]


def test_locations_are_those_of_what_was_replaced() -> None:
    unfold = Rule("unfold", find=lambda x: tanh(x), make=lambda x: relu(sin(cos(x, loc="own"))))
    (x,) = inputs("x")
    below = exp(x, loc="/below")
    after = rewrite(graph_of(tanh(below, loc="/here"), using=[x]), (unfold,))
    assert [(v.op.name, v.loc) for v in after.nodes()] == [
        ("exp", "/below"),
        ("cos", "own"),
        ("sin", "/here"),
        ("relu", "/here"),
    ]


def test_values_that_were_there_keep_their_location() -> None:
    (x,) = inputs("x")
    inner = exp(x, loc="/inner")
    after = rewrite(graph_of(neg(neg(inner), loc="/outer"), using=[x]), (DOUBLE_NEG,))
    assert after.outputs[0][1] is inner


def test_rebuilt_values_keep_location_and_attributes() -> None:
    (x,) = inputs("x")
    value = reshape(neg(neg(x)), shape=(3, 2), loc="/reshape")
    (after,) = rewrite(graph_of(value, using=[x]), (DOUBLE_NEG,)).nodes()
    assert (after.op, after.args, after.attr("shape"), after.loc) == (reshape, (x,), (3, 2), "/reshape")
    assert after.type == value.type


# --- refusals ------------------------------------------------------------------------------------


def used_once(m: Match) -> str | None:
    return None if m.uses("s") == 1 else f"sigmoid has {m.uses('s')} users"


PICKY = Rule("picky", find=lambda x: mul(x, named("s", sigmoid(x))), make=lambda x: silu(x), unless=used_once)


def test_a_refusal_says_why_and_where() -> None:
    (x,) = inputs("x")
    s = sigmoid(x)
    y = mul(x, s, loc="/Mul")
    events: list[Event] = []
    graph = graph_of(y, s, using=[x])
    assert rewrite(graph, (PICKY,), events.append) is graph
    assert [(e.rule, e.at, e.reason) for e in events] == [("picky", y, "sigmoid has 2 users")]


def test_firing_is_told() -> None:
    (x,) = inputs("x")
    y = mul(x, sigmoid(x), loc="/Mul")
    events: list[Event] = []
    rewrite(graph_of(y, using=[x]), (PICKY,), events.append)
    assert [(e.rule, e.at, e.reason) for e in events] == [("picky", y, "")]


def test_another_way_to_match_is_tried_after_a_refusal() -> None:
    rule = Rule(
        "r",
        find=lambda a, b: add(a, b),
        make=lambda a, b: sub(a, neg(b)),
        unless=lambda m: None if m.value("a").op is exp else "a is no exp",
    )
    (x,) = inputs("x")
    after = rewrite(graph_of(add(sin(x), exp(x)), using=[x]), (rule,))
    assert after.outputs[0][1].args[0].op is exp


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
    start = time.perf_counter()
    after = rewrite(graph, (DOUBLE_NEG, FUSE_SILU))
    assert time.perf_counter() - start < 5
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
    assert seconds(8_000) < 30 * max(seconds(1_000), 0.005)
