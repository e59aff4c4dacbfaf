"""The imaginary chip of examples/new_chip: short, found, and its unit does the products of bytes.

That the package installs and passes the kit is shown by tests/docs/test_adding_a_chip.py, which
follows the page that installs it.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import isthmus.chips
import isthmus.target
from isthmus.cli import app
from isthmus.driver import Options, prepare, write_c
from isthmus.ir.graph import Program
from isthmus.tools.conformance.cases import program
from isthmus.tools.conformance.kit import all_cases

PLACE = Path(__file__).resolve().parents[2] / "examples/new_chip"


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> isthmus.target.Target:
    monkeypatch.syspath_prepend(str(PLACE))
    module = importlib.import_module("imaginary_npu.chip")
    point = SimpleNamespace(name="imaginary-npu", value="imaginary_npu.chip", dist=None, load=lambda: module)
    monkeypatch.setattr(isthmus.chips, "entry_points", lambda group: [point])
    (found,) = module.TARGETS
    assert isinstance(found, isthmus.target.Target)
    return found


def test_it_is_short() -> None:
    files = [p for p in PLACE.rglob("*") if p.suffix in (".py", ".c", ".toml")]
    assert len(files) == 4
    assert sum(len(path.read_text("utf-8").splitlines()) for path in files) <= 200


def plan_of(whole: Program, chip: isthmus.target.Target) -> str:
    """The text of model.c."""
    return write_c(whole.name, [prepare(whole, chip, Options())]).sources["model.c"]


def test_its_unit_is_called(chip: isthmus.target.Target) -> None:
    (case,) = [case for case in all_cases() if case.name == "dynamic int8"]
    whole, _ = program([case])
    source = plan_of(whole, chip)
    assert "npu_product_u8_i8(" in source.split("static void run(")[1]
    assert source.count("npu_matmul_8x8_i8(npu_unit *unit)") == 1
    floats, _ = program([case for case in all_cases() if case.name == "encoder"])
    assert "npu_" not in plan_of(floats, chip).replace(chip.name, "")


@pytest.mark.slow
def test_quantized_products_are_right(
    chip: isthmus.target.Target, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["targets", "imaginary-npu"]) == 0
    assert "npu_product_u8_i8" in capsys.readouterr().out
    assert app.run(["targets", "test", "imaginary-npu", "--group", "quantized", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] == found["total"] > 20 and found["runner"] == "simulator"
