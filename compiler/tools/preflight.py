"""What a compile would do, or why it cannot: everything `isthmus check` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.codegen.weights_file import WeightsLayout
from isthmus.errors import Code, Problem
from isthmus.ir.dims import Dim, evaluate_dim
from isthmus.ir.graph import Program
from isthmus.lowering.plan import Plan
from isthmus.passes.pipeline import Step
from isthmus.target import Target
from isthmus.tools.contract import Fusion, Miss, fusions, misses
from isthmus.tools.costs import arena_bytes, multiply_adds, port_bytes

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


def build_kernels(plan: Plan) -> None:
    """Build the body of every kernel: after this only machine code is left to be made.

    No model is refused here, so a failure is a `CompilerBug`: it is better met now than in a compile.
    """
    for kernel in plan.kernels():
        _ = kernel.func


def examine(
    program: Program,
    plan: Plan,
    layout: WeightsLayout,
    steps: Sequence[Step],
    sizes: Mapping[str, int],
    threads: int,
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
    return Plans(fusions(program.main), misses(steps), dict(sorted(uses.items())), len(plan.stages), costs)
