"""What follows for named dims when two sizes must be equal."""

from __future__ import annotations

import pytest

from isthmus.frontends.onnx.facts import Facts, conclude
from isthmus.ir.dims import substitute
from isthmus.ir.read import parse_dim

FACTS = Facts({"batch": (1, None), "seq": (1, None), "past": (1, None), "total": (1, None), "n": (1, 64)}, {})


@pytest.mark.parametrize(
    ("a", "b", "name", "bounds"),
    [
        ("min(seq,512)", "seq", "seq", (1, 512)),
        ("seq", "min(512,seq)", "seq", (1, 512)),
        ("min(seq+2,514)", "seq+2", "seq", (1, 512)),
        ("max(seq,8)", "seq", "seq", (8, None)),
        ("min(2*seq,9)", "2*seq", "seq", (1, 4)),
        ("max(0,seq//10-1)", "seq//10-1", "seq", (10, None)),
        ("min(seq//10,5)", "seq//10", "seq", (1, 59)),
        ("min(8,seq)", "8", "seq", (8, None)),
        ("min(8,seq)", "min(16,seq)-min(8,seq)", "seq", (16, None)),
        ("min(n,32)", "n", "n", (1, 32)),
    ],
)
def test_bounds(a: str, b: str, name: str, bounds: tuple[int, int | None]) -> None:
    found = conclude(parse_dim(a), parse_dim(b), FACTS)
    assert found is not None
    assert not found.text
    assert found.facts.bounds[name] == bounds
    assert found.facts.resolve(parse_dim(a) - parse_dim(b)) == 0


@pytest.mark.parametrize(
    ("a", "b", "name", "value"),
    [
        ("batch", "2", "batch", "2"),
        ("total", "past+seq", "total", "past+seq"),
        ("past+seq", "total", "total", "past+seq"),
        ("batch", "seq", "seq", "batch"),
        ("8*batch", "8*seq", None, None),
        ("batch+1", "9", "batch", "8"),
        ("2*batch", "9", None, None),
        ("n", "65", None, None),
        ("seq", "0", None, None),
        ("batch*seq", "12", None, None),
    ],
)
def test_equalities(a: str, b: str, name: str | None, value: str | None) -> None:
    found = conclude(parse_dim(a), parse_dim(b), FACTS)
    if name is None or value is None:
        assert found is None
        return
    assert found is not None
    assert name in found.text
    assert found.facts.equal[name] == parse_dim(value)
    assert name not in found.facts.bounds
    both = [substitute(parse_dim(d), found.facts.equal) for d in (a, b)]
    assert both[0] == both[1]


def test_bounds_move_to_the_name_that_stays() -> None:
    facts = Facts({"seq": (1, None), "length": (2, 64)}, {})
    found = conclude(parse_dim("seq"), parse_dim("length"), facts)
    assert found is not None
    assert found.facts.bounds == {"seq": (2, 64)}
