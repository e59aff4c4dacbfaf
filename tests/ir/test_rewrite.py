"""The rewriter: what matches, what fires, what is refused and why, and what stays as it was."""

from __future__ import annotations

import numpy as np

from isthmus.ir.graph import Graph, Marker, Value, constant, graph_input
from isthmus.ir.rewrite import Event, Match, Rule, named, rewrite, scalar, such, weight
from isthmus.ir.types import DType, TensorType
from isthmus.ops.movement import reshape, transpose
from isthmus.ops.pointwise import (
    absolute,
    add,
    cos,
    exp,
    mul,
    neg,
    relu,
    sigmoid,
    silu,
    sin,
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
    # Trying all ways to match would take longer than anybody waits.
    assert rewrite(graph, (rule,)) is graph


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
    assert [(e.rule, e.at, e.reason, e.inner) for e in events] == [("picky", y, "sigmoid has 2 users", (s,))]


def test_firing_is_told() -> None:
    (x,) = inputs("x")
    s = sigmoid(x)
    y = mul(x, s, loc="/Mul")
    events: list[Event] = []
    rewrite(graph_of(y, using=[x]), (PICKY,), events.append)
    assert [(e.rule, e.at, e.reason, e.inner) for e in events] == [("picky", y, "", (s,))]


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
