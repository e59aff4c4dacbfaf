"""ONNX's own node tests: how one of them is imported, and how many are compiled into one bundle."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import compose, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from isthmus.driver import Options, compile_program, find_target
from isthmus.errors import IsthmusError
from isthmus.frontends.onnx import read
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, Program
from isthmus.onnx_backend import as_bits, run_session, settings, settle
from isthmus.runtime import load

Array = np.ndarray[Any, Any]
Outcome = str  # "" when the test passes, else what went wrong


@dataclass(frozen=True)
class Case:
    """One test; `data` holds (inputs, outputs) in the order of the model's."""

    name: str
    model: onnx.ModelProto
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Imported:
    """A test as a program, the arrays to run it on, and what should come out."""

    case: Case
    program: Program
    arrays: Mapping[str, Array]
    expected: Mapping[str, Any]

    def compare(self, got: Mapping[str, Array]) -> None:
        """Raises AssertionError unless every output is what it should be, at the test's own tolerance."""
        outputs = [_as(got[name], wanted) for name, wanted in self.expected.items()]
        Runner.assert_similar_outputs(list(self.expected.values()), outputs, self.case.rtol, self.case.atol)


def _as(array: Array, wanted: Any) -> Array:
    """Bytes as the floats of 8 bits or 4 that were expected."""
    is_bits = isinstance(wanted, np.ndarray) and "float" in wanted.dtype.name and array.dtype == np.uint8
    return array.view(wanted.dtype) if is_bits else array


@cache
def cases() -> tuple[Case, ...]:
    """Every node test of the installed onnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they compute their truth with infinities
        found = load_model_tests(kind="node")
    return tuple(
        Case(
            t.name.removeprefix("test_"),
            t.model,
            tuple(([_array(i) for i in ins], [_array(o) for o in outs]) for ins, outs in t.data_sets),
            t.rtol,
            t.atol,
        )
        for t in found
    )


def _array(item: Any) -> Any:
    return numpy_helper.to_array(item) if isinstance(item, onnx.TensorProto) else item


def imported(case: Case, prefix: str = "") -> list[Imported]:
    """The test's programs, one for each data set. Raises `ModelError`."""
    weights = {w.name for w in case.model.graph.initializer}
    names = [i.name for i in case.model.graph.input if i.name not in weights]
    fixed = settings(case.model)
    found = []
    for ins, outs in case.data:
        arrays = dict(zip(names, ins, strict=True))
        known = {n: np.asarray(a) for n, a in arrays.items() if n in fixed}
        model = settle(case.model, known)
        if prefix:
            model = compose.add_prefix(model, prefix)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            program = read(path, name=case.name, warn=lambda _: None)
        given = {prefix + n: np.asarray(a) for n, a in arrays.items() if n not in known}
        expected = {prefix + o.name: e for o, e in zip(case.model.graph.output, outs, strict=True)}
        found.append(Imported(case, program, given, expected))
    return found


def outcome(action: Callable[[], None]) -> Outcome:
    """What went wrong in `action`, in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            action()
    except IsthmusError as error:
        return " | ".join(f"{p.code.number} {p.message}" for p in error.problems)[:300]
    except Exception as error:  # noqa: BLE001 - a test that fails in any way has failed
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def evaluated(case: Case) -> Outcome:
    """Import, and run by the reference evaluator."""

    def run() -> None:
        for each in imported(case):
            each.compare(evaluate(each.program.main, as_bits(each.arrays)))

    return outcome(run)


def compiled(
    chosen: Sequence[Case], kernels: Path, target: str = "host", size: int = 48
) -> dict[str, Outcome]:
    """Import, compile and run. Tests share bundles of up to `size`; where one bundle fails to compile, it is
    cut in half until the test to blame is alone."""
    found: dict[str, Outcome] = {}
    ready: list[Imported] = []
    single: list[Imported] = []
    for i, case in enumerate(chosen):

        def bring(case: Case = case, i: int = i) -> None:
            ready.extend(imported(case, f"t{i}_"))

        if outcome(bring):
            # The prefix does not reach graphs inside nodes; then names are kept, and the test is alone.
            found[case.name] = outcome(lambda case=case: single.extend(imported(case)))  # type: ignore[misc]
    alone = [[each] for each in single + [e for e in ready if e.program.dims]]
    together = [each for each in ready if not each.program.dims]
    batches = [together[i : i + size] for i in range(0, len(together), size)] + alone
    while batches:
        batch = batches.pop()
        text = outcome(lambda batch=batch: found.update(_run(batch, kernels, target)))  # type: ignore[misc]
        if text and len(batch) > 1:
            batches += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        elif text:
            found[batch[0].case.name] = text
    return found


def _run(batch: Sequence[Imported], kernels: Path, target: str) -> dict[str, Outcome]:
    """Run programs as one graph. Raises `IsthmusError` when they cannot be compiled."""
    inputs = tuple(v for each in batch for v in each.program.main.inputs)
    outputs = tuple(o for each in batch for o in each.program.main.outputs)
    dims = tuple(d for each in batch for d in each.program.dims)
    program = Program("nodes", (Graph("nodes", inputs, outputs),), dims)
    arrays = {n: a for each in batch for n, a in each.arrays.items()}
    with tempfile.TemporaryDirectory() as folder:
        options = Options(verify=False, cache=kernels)
        bundle = compile_program(program, find_target(target), Path(folder), options)
        with load(bundle.path) as session:
            got = run_session(session, as_bits(arrays))
    found: dict[str, Outcome] = {}
    for each in batch:
        text = outcome(lambda each=each: each.compare(got))  # type: ignore[misc]
        found[each.case.name] = found.get(each.case.name) or text
    return found
