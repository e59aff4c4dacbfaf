"""The conformance kit: what it holds, and that it finds a chip that computes wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from runners import KNOWN

from isthmus.errors import Code, InputError, Problem, RunnerError
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.dims import product as size_of
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program, walk
from isthmus.ir.sparse import HALVED, MASK, Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType
from isthmus.ir.verify import check
from isthmus.kernels import sparse
from isthmus.ops import OPS
from isthmus.passes import pipeline
from isthmus.passes.sparsify.choose import ChooseSparse, matrix_of
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.target import Target
from isthmus.tools.conformance import kit
from isthmus.tools.conformance.cases import MOST_PORTS, Case, batches, program
from isthmus.tools.conformance.examples import SIZES
from isthmus.tools.conformance.kit import Score, all_cases, score
from isthmus.tools.conformance.zeros import EVEN
from isthmus.tools.samples import storable

Arrays = Mapping[str, np.ndarray]
# Products with matrices that have zeros.
ZEROS = [case for case in all_cases() if any(w in case.name for w in ("sparse", "by 2:4", "by 4:8"))]
# A few of everything: enough to see how the kit judges.
SOME = [
    case
    for group in dict.fromkeys(c.group for c in all_cases())
    for case in itertools.islice((c for c in all_cases() if c.group == group), 3)
]


def right(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
    """A chip that computes as NumPy does."""
    halves = {
        v.attr("name"): inputs[v.attr("name")].view(DType.BF16.numpy)
        for v in whole.main.inputs
        if v.dtype is DType.BF16
    }
    found = evaluate(whole.main, {**inputs, **halves})
    return {name: storable(array) for name, array in found.items()}


def judged(cases: Sequence[Case], answer: kit.Answer = right) -> Score:
    return Score(tuple(o for part in score(batches(cases), answer) for o in part))


def test_every_op_and_every_dtype_is_in_it() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases) > 500
    ops = {node.op.name for case in cases for node in walk((case.value,))}
    assert set(OPS) <= ops
    # What is only stored is no result of a bundle, but it lies between.
    nodes = {node.dtype for case in cases for node in walk((case.value,))}
    assert nodes == set(DType)
    assert {case.value.dtype for case in cases} == {d for d in DType if not d.is_stored}
    assert sum(case.group.startswith("model: ") for case in cases) >= 6


def kinds_of_chips() -> list[Target]:
    """A chip for each set of features that decide how zeros are stored."""
    return list(
        {
            str((t.vector, t.byte_products, t.tiles, t.multiplies_bf16, t.expands_bytes)): t
            for t in KNOWN.values()
        }.values()
    )


@pytest.mark.parametrize("target", kinds_of_chips(), ids=lambda target: target.name)
def test_every_way_to_store_zeros_is_in_it(target: Target) -> None:
    """Every shape of block of every type, halves of four and of eight, and masks where the chip has them."""
    whole, arrays = program(ZEROS)
    lead = dict(zip(SIZES, arrays["sizes"].shape, strict=True))
    found: set[str] = set()
    shared = pipeline.run_shared(whole, target)
    for node in pipeline.run_rest(shared, target, choose=ChooseSparse(even=EVEN)).main.nodes():
        weight = matrix_of(node)
        if weight is None:
            continue
        stored, dtype = weight.type.encoding, weight.type.dtype
        if isinstance(stored, MaskedPanels):
            found.add(f"{dtype} 2:4")
        if isinstance(stored, GroupPanels):
            found.add(f"{dtype} {stored.kept}:{stored.group}")
        if not isinstance(stored, Blocks):
            continue
        found.add(f"{dtype} {stored.outputs}x{stored.inputs}")
        lists = stored.lists(*weight.type.static_shape)
        group = 4 // dtype.bytes
        vectors = lists * -(-stored.window // group // MASK)
        rows = evaluate_dim(size_of(node.shape[:-1]), lead)
        if stored.masked and masks_are_read(rows, vectors, stored.pairs):
            found.add(f"{dtype} by masks")
    shapes = {1: DType.F32, 2: DType.BF16, 4: DType.I8}
    rows_of = {DType.F32: "f32", DType.BF16: "bf16", DType.I8: "u8"}
    dense = {dtype for dtype, element in rows_of.items() if target.multiplies_in_tiles(element)}
    wanted = {
        f"{shapes[group]} {outputs}x{inputs}"
        for group, blocks in BLOCKS_OF.items()
        for outputs, inputs in blocks
        if shapes[group] not in dense
    }
    masked = {DType.F32, DType.I8} - dense if target.reads_masks(1, 1) else set()
    wanted |= {f"{dtype} by masks" for dtype in masked}
    wanted |= {f"{dtype} {kept}:{group}" for dtype in rows_of.keys() - dense for kept, group in HALVED}
    assert found >= wanted, f"not in the kit: {', '.join(sorted(wanted - found))}"


def masks_are_read(rows: int, vectors: int, pairs: int) -> bool:
    """Whether the kernel multiplies so many rows by vectors of the matrix (`kernels.sparse`)."""
    return vectors * (sparse.MASKED_SLOTS + sparse.ROW_SLOTS * rows) <= 2 * sparse.NUMBER_SLOTS * pairs


def test_it_is_the_same_every_time() -> None:
    one, two = ({c.name: c.inputs for c in make()} for make in (all_cases, all_cases.__wrapped__))
    assert one.keys() == two.keys()
    for name, inputs in one.items():
        assert inputs.keys() == two[name].keys()
        assert all(a.tobytes() == two[name][key].tobytes() for key, a in inputs.items())


def test_its_programs_are_valid_and_within_the_ports() -> None:
    parts = batches(all_cases())
    assert [case for part in parts for case in part] == list(all_cases())
    for part in parts:
        whole, arrays = program(part)
        check(whole, "kit")
        assert len(whole.main.inputs) == len(arrays) <= MOST_PORTS + 1
        assert len(whole.main.outputs) == len(part) <= MOST_PORTS


def test_a_chip_that_is_right_passes() -> None:
    found = judged(SOME)
    assert not [(o.case.name, o.reason) for o in found.failures]
    assert all(passed == total for passed, total in found.groups().values())
    assert found.digest == judged(SOME).digest


def test_a_chip_that_is_wrong_fails() -> None:
    """Integers off by one, floats off by a thousandth: each case fails, and the digest is another."""

    def wrong(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        bf16 = {name for name, value in whole.main.outputs if value.dtype is DType.BF16}
        return {
            name: (a ^ 1 if a.dtype.kind in "iub" else a * np.asarray(1.5, a.dtype) + np.asarray(1, a.dtype))
            if name not in bf16
            else a ^ 64
            for name, a in right(whole, inputs).items()
        }

    some = [case for case in SOME if case.value.t.size != 0 and "special" not in case.name]
    found = judged(some, wrong)
    empty = {"bf16[2,0]", "i32[0,3]", "f32[2,0]"}
    passed = [o.case.name for o in found.outcomes if o.passed and str(o.case.value.t) not in empty]
    assert not passed
    assert found.digest != judged(some).digest


def test_what_crashes_is_found_among_the_rest() -> None:
    guilty = SOME[7].name

    def crash(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        if any(name == guilty for name, _ in whole.main.outputs):
            raise InputError(Problem(Code.RUN_FAILED, "illegal instruction"))
        return right(whole, inputs)

    found = judged(SOME, crash)
    assert [(o.case.name, "illegal instruction" in o.reason) for o in found.failures] == [(guilty, True)]


def test_a_chip_on_which_nothing_works_is_known_soon() -> None:
    calls = []

    def broken(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        calls.append(1)
        raise InputError(Problem(Code.RUN_FAILED, "no"))

    found = judged(all_cases(), broken)
    assert len(found.failures) == len(all_cases())
    assert len(calls) <= len(batches(all_cases())) + 2 * kit.MOST_CUTS


def test_without_a_runner_there_is_no_score() -> None:
    def none(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        raise RunnerError(Problem(Code.NO_RUNNER, "no"))

    with pytest.raises(RunnerError):
        judged(SOME, none)
