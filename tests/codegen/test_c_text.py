"""Dims, names and strings as C."""

from __future__ import annotations

import pytest

from isthmus.codegen import c_text
from isthmus.ir.read import parse_dim


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("5", "5"),
        ("8589934592", "INT64_C(8589934592)"),
        ("2*batch*seq", "2 * batch * seq"),
        ("seq+1", "(seq + 1)"),
        ("batch*(seq-1)", "(batch * seq + -1 * batch)"),
        ("(seq+1)//2", "floor_divide((seq + 1), 2)"),
        ("min(seq,512)", "isthmus_min(512, seq)"),
    ],
)
def test_dims_become_expressions(text, plain):
    assert c_text.dim(parse_dim(text), str) == plain


def test_sizes_saturate():
    text = c_text.dim(parse_dim("4*batch*seq+64"), str, saturating=True)
    assert text == "isthmus_add(isthmus_mul(isthmus_mul(4, batch), seq), 64)"


def test_names_are_identifiers_and_given_once():
    names = c_text.Names(["taken"])
    wanted = ["x", "x", "taken", "1/é", "for", "a.b", ""]
    given = [names.take(w) for w in wanted]
    assert given == ["x", "x_2", "taken_2", "v1", "for_2", "a_b", "v"]


def test_strings_and_comments_hold_anything():
    assert c_text.string('a"b\\c\n??/é') == '"a\\042b\\134c\\012\\077\\077/\\303\\251"'
    assert "*/" not in c_text.comment("x */ y /* z \\")
