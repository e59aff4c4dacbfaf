"""The phases, in order, and how a program goes through them.

A phase can be stopped after, its result printed, edited, parsed and taken up again by the next one.
Dumping, timing and explaining are done by whoever passes `watch`; no pass knows about them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.graph import Program
from isthmus.ir.rewrite import Event
from isthmus.ir.verify import check
from isthmus.passes.clean.phase import CLEAN_PASSES
from isthmus.passes.fuse.phase import FUSE_PASSES
from isthmus.passes.legalize.phase import FOR_ALL, FOR_TARGET, LEGALIZE_PASSES
from isthmus.passes.quantize.phase import QUANTIZE_PASSES
from isthmus.passes.sparsify.choose import ChooseSparse
from isthmus.passes.steps import Pass, describe
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class Phase:
    """Passes that together bring a program from what they need to what they leave."""

    name: str
    needs: str
    leaves: str
    passes: tuple[Pass, ...] = field(repr=False)


CLEAN = Phase(
    "clean",
    needs="any program that the verifier accepts",
    leaves=(
        "canonical forms: constants folded, every value computed once, no movement that moves nothing, "
        "scalars as `full` without axes, broadcasts after the arithmetic they feed"
    ),
    passes=CLEAN_PASSES,
)
FUSE = Phase(
    "fuse",
    needs="canonical forms",
    leaves=(
        "linear, attention, layer_norm, rms_norm, softmax and activations where the model said them in "
        "other words"
    ),
    passes=FUSE_PASSES,
)
QUANTIZE = Phase(
    "quantize",
    needs="linear and norms where the model has them",
    leaves="products in integers where that was asked for; the same for every target",
    passes=QUANTIZE_PASSES,
)
LEGALIZE = Phase(
    "legalize",
    needs="any program",
    leaves="only what the target has kernels for, with weights stored as those kernels read them",
    passes=LEGALIZE_PASSES,
)
PHASES = (CLEAN, FUSE, QUANTIZE, LEGALIZE)


def phases(quantize: Sequence[Pass] = ()) -> tuple[Phase, ...]:
    """The phases, with what `quantize` is to do."""
    return tuple(replace(p, passes=tuple(quantize)) if p is QUANTIZE and quantize else p for p in PHASES)


@dataclass(frozen=True, slots=True)
class Step:
    """What one pass did: `before is after` when nothing changed. `events`: rules that fired or refused."""

    phase: str
    name: str
    before: Program
    after: Program
    events: tuple[Event, ...] = field(repr=False)


Watcher: TypeAlias = Callable[[Step], None]


def _nobody(_: Step) -> None:
    return None


def run(
    program: Program,
    target: Target,
    *,
    start: str = "clean",
    stop_after: str = "legalize",
    watch: Watcher = _nobody,
    verify: Literal["phase", "each"] = "phase",
    quantize: Sequence[Pass] = (),
    choose: ChooseSparse | None = None,
) -> Program:
    """`program` after the phases from `start` to `stop_after`, both included; `quantize` are the passes of
    that phase, `choose` is as `run_rest` has it.

    Raises `ModelError` for a phase that does not exist, and for what the target cannot do; `CompilerBug`
    when a pass leaves a program that the verifier rejects.
    """
    for phase in phases(quantize)[_index(start, "--resume-from") : _index(stop_after, "--stop-after") + 1]:
        program = _run(phase, _chosen(phase.passes, choose), program, target, watch, verify)
    return program


def run_shared(
    program: Program, target: Target, watch: Watcher = _nobody, start: str = CLEAN.name
) -> Program:
    """`program` after all passes, from the phase `start` on, that do the same for every target with the same
    routines as this one."""
    fused = run(program, target, start=start, stop_after=QUANTIZE.name, watch=watch)
    return _run(LEGALIZE, FOR_ALL, fused, target, watch, "phase")


def run_rest(
    program: Program, target: Target, watch: Watcher = _nobody, choose: ChooseSparse | None = None
) -> Program:
    """What is left to do for `target` after `run_shared`; `choose` says what decides about zeros, where it is
    not declared costs. Raises `ModelError` for what the target cannot do."""
    return _run(LEGALIZE, _chosen(FOR_TARGET, choose), program, target, watch, "phase")


def _chosen(passes: tuple[Pass, ...], choose: ChooseSparse | None) -> tuple[Pass, ...]:
    return tuple(choose if choose and isinstance(p, ChooseSparse) else p for p in passes)


def _run(
    phase: Phase,
    passes: tuple[Pass, ...],
    program: Program,
    target: Target,
    watch: Watcher,
    verify: Literal["phase", "each"],
) -> Program:
    for step in passes:
        events: dict[tuple[str, int, str], Event] = {}

        def keep(event: Event, events: dict[tuple[str, int, str], Event] = events) -> None:
            # Sweeps repeat: the same refusal at the same place is told once.
            events.setdefault((event.rule, id(event.at), event.reason), event)

        before, program = program, step(program, target, keep)
        if verify == "each" and program is not before:
            check(program, f"{phase.name}/{step.name}")
        watch(Step(phase.name, step.name, before, program, tuple(events.values())))
    if verify == "phase":
        check(program, phase.name)
    return program


def _index(name: str, option: str) -> int:
    names = [phase.name for phase in PHASES]
    if name not in names:
        raise ModelError(
            Problem(Code.UNKNOWN_PHASE, f"no phase called {name!r}", option, nearest(name, names))
        )
    return names.index(name)


def pipeline_text(phases: tuple[Phase, ...] = PHASES) -> str:
    """All passes with their options, as recorded in a bundle."""
    return " > ".join(f"{phase.name}[{', '.join(map(describe, phase.passes))}]" for phase in phases)
