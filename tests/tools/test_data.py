"""Requests from files, folders, texts and iterators, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from quantizable import feed_forward, requests
from tokenizers import Tokenizer, models, pre_tokenizers

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.ops.pointwise import add, cast
from isthmus.tools.data import read_requests


def ids(*numbers: int) -> np.ndarray:
    return np.asarray([numbers])


def refused(source: object, text: str, program: Program | None = None) -> None:
    with pytest.raises(ModelError, match=text) as caught:
        read_requests(source, program or feed_forward())  # type: ignore[arg-type]
    assert {p.code for p in caught.value.problems} <= {Code.BAD_CALIBRATION, Code.NO_SUCH_FILE}


def test_a_file_a_folder_and_an_iterator(tmp_path: Path) -> None:
    for name, request in zip("cab", requests(3), strict=True):
        np.savez(tmp_path / f"{name}.npz", **request)
    program, given = feed_forward(), requests(3)
    (one,) = read_requests(tmp_path / "c.npz", program)
    np.testing.assert_array_equal(one["ids"], given[0]["ids"])
    read = read_requests(str(tmp_path), program)
    assert [r["ids"].tolist() for r in read] == [given[i]["ids"].tolist() for i in (1, 2, 0)]
    assert len(read_requests(iter(given), program)) == 3


def test_numbers_of_another_width_are_converted() -> None:
    (request,) = read_requests([{"ids": ids(1, 2).astype(np.int32)}], feed_forward())
    assert request["ids"].dtype == np.int64


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("to be or not\n\nto be\n")
    words = Tokenizer(models.WordLevel({"to": 0, "be": 1, "or": 2, "not": 3}, unk_token="or"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    refused(text, "this is text")
    x = graph_input("input_ids", TensorType(DType.I64, (symbol("b"), symbol("n"))))
    mask = graph_input("attention_mask", TensorType(DType.I64, (symbol("b"), symbol("n"))))
    y = cast(add(x, mask), dtype=DType.F32)
    program = Program("p", (Graph("g", (x, mask), (("y", y),)),), (NamedDim("b"), NamedDim("n", 1, 4)))
    read = read_requests(text, program, tmp_path / "tokenizer.json")
    assert [r["input_ids"].tolist() for r in read] == [[[0, 1, 2, 3]], [[0, 1]]]
    assert read[1]["attention_mask"].tolist() == [[1, 1]]
    with pytest.raises(ModelError, match="the model also takes ids"):
        read_requests(text, feed_forward(), tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="not a tokenizer"):
        read_requests(text, program, text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([], "there are no requests"),
        ("nowhere.npz", "there is no such file"),
        ([{"ids": ids(4, 4)}, {"ids": ids(4, 4)}], "one number throughout"),
        ([{"ids": np.zeros((1, 0), np.int64)}], "n is 0, the model takes"),
        ([{"ids": np.zeros((1, 33), np.int64)}], "n is 33, the model takes n = 1..32"),
        ([{"idz": ids(1)}], "no input 'idz'"),
        ([{"ids": ids(1).astype(np.float32)}], "should be i64"),
    ],
)
def test_what_does_not_fit(source: object, text: str) -> None:
    refused(source, text)


def test_an_empty_folder_and_a_damaged_file(tmp_path: Path) -> None:
    refused(tmp_path, "there are no requests")
    (tmp_path / "a.npz").write_bytes(b"not an archive")
    refused(tmp_path / "a.npz", "not a .npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_floats_that_are_none(bad: float) -> None:
    x = graph_input("x", TensorType(DType.F32, (symbol("b"), 3)))
    program = Program("p", (Graph("g", (x,), (("y", add(x, x)),)),), (NamedDim("b"),))
    refused([{"x": np.asarray([[1, bad, 2]], np.float32)}], "NaN or infinity", program)
    refused([{"x": np.zeros((0, 3), np.float32)}], "b is 0", program)
