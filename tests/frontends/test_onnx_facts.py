"""What follows for named dims when two sizes must be equal."""

from __future__ import annotations

import pytest

from isthmus.frontends.onnx.facts import Facts, at_least, conclude
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
        # what is cut into whole blocks is a multiple of their length
        ("batch*seq", "4*batch*(seq//4)", "seq", "4*seq_div_4"),
        ("n", "16*(n//16)", "n", "16*n_div_16"),
        ("seq", "4*(seq//3)", None, None),
        ("n", "65*(n//65)", None, None),
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


def test_bounds_of_a_multiple() -> None:
    found = conclude(parse_dim("n"), parse_dim("16*(n//16)"), FACTS)
    assert found is not None
    assert found.facts.bounds["n_div_16"] == (1, 4)
    assert list(found.facts.bounds) == ["batch", "seq", "past", "total", "n_div_16"]


def test_bounds_move_to_the_name_that_stays() -> None:
    facts = Facts({"seq": (1, None), "length": (2, 64)}, {})
    found = conclude(parse_dim("seq"), parse_dim("length"), facts)
    assert found is not None
    assert found.facts.bounds == {"seq": (2, 64)}


@pytest.mark.parametrize(
    ("a", "b", "bounds"),
    [
        ("(height//8)*(width//8)+1", "17", {"height": (32, 39), "width": (32, 39)}),
        ("17", "(height//8)*(width//8)+1", {"height": (32, 39), "width": (32, 39)}),
        ("2*(height//8)", "8", {"height": (32, 39), "width": (1, None)}),
        ("((height+3)//4)*(width//8)", "4", {"height": (5, 8), "width": (16, 23)}),
        ("(height//8)*(width//8)", "12", None),
        ("(height//8)*width", "16", None),
        ("3*(height//8)", "8", None),
    ],
)
def test_patches_of_an_image(a: str, b: str, bounds: dict[str, tuple[int, int | None]] | None) -> None:
    facts = Facts({"height": (1, None), "width": (1, None)}, {})
    found = conclude(parse_dim(a), parse_dim(b), facts)
    if bounds is None:
        assert found is None
        return
    assert found is not None
    assert found.facts.bounds == bounds
    assert found.text
    assert found.facts.resolve(parse_dim(a) - parse_dim(b)) == 0


@pytest.mark.parametrize(
    ("dim", "least", "bounds"),
    [
        ("n//10-1", 1, (20, None)),
        ("(n+5)//10-1", 1, (15, None)),
        ("min((n+1)//2,n//2+1)", 2, (3, None)),
        ("n*n-n-30", 0, None),  # intervals do not see it
        ("5001-n//10", 0, (1, 50019)),
        ("n", 1, None),
        ("1-n", 1, None),
        ("min(n,3)", 4, None),
    ],
)
def test_lower_bounds(dim: str, least: int, bounds: tuple[int, int | None] | None) -> None:
    found = at_least(parse_dim(dim), least, Facts({"n": (1, None)}, {}))
    assert (None if found is None else found.facts.bounds["n"]) == bounds
