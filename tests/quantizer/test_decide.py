"""Dense or sparse: what is measured is what is stored, and a record gives the same bundle again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target
from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, constant, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.ops.nn import layer_norm, linear
from isthmus.quantizer import decide
from isthmus.quantizer.decide import Deciding, read_decisions, with_decisions
from isthmus.quantizer.plan import asked, with_precision
from isthmus.target import Target

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}))
HOST = find_target("host")


def products(density: float = 0.3) -> Program:
    """Two products over `rows` rows, with matrices of as many numbers, and a third of nothing but zeros."""
    random = np.random.default_rng(3)
    x = graph_input("x", TensorType(DType.F32, (symbol("rows"), 96)))
    value = x
    for name, share in (("one", density), ("two", density), ("none", 0.0)):
        array = np.where(random.random((96, 96)) < share, random.standard_normal((96, 96)), 0)
        bias = constant(f"{name}.bias", random.standard_normal(96).astype(np.float32))
        value = linear(value, constant(name, array.astype(np.float32)), bias, x, loc=name)
    vectors = (constant(name, np.ones(96, np.float32)) for name in ("c", "d"))
    y = layer_norm(value, *vectors, epsilon=1e-5)
    return Program("products", (Graph("main", (x,), (("y", y),)),), (NamedDim("rows"),))


def layers(bundle: Path) -> dict[str, Mapping[str, object]]:
    report = json.loads((bundle / "report.json").read_bytes())
    return {layer["node"]: layer for layer in report["sparsity"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_record_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured for real; whatever came out is in the report, and again in that of who takes it from there."""
    monkeypatch.setattr(decide, "SECONDS", 0.1)
    program = products()
    options = with_decisions(program, HOST, OPTIONS, Deciding(measure=True, at={"rows": 200}))
    first = compile_program(program, HOST, tmp_path / "1", options).path
    found = layers(first)
    assert {name: layer["decided_by"] for name, layer in found.items()} == {
        "one": "measurement",
        "two": "measurement",
        "none": "declared cost",
    }
    for layer in (found["one"], found["two"]):
        gain = layer["measured_gain"]
        assert isinstance(gain, float)
        assert (layer["stored"] == "dense") == (gain < decide.GAIN)
        assert layer["rows"] == 200
    again = with_decisions(program, HOST, OPTIONS, Deciding(record=first))
    second = compile_program(program, HOST, tmp_path / "2", again).path
    assert contents(first) == contents(second)
    report = tmp_path / "decisions.json"
    report.write_bytes((first / "report.json").read_bytes())
    from_file = with_decisions(program, HOST, OPTIONS, Deciding(record=report))
    assert from_file.decisions == again.decisions


def test_products_of_integers_are_measured_in_their_own_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "SECONDS", 0.1)
    program, wanted = products(1.0), asked("int8", sparsity="block:1x4@0.8")
    narrow = with_precision(program, HOST, replace(OPTIONS, name="integers"), wanted)
    options = with_decisions(program, HOST, narrow, Deciding(measure=True, at={"rows": 200}))
    first = compile_program(program, HOST, tmp_path / "1", options).path
    # The first product takes what the model was given, and stays as it is.
    layer = layers(first)["two"]
    assert layer["decided_by"] == "measurement" and layer["dense_bytes"] == 96 * 96
    assert str(layer["stored"]).partition("(")[0] in ("dense", "block")
    assert isinstance(layer["measured_gain"], float)
    again = with_decisions(program, HOST, narrow, Deciding(record=first))
    assert contents(compile_program(program, HOST, tmp_path / "2", again).path) == contents(first)


def test_what_declared_costs_said_is_a_record_too(tmp_path: Path) -> None:
    program = products()
    first = compile_program(program, HOST, tmp_path / "1", OPTIONS).path
    again = with_decisions(program, HOST, OPTIONS, Deciding(record=first))
    assert contents(first) == contents(compile_program(program, HOST, tmp_path / "2", again).path)
    assert {layer["decided_by"] for layer in layers(first).values()} == {"declared cost"}


@pytest.mark.parametrize(
    ("gains", "stored"), [((0.5, 0.9), "dense"), ((0.9, 2.0), "second"), ((3, 2), "first")]
)
def test_the_fastest_is_taken_if_it_is_faster_than_dense(
    gains: tuple[float, float], stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms: list[tuple[tuple[int, int] | None, ...]] = []

    def times(
        shared: object, level: Target, options: Options, found: list[decide._Layer], ways: object
    ) -> list[dict[str, float]]:
        forms.extend(layer.forms for layer in found)
        return [{layer.place: 1 / gain for layer in found} for gain in (1.0, *gains)]

    monkeypatch.setattr(decide, "_times", times)
    (record,) = with_decisions(products(), HOST, OPTIONS, Deciding(measure=True)).decisions.values()
    assert set(record.of) == {"one", "two"}
    for decision, (first, second) in zip(record.of.values(), forms, strict=True):
        assert decision.form == {"dense": None, "first": first, "second": second}[stored]
        assert decision.measured == max(gains)


def test_dense_models_have_nothing_to_measure(tmp_path: Path) -> None:
    program = products(1.0)
    options = with_decisions(program, HOST, OPTIONS, Deciding(measure=True))
    assert [record.of for record in options.decisions.values()] == [{}]


def refused(program: Program, target: Target, wanted: Deciding, message: str, code: Code) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        with_decisions(program, target, OPTIONS, wanted)
    assert [p.code for p in caught.value.problems] == [code]


def test_what_cannot_run_here_is_not_measured() -> None:
    far = replace(HOST, name="far", arch="vax", levels=())
    refused(products(), far, Deciding(measure=True), "far cannot run on this machine", Code.BAD_OPTION)


def test_sizes_have_to_fit() -> None:
    refused(products(), HOST, Deciding(at={"row": 8}), "no open dim 'row'", Code.UNKNOWN_DIM)
    with pytest.raises(ModelError, match="leaves nothing to decide") as caught:
        Deciding(measure=True, at={"rows": 8}, record=Path("record"))
    assert [p.where for p in caught.value.problems] == ["--measure", "--at"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "no report"),
        ("{}", "no report"),
        ('{"sparsity": [{"node": "a", "stored": "dense"}]}', "no report"),
        ('{"sparsity": [{"node": "a", "stored": "gone", "matrix": "", "rows": 1}]}', "no report"),
        ('{"levels": {"other": {"sparsity": []}}}', "this is for other"),
    ],
)
def test_what_is_no_record(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    refused(products(), HOST, Deciding(record=path), message, Code.BAD_SPARSITY)


def test_a_record_of_nothing_or_another_chip(tmp_path: Path) -> None:
    refused(products(), HOST, Deciding(record=tmp_path / "none"), "no such file", Code.NO_SUCH_FILE)
    made = compile_program(products(), HOST, tmp_path, OPTIONS).path
    with pytest.raises(ModelError, match=f"for {HOST.name}, not for c"):
        read_decisions(made, find_target("c"))


def test_a_record_of_another_model_is_refused(tmp_path: Path) -> None:
    made = compile_program(products(), HOST, tmp_path, OPTIONS).path
    other = products(0.2)
    options = with_decisions(other, HOST, OPTIONS, Deciding(record=made))
    with pytest.raises(ModelError, match="another matrix is recorded"):
        compile_program(other, HOST, tmp_path / "other", options)
