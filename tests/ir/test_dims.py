"""Dims are polynomials: they compute as integers do, print, read back, and are bounded soundly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isthmus.ir import dims
from isthmus.ir.dims import (
    Dim,
    DimTooLarge,
    Expr,
    compare,
    divide_exactly,
    evaluate_dim,
    floordiv,
    interval,
    maximum,
    minimum,
    mod,
    product,
    simplify,
    substitute,
    symbol,
)
from isthmus.ir.read import parse_dim

NAMES = ("a", "b", "seq_len")
a, b, seq = (symbol(name) for name in NAMES)
Sizes: TypeAlias = dict[str, int]

# A dim, and the integer function it stands for.
Pair: TypeAlias = tuple[Dim, Callable[[Mapping[str, int]], int]]

OPERATIONS: Mapping[str, tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = {
    "+": (lambda x, y: x + y, lambda x, y: x + y),
    "-": (lambda x, y: x - y, lambda x, y: x - y),
    "*": (lambda x, y: x * y, lambda x, y: x * y),
    "//": (floordiv, lambda x, y: x // y),
    "%": (mod, lambda x, y: x % y),
    "min": (minimum, min),
    "max": (maximum, max),
}


def _named(name: str) -> Pair:
    return symbol(name), lambda sizes: sizes[name]


def _number(value: int) -> Pair:
    return value, lambda _: value


def _apply(kind: str, left: Pair, right: Pair) -> Pair:
    symbolic, integer = OPERATIONS[kind]
    try:
        dim = symbolic(left[0], right[0])
    except ZeroDivisionError:
        dim = left[0]
        return left
    return dim, lambda sizes: integer(left[1](sizes), right[1](sizes))


leaves = st.sampled_from(NAMES).map(_named) | st.integers(-6, 9).map(_number)
pairs = st.recursive(
    leaves,
    lambda inner: st.builds(_apply, st.sampled_from(sorted(OPERATIONS)), inner, inner),
    max_leaves=7,
)
sizes = st.fixed_dictionaries({name: st.integers(0, 12) for name in NAMES})


def value_of(pair: Pair, known: Sizes) -> int:
    try:
        return pair[1](known)
    except ZeroDivisionError:
        assume(False)
        raise


@given(pairs, sizes)
@settings(max_examples=500)
def test_dims_compute_as_integers(pair: Pair, known: Sizes) -> None:
    expected = value_of(pair, known)
    try:
        assert evaluate_dim(pair[0], known) == expected
    except ZeroDivisionError:
        pytest.fail(f"{pair[0]} divides by zero where integers do not")


@given(pairs)
@settings(max_examples=500)
def test_what_is_printed_reads_back(pair: Pair) -> None:
    assert parse_dim(str(pair[0])) == pair[0]
    assert " " not in str(pair[0])


@given(pairs, sizes)
@settings(max_examples=500)
def test_intervals_hold(pair: Pair, known: Sizes) -> None:
    expected = value_of(pair, known)
    for bounds in (dict.fromkeys(NAMES, (0, 12)), {name: (n, n) for name, n in known.items()}, {}):
        low, high = interval(pair[0], bounds)
        assert low is None or low <= expected
        assert high is None or expected <= high


@given(pairs, sizes)
@settings(max_examples=500)
def test_simplifying_changes_no_value(pair: Pair, known: Sizes) -> None:
    expected = value_of(pair, known)
    for bounds in (dict.fromkeys(NAMES, (0, 12)), {name: (n, n + 2) for name, n in known.items()}):
        assert evaluate_dim(simplify(pair[0], bounds), known) == expected


@given(pairs, pairs, sizes)
def test_comparing_holds(left: Pair, right: Pair, known: Sizes) -> None:
    x, y = value_of(left, known), value_of(right, known)
    order = compare(left[0], right[0], dict.fromkeys(NAMES, (0, 12)))
    assert order is None or order == ("<" if x < y else ">" if x > y else "=")


@given(pairs, pairs, pairs)
def test_laws_hold_as_equality_of_objects(p: Pair, q: Pair, r: Pair) -> None:
    x, y, z = p[0], q[0], r[0]
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) + z == x + (y + z)
    assert (x * y) * z == x * (y * z)
    assert x * (y + z) == x * y + x * z
    assert x - x == 0
    assert x * 1 == x and x + 0 == x and x * 0 == 0
    assert hash(x + y) == hash(y + x)


@given(pairs, pairs)
def test_exact_quotients(p: Pair, q: Pair) -> None:
    x, y = p[0], q[0]
    assume(y != 0)
    assert divide_exactly(x * y, y) == x
    quotient = divide_exactly(x, y)
    assert quotient is None or quotient * y == x


@given(pairs, sizes, st.sampled_from(NAMES))
def test_substituting_one_name_at_a_time(pair: Pair, known: Sizes, first: str) -> None:
    expected = value_of(pair, known)
    try:
        partly = substitute(pair[0], {first: known[first]})
        assert first not in dims.names(partly)
        assert substitute(partly, known) == expected
    except ZeroDivisionError:
        assume(False)


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (2 * a * b + a + 1, "2*a*b+a+1"),
        (a - b, "a-b"),
        (-a, "-a"),
        ((a + 1) // 2, "(a+1)//2"),
        (2 * ((a + 1) // 2), "2*((a+1)//2)"),
        (-(a // 2), "-(a//2)"),
        (a // b // seq, "(a//b)//seq_len"),
        (a // (b // seq), "a//(b//seq_len)"),
        (a % 2 * (b % 3), "(a%2)*(b%3)"),
        (minimum(a, 512), "min(512,a)"),
        (minimum(a, 512) // 2 - 3, "min(512,a)//2-3"),
        (floordiv(-3, a), "(-3)//a"),
        ((a + 9) // 4, "(a+1)//4+2"),
        ((8 * a * b + 6 * a - 1) // 4, "2*a*b+(6*a+3)//4-1"),
        (-((8 - a) // 4), "(a+3)//4-2"),
        ((a // 5 - 1) // 2, "(a+5)//10-1"),
        (a * a, "a*a"),
        ((a * a - 1) // (a + 1), "a-1"),
        (4 * a * b // (2 * a), "2*b"),
        (4 * a % 2, "0"),
        (minimum(a, a), "a"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert parse_dim(text) == dim


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a dimension, found the end"),
        ("a+", "expected a dimension"),
        ("a b", "expected the end of the dimension, found 'b'"),
        ("(a", r"expected '\)'"),
        ("a**2", "expected a dimension"),
        ("min(a)", "expected ','"),
        ("min(a,b,c)", r"expected '\)'"),
        ("abs(a)", "expected the end"),
        ("1.5", "expected a dimension"),
        ("a/2", "expected the end"),
        ("a//0", "divided by zero"),
        ("a%(b-b)", "divided by zero"),
        ("größe", "expected the end of the dimension"),
        ("__import__('os')", "expected the end"),
        ("a" + "*a" * 64, "too many"),
        ("(" * 5000, "nested more than"),
        ("-" * 5000, "nested more than"),
        ("9" * 5000, "expected a dimension"),
        ("*".join(f"(a{i}+b{i})" for i in range(40)), "terms"),
        ("*".join(["9999999999"] * 40), "63 bits"),
    ],
)
def test_text_that_is_no_dim(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dim(text)


def test_bounds_decide() -> None:
    bounds = {"a": (1, 512), "b": (600, None)}
    assert simplify(minimum(a, 512), bounds) == a
    assert simplify(maximum(a, b), bounds) == b
    assert simplify(a % 513, bounds) == a
    assert simplify(a // 513, bounds) == 0
    assert simplify(minimum(a, 511), bounds) == minimum(a, 511)
    assert interval(2 * a + 1, bounds) == (3, 1025)
    assert interval(a - b, bounds) == (None, -88)
    assert interval(seq, bounds) == (0, None)
    assert compare(a, b, bounds) == "<"
    assert compare(a, 513 - a, bounds) is None


def test_products_of_shapes() -> None:
    assert product(()) == 1
    assert product((2, a, 3, b)) == 6 * a * b
    assert product((a, 0)) == 0


def test_names() -> None:
    assert dims.names(minimum(a, b // seq) + 1) == {"a", "b", "seq_len"}
    assert dims.names(7) == frozenset()
    assert a.name == "a"
    for other in (2 * a, a + 1, a * a, minimum(a, 3)):
        assert isinstance(other, Expr)
        assert other.name is None


def test_unknown_names_and_zero_are_told() -> None:
    with pytest.raises(KeyError, match="b"):
        evaluate_dim(a + b, {"a": 1})
    with pytest.raises(ZeroDivisionError):
        floordiv(a, 0)
    with pytest.raises(ZeroDivisionError):
        mod(a, 0)
    with pytest.raises(DimTooLarge):
        product(tuple(symbol(f"a{i}") + symbol(f"b{i}") for i in range(20)))
