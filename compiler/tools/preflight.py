"""What a compile would do, or why it cannot: everything `isthmus check` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.codegen.session_memory import arena_bytes
from isthmus.codegen.weights_file import WeightsLayout
from isthmus.errors import Code, Problem
from isthmus.ir.dims import Dim, evaluate_dim
from isthmus.ir.graph import Program
from isthmus.lowering.plan import Plan
from isthmus.passes.pipeline import Step
from isthmus.target import Target
from isthmus.tools.contract import Fusion, Miss, fusions, misses, padding_text
from isthmus.tools.costs import multiply_adds, port_bytes
from isthmus.tools.sparsity import Layer, layers, with_zeros

# What to do about a problem that does not say it itself.
REMEDIES: Mapping[Code, str] = {
    Code.UNSUPPORTED_OPERATOR: "leave this part out of the model, or export it with other operators",
    Code.UNSUPPORTED_ATTRIBUTE: "export the model with another setting of this operator",
    Code.UNSUPPORTED_DTYPE: "export the model in float32, with integer inputs as int64 or int32",
    Code.DATA_DEPENDENT_SHAPE: "fix a dim with --dim NAME=SIZE, or leave this part out of the model",
    Code.SHAPE_MISMATCH: "fix a dim with --dim NAME=SIZE if the model was made for one size only",
    Code.NOT_ON_TARGET: "leave this part out of the model, or export it in other operators or in float32",
    Code.EXTERNAL_DATA: "put the files the model names beside it",
}


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes and multiply-adds of a run at `sizes`; `threads` share the arena."""

    sizes: Mapping[str, int]
    threads: int
    weights_bytes: int
    arena_bytes: int
    ports_bytes: int
    multiply_adds: Dim
    multiply_adds_at: int


@dataclass(frozen=True, slots=True)
class Plans:
    """What a compile would make of a model."""

    fusions: tuple[Fusion, ...]
    misses: tuple[Miss, ...]
    kernels: Mapping[str, int]  # by symbol: how many calls
    stages: int
    costs: Costs
    sparsity: tuple[Layer, ...]  # matrices that have zeros
    padding: str  # whether it is computed, and why; empty where the model has none


@dataclass(frozen=True, slots=True)
class Verdict:
    """What checking a model for one target came to: `plans`, or the problems that are in the way."""

    target: str
    is_host: bool
    problems: tuple[Problem, ...]
    plans: Plans | None


def passed(target: Target, is_host: bool, plans: Plans) -> Verdict:
    """The model can be compiled for `target`."""
    return Verdict(target.name, is_host, (), plans)


def failed(target: Target, is_host: bool, problems: Iterable[Problem]) -> Verdict:
    """It cannot; every problem says what to do."""
    return Verdict(target.name, is_host, tuple(map(with_remedy, problems)), None)


def with_remedy(problem: Problem) -> Problem:
    """`problem` with a hint, if there is one."""
    return problem if problem.hint else replace(problem, hint=REMEDIES.get(problem.code, ""))


def examine(
    program: Program,
    plan: Plan,
    layout: WeightsLayout,
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    threads: int,
    target: Target,
) -> Plans:
    """Look at a program after all passes, its plan and the passes that led there."""
    work = multiply_adds(program.main)
    costs = Costs(
        sizes,
        threads,
        layout.total,
        arena_bytes(plan, sizes, threads),
        port_bytes((*plan.inputs, *plan.outputs), sizes),
        work,
        evaluate_dim(work, sizes),
    )
    uses = Counter(call.kernel.symbol for call in plan.calls())
    return Plans(
        fusions(program.main),
        misses(steps),
        dict(sorted(uses.items())),
        len(plan.stages),
        costs,
        with_zeros(layers(program, target)),
        padding_text(program.main, steps),
    )
