"""A timed model.c is the model.c of a bundle with a clock around each call, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import models
import onnx

from isthmus.codegen import timing
from isthmus.driver import Options, find_target, prepare, read_model, write_c


def test_only_calls_differ(tmp_path: Path) -> None:
    path = tmp_path / "bert.onnx"
    onnx.save(models.bert(layers=1, hidden=32, heads=2, inner=64, vocabulary=20, positions=16), path)
    target = find_target("host")
    program = read_model(path, Options())
    made = prepare(program, target, Options())
    plain = write_c("model", [made]).sources["model.c"]
    timed = write_c("model", [made], timed=True).sources["model.c"]
    calls = len(made.plan.calls())
    assert "TIMED" not in plain
    assert timing.SYMBOL not in plain
    numbers = [int(n) for n in re.findall(r"ISTHMUS_TIMED\((\d+), ", timed)]
    assert numbers == list(range(calls))
    without = re.sub(r"ISTHMUS_TIMED\(\d+, (.*)\);$", r"\1;", timed, flags=re.M)
    assert without.replace(f"{timing.declarations(calls)}\n", "") == plain
