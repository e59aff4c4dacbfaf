"""Whole models: the real sentence encoder, and every encoder that exporters wrote for the zoo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime

from isthmus.errors import ModelError, Problem
from isthmus.frontends.onnx import read
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import NamedDim, Program

# Families of encoders, and exporters whose graphs hold operators of the standard domain in floating point.
FAMILIES = (
    "albert",
    "bert",
    "bert-cls",
    "bert-mlm",
    "bert-ner",
    "distilbert",
    "minilm-sentence",
    "roberta",
    "xlmr",
)
EXPORTERS = {"dynamo", "legacy", "legacy-tf436", "optimum"}

# What is left of a model may compute with sizes only to make data of them.
SIZES_AS_DATA = {"dim_value", "iota", "full"}


def quiet(problem: Problem) -> None:
    raise AssertionError(f"unexpected warning: {problem}")


def test_minilm_imports_and_agrees(minilm: Path) -> None:
    program = read(minilm, warn=quiet)
    assert program.dims == (NamedDim("batch_size"), NamedDim("sequence_length", 1, 512))
    assert [name for name, _ in program.main.outputs] == ["output", "463", "onnx::Shape_422", "461"]
    assert not {v.op.name for v in program.main.nodes()} & SIZES_AS_DATA
    session = onnxruntime.InferenceSession(minilm, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (2, 9), (3, 40)):
        mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
        arrays = {"input_ids": rng.integers(0, 30522, (batch, length)), "attention_mask": mask}
        got = evaluate(program.main, arrays)
        for output, expected in zip(session.get_outputs(), session.run(None, arrays), strict=True):
            np.testing.assert_allclose(got[output.name], expected, atol=1e-4, err_msg=output.name)


def stored_arrays(program: Program, path: Path) -> dict[str, Any]:
    """Stored inputs; .npz files hold bfloat16 as raw bytes."""
    arrays = dict(np.load(path))
    for value in program.main.inputs:
        if value.dtype.numpy == ml_dtypes.bfloat16:
            arrays[value.attr("name")] = arrays[value.attr("name")].view(ml_dtypes.bfloat16)
    return arrays


def check_stored(program: Program, folder: Path) -> None:
    """The evaluator reproduces both stored runs within the tolerance of meta.json."""
    tolerance = json.loads((folder / "meta.json").read_text("utf-8"))["tolerance"]
    for run in (0, 1):
        got = evaluate(program.main, stored_arrays(program, folder / f"inputs_{run}.npz"))
        for name, stored in np.load(folder / f"outputs_{run}.npz").items():
            assert got[name].shape == stored.shape, name
            if stored.dtype.kind in "iub":
                np.testing.assert_array_equal(got[name], stored, err_msg=name)
                continue
            ours, wanted = got[name].astype(np.float64), stored.astype(np.float64)
            finite = np.isfinite(wanted)
            assert (np.isfinite(ours) == finite).all(), name
            largest = max(1, np.abs(wanted[finite]).max(initial=0))
            limit = tolerance["rtol"] * np.abs(wanted) + tolerance["atol"] * largest
            assert (np.abs(ours - wanted)[finite] <= limit[finite]).all(), name


def test_zoo_encoders(zoo: Path) -> None:
    """All of them in one test, so that it says how many there were."""
    folders = []
    for folder in sorted(p for p in zoo.iterdir() if (p / "meta.json").is_file()):
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        is_f32 = "bf16" not in meta["variant"]
        if meta["family"] in FAMILIES and meta["exporter"] in EXPORTERS and is_f32:
            folders.append(folder)
    assert len(folders) > 20, "this zoo has hardly any encoders"
    left: dict[str, set[str]] = {}
    for folder in folders:
        program = read(folder / "model.onnx", warn=quiet)
        check_stored(program, folder)
        if found := {v.op.name for v in program.main.nodes()} & SIZES_AS_DATA:
            left[folder.name] = found
    assert not left, "sizes are computed with at run time"


def test_zoo_never_fails_otherwise(zoo: Path) -> None:
    """Every other model imports or ends in coded problems."""
    for path in sorted(zoo.glob("*/model.onnx")):
        try:
            read(path, warn=lambda problem: None)
        except ModelError as error:
            assert error.problems
