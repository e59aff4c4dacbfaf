"""Phases stop, print, resume and report."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from isthmus.errors import Code, CompilerBug, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.encodings import Padded, Panels
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.parser import parse_program
from isthmus.ir.printer import show
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.types import DType, TensorType
from isthmus.ops import OPS
from isthmus.ops.movement import full
from isthmus.ops.nn import layer_norm, matmul
from isthmus.ops.pointwise import add, erf, exp, mul
from isthmus.passes import pipeline
from isthmus.passes.pipeline import CLEAN, PHASES, Phase, Step, pipeline_text, run
from isthmus.target import Target, panel_width
from isthmus.targets import x86_64

B = symbol("b")


def weight(name: str, *shape: int) -> Value:
    return constant(name, np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32))


def feed_forward() -> Program:
    """layer_norm(x w + b) with a GELU written out; 4 wide, so that all weights print in full."""
    x = graph_input("x", TensorType(DType.F32, (B, 4)))
    y = add(matmul(x, weight("w", 4, 4), loc="fc1"), weight("bias", 4), loc="bias")
    half, one, root = (full(shape=(), value=v, dtype=DType.F32) for v in (0.5, 1.0, 0.70710678))
    activated = mul(mul(y, half), add(erf(mul(y, root)), one), loc="act")
    normal = layer_norm(activated, weight("gain", 4), weight("shift", 4), epsilon=1e-5, loc="norm")
    return Program("tiny", (Graph("main", (x,), (("y", normal),)),), (NamedDim("b"),))


@pytest.mark.parametrize("stop", ["clean", "fuse"])
def test_stopping_printing_and_resuming_gives_the_same(stop: str, target: Target) -> None:
    program = feed_forward()
    whole = run(program, target)
    text = show(run(program, target, stop_after=stop))
    start = PHASES[[p.name for p in PHASES].index(stop) + 1].name
    resumed = run(parse_program(text, OPS), target, start=start)
    assert show(resumed) == show(whole)


def test_everything_fuses_into_one_product(target: Target) -> None:
    after = run(feed_forward(), target)
    ops = [v.op.name for v in after.main.nodes() if not v.is_leaf]
    assert ops == ["linear", "layer_norm"]
    linear = next(v for v in after.main.nodes() if v.op.name == "linear")
    assert linear.attr("activation") == "gelu" and linear.loc == "fc1"
    width = panel_width(target.vector)
    assert [a.t.encoding for a in linear.args] == [None, Panels(width), Padded(width)]


def test_every_step_is_watched_in_order(target: Target) -> None:
    steps: list[Step] = []
    program = feed_forward()
    last = run(program, target, watch=steps.append)
    assert [(s.phase, s.name) for s in steps] == [(p.name, s.name) for p in PHASES for s in p.passes]
    assert steps[0].before is program and steps[-1].after is last
    assert all(left.after is right.before for left, right in pairwise(steps))
    fired = {e.rule: e.at.loc for s in steps for e in s.events if not e.reason}
    assert fired["linear"] == "fc1" and fired["linear-gelu"] == "act"


def test_an_unknown_phase_is_named_with_the_nearest(target: Target) -> None:
    with pytest.raises(ModelError) as caught:
        run(feed_forward(), target, stop_after="fues")
    (problem,) = caught.value.problems
    assert problem.code is Code.UNKNOWN_PHASE and "'fuse'" in problem.hint


class Breaks:
    """Leaves a sum whose declared type is wrong."""

    name = "breaks"
    rules: tuple[Rule, ...] = ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        def change(graph: Graph) -> Graph:
            (_, value) = graph.outputs[0]
            wrong = replace(exp(value), type=TensorType(DType.F32, (B, 9)))
            return replace(graph, outputs=(("y", exp(wrong)),))

        return program.map_graphs(change)


@pytest.mark.parametrize(("verify", "blamed"), [("phase", "clean"), ("each", "clean/breaks")])
def test_a_pass_that_breaks_an_invariant_is_found(
    verify: str, blamed: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Phase("clean", CLEAN.needs, CLEAN.leaves, (Breaks(), *CLEAN.passes[:0]))
    monkeypatch.setattr(pipeline, "PHASES", (broken,))
    with pytest.raises(CompilerBug, match=f"^{blamed} left"):
        run(feed_forward(), target, stop_after="clean", verify="each" if verify == "each" else "phase")


def test_the_text_names_phases_passes_and_options() -> None:
    text = pipeline_text()
    assert text.startswith("clean[tidy(fold{limit=65536,dequantized=False},share,")
    for phase in PHASES:
        assert all(step.name in text for step in phase.passes)


def test_each_phase_says_what_it_needs_and_leaves() -> None:
    assert all(phase.needs and phase.leaves for phase in PHASES)


def test_what_targets_share_is_the_same_for_all() -> None:
    texts = {show(pipeline.run_shared(feed_forward(), target)) for target in x86_64.TARGETS}
    assert len(x86_64.TARGETS) > 1
    assert len(texts) == 1
    assert "linear(" in texts.pop()
