"""Tiny ONNX models, made on the spot, and their comparison with onnxruntime."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from isthmus.errors import ModelError, Problem
from isthmus.frontends.onnx import read
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program

Array = np.ndarray[Any, Any]

# Sizes for the named dims of test inputs; one of them all ones, where broadcasting is ambiguous.
SIZES = ({"b": 2, "s": 5, "t": 3}, {"b": 1, "s": 1, "t": 1}, {"b": 3, "s": 4, "t": 7})

DTYPES = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "i64": np.int64, "i32": np.int32,
    "i8": np.int8, "u8": np.uint8, "bool": np.bool_,
}  # fmt: skip

_SPEC = re.compile(r"(\w+)\[([^\]]*)\](?:<(\d+))?")


def input_info(name: str, spec: str) -> onnx.ValueInfoProto:
    """`f32[b,s,8]` as a graph input; `<9` behind it bounds the elements that are made for it."""
    found = _SPEC.fullmatch(spec)
    assert found, spec
    dims = [int(d) if d.isdigit() else d for d in found[2].split(",") if d]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[found[1]])), dims
    )


def input_array(spec: str, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """Random elements for a spec. Floats avoid 0; integers are 0 up to the bound, or small of either sign."""
    found = _SPEC.fullmatch(spec)
    assert found, spec
    shape = [int(d) if d.isdigit() else sizes[d] for d in found[2].split(",") if d]
    dtype = np.dtype(DTYPES[found[1]])
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    low, high = (0, int(found[3])) if found[3] else (0 if dtype.kind == "u" else -9, 10)
    return rng.integers(low, high, shape).astype(dtype)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, str],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 18,
    **more: Any,
) -> onnx.ModelProto:
    """A model of `nodes`. Outputs have no declared type."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [input_info(n, s) for n, s in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def import_model(model: onnx.ModelProto, folder: Path, **options: Any) -> Program:
    """`model` through a file, as a user has it. Warnings are errors unless `warn` is given."""
    path = folder / "tiny.onnx"
    path.write_bytes(model.SerializeToString())

    def refuse(problem: Problem) -> None:
        raise AssertionError(f"unexpected warning: {problem}")

    return read(path, **{"warn": refuse, **options})


def assert_agree(
    got: Mapping[str, Array], wanted: Mapping[str, Array], rtol: float = 1e-5, atol: float = 1e-5
) -> None:
    """Same names, types and shapes; integers exactly, floats within tolerance of the largest."""
    assert list(got) == list(wanted)
    for name, expected in wanted.items():
        assert got[name].dtype == expected.dtype, name
        assert got[name].shape == expected.shape, name
        if expected.dtype.kind in "iub":
            np.testing.assert_array_equal(got[name], expected, err_msg=name)
        else:
            finite = np.abs(expected[np.isfinite(expected)]).max(initial=1)
            np.testing.assert_allclose(got[name], expected, rtol, atol * finite, err_msg=name)


def run_onnxruntime(model: onnx.ModelProto, arrays: Mapping[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(arrays)), strict=True))


def check_model(
    model: onnx.ModelProto,
    inputs: Mapping[str, str],
    folder: Path,
    sizes: Sequence[Mapping[str, int]] = SIZES,
    rtol: float = 1e-5,
) -> Program:
    """Import once, then compare with onnxruntime at several sizes."""
    program = import_model(model, folder)
    rng = np.random.default_rng(0)
    for each in sizes:
        arrays = {name: input_array(spec, each, rng) for name, spec in inputs.items()}
        assert_agree(evaluate(program.main, arrays), run_onnxruntime(model, arrays), rtol)
    return program


def refused(model: onnx.ModelProto | bytes | Path, folder: Path, **options: Any) -> tuple[Problem, ...]:
    """The problems with which the import of `model` is refused."""
    path = model if isinstance(model, Path) else folder / "bad.onnx"
    if not isinstance(model, Path):
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(ModelError) as caught:
        read(path, **{"warn": lambda problem: None, **options})
    assert all(str(p) for p in caught.value.problems)
    return caught.value.problems


class Tools:
    """The functions above, for tests: modules of tests cannot import each other."""

    make_model = staticmethod(make_model)
    import_model = staticmethod(import_model)
    check_model = staticmethod(check_model)
    refused = staticmethod(refused)
    assert_agree = staticmethod(assert_agree)
    run_onnxruntime = staticmethod(run_onnxruntime)
    input_array: Callable[..., Array] = staticmethod(input_array)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    """Make, import and compare models."""
    return Tools
