"""Arithmetic that does nothing, and spellings of one operation that have a canonical one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isthmus.ir.graph import Op, Value
from isthmus.ir.rewrite import Guard, Match, Rule, always, scalar
from isthmus.ops import nn, pointwise, reduce
from isthmus.ops.movement import full
from isthmus.ops.pointwise import (
    add,
    div,
    exp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    mul,
    neg,
    pow_,
    reciprocal,
    relu,
    sqrt,
    sub,
    where,
)


def number(value: float, like: Value) -> Value:
    """A scalar of the element type of `like`."""
    rounded = np.asarray(value).astype(like.dtype.numpy)
    return full(shape=(), value=float(rounded), dtype=like.dtype)


def constant_like(value: Value, content: float) -> Value:
    """A constant of the type of `value` whose elements all equal `content`."""
    return full(shape=value.shape, value=content, dtype=value.dtype)


def keeps_type(name: str) -> Guard:
    """The value bound to `name` has the type of the whole already."""

    def guard(m: Match) -> str | None:
        return None if m.value(name).type == m.root.type else ""

    return guard


def both(*guards: Guard) -> Guard:
    """The first reason any of `guards` gives."""
    return lambda m: next((reason for g in guards if (reason := g(m)) is not None), None)


def _float(m: Match) -> str | None:
    return None if m.root.dtype.is_float else ""


def _neutral(name: str, op: Op, value: float) -> Rule:
    """op(x, value) is x."""
    return Rule(
        name,
        find=lambda x, c=scalar(value, rtol=0): op(x, c),
        make=lambda x: x,
        unless=keeps_type("x"),
        examples=({"x": "f32[2,n]", "c": value}, {"x": "f32[]", "c": value}),
    )


def _logical(name: str, op: Op, value: bool, result: bool | None) -> Rule:
    """op(x, value) is x, or the constant `result`."""
    return Rule(
        name,
        find=lambda x, c=scalar(float(value)): op(x, c),
        make=(lambda x: x) if result is None else (lambda m: constant_like(m.root, result)),
        unless=keeps_type("x"),
        examples=({"x": "bool[2,n]", "c": value},),
    )


def _power(name: str, exponent: float, make: Callable[[Value], Value], guard: Guard = always) -> Rule:
    return Rule(
        name,
        find=lambda x, c=scalar(exponent, rtol=0): pow_(x, c),
        make=lambda m: make(m.value("x")),
        unless=both(keeps_type("x"), guard),
        examples=({"x": "f32[2,n]" if guard is not _nonnegative_x else "f32[2,n] = square", "c": exponent},),
    )


def nonnegative(value: Value, depth: int = 6) -> bool:
    """Whether no element can be below 0; NaN may be."""
    if depth == 0:
        return False
    op, args = value.op, value.args
    if op is full:
        return float(value.attr("value")) >= 0
    if op in (exp, sqrt, pointwise.absolute, pointwise.sigmoid, relu, nn.softmax):
        return True
    if op is mul and args[0] is args[1]:
        return True
    if op in (add, mul, div, maximum, reduce.reduce_sum, reduce.reduce_mean, reduce.reduce_max):
        return all(nonnegative(a, depth - 1) for a in args)
    return False


def _nonnegative_x(m: Match) -> str | None:
    return (
        None
        if nonnegative(m.value("x"))
        else "x may be negative, where sqrt(-0.0) and sqrt(-inf) differ from pow"
    )


def _reciprocal_of(m: Match) -> str | None:
    """Division becomes multiplication only where the reciprocal is an ordinary number."""
    c = m.scalar("c")
    if not m.root.dtype.is_float:
        return ""
    if c == 0 or not math.isfinite(c) or not 1e-30 < abs(1 / c) < 1e30:
        return f"1 / {c} is not an ordinary number"
    return None


IDENTITIES = (
    _neutral("add-zero", add, 0.0),
    _neutral("mul-one", mul, 1.0),
    _neutral("sub-zero", sub, 0.0),
    _neutral("div-one", div, 1.0),
    _neutral("pow-one", pow_, 1.0),
    _logical("and-true", logical_and, True, None),
    _logical("and-false", logical_and, False, False),
    _logical("or-false", logical_or, False, None),
    _logical("or-true", logical_or, True, True),
    _logical("xor-false", logical_xor, False, None),
    Rule("not-not", lambda x: logical_not(logical_not(x)), lambda x: x, examples=({"x": "bool[2,n]"},)),
    Rule("neg-neg", lambda x: neg(neg(x)), lambda x: x, examples=({"x": "f32[2,n]"}, {"x": "i64[n]"})),
    Rule(
        "mul-minus-one",
        lambda x, c=scalar(-1.0, rtol=0): mul(x, c),
        lambda x: neg(x),
        unless=keeps_type("x"),
        examples=({"x": "f32[2,n]", "c": -1.0},),
    ),
)

WHERES = (
    Rule(
        "where-not",
        lambda c, a, b: where(logical_not(c), a, b),
        lambda c, a, b: where(c, b, a),
        examples=({"c": "bool[n]", "a": "f32[2,n]", "b": "f32[1]"},),
    ),
    Rule(
        "where-true",
        lambda a, b, c=scalar(1.0): where(c, a, b),
        lambda a: a,
        unless=keeps_type("a"),
        examples=({"c": True, "a": "f32[2,n]", "b": "f32[1]"},),
    ),
    Rule(
        "where-false",
        lambda a, b, c=scalar(0.0): where(c, a, b),
        lambda b: b,
        unless=keeps_type("b"),
        examples=({"c": False, "a": "f32[1]", "b": "f32[2,n]"},),
    ),
    Rule(
        "where-same",
        lambda c, a: where(c, a, a),
        lambda a: a,
        unless=keeps_type("a"),
        examples=({"c": "bool[n]", "a": "f32[2,n]"},),
    ),
)

SPELLINGS = (
    Rule(
        "matmul-of-one",
        lambda a, b: nn.matmul(a, b),
        lambda a, b: mul(a, b),
        unless=lambda m: None if m.value("a").shape[-1] == 1 else "",
        examples=({"a": "f32[b,n,1]", "b": "f32[1,s]"}, {"a": "f32[1,1]", "b": "f32[b,1,s]"}),
    ),
    _power("pow-two", 2.0, lambda x: mul(x, x)),
    _power("pow-three", 3.0, lambda x: mul(mul(x, x), x)),
    _power("pow-half", 0.5, lambda x: sqrt(x), _nonnegative_x),
    _power("pow-minus-half", -0.5, lambda x: reciprocal(sqrt(x)), _nonnegative_x),
    _power("pow-minus-one", -1.0, lambda x: reciprocal(x), _float),
    Rule(
        "one-over",
        lambda x, c=scalar(1.0, rtol=0): div(c, x),
        lambda x: reciprocal(x),
        unless=both(keeps_type("x"), _float),
        examples=({"x": "f32[2,n]", "c": 1.0},),
    ),
    Rule(
        "div-by-number",
        lambda x, c=scalar(): div(x, c),
        lambda m: mul(m.value("x"), number(1 / m.scalar("c"), m.root)),
        unless=both(keeps_type("x"), _reciprocal_of),
        examples=({"x": "f32[2,n]", "c": 1.4142135}, {"x": "f32[n]", "c": -8.0}),
    ),
    Rule(
        "sub-number",
        lambda x, c=scalar(): sub(x, c),
        lambda m: add(m.value("x"), number(-m.scalar("c"), m.root)),
        unless=both(keeps_type("x"), _float),
        examples=({"x": "f32[2,n]", "c": 0.3},),
    ),
    Rule(
        "max-zero",
        lambda x, c=scalar(0.0): maximum(x, c),
        lambda x: relu(x),
        unless=keeps_type("x"),
        examples=({"x": "f32[2,n]", "c": 0.0},),
    ),
)
