"""Every rule of every pass is an equation: its left side, evaluated, equals what the rule makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from rule_examples import arrays_for, left_side, work

from isthmus.ir.evaluate import evaluate
from isthmus.ir.rewrite import Event, Rule, rewrite
from isthmus.ir.types import Array, DType
from isthmus.passes.legalize.quantized import PRODUCTS, QUANTIZED
from isthmus.passes.legalize.routines import WIDE
from isthmus.passes.legalize.widen import NARROW, WIDEN
from isthmus.passes.pipeline import PHASES

RULES = list({id(rule): rule for phase in PHASES for step in phase.passes for rule in step.rules}.values())
CASES = [pytest.param(rule, i, id=f"{rule.name}-{i}") for rule in RULES for i in range(len(rule.examples))]

# Rules that need not agree on infinities and NaN, and why.
FINITE_ONLY = {
    rule.name: "a masked score that is infinite or NaN is replaced on the left, added to on the right"
    for rule in RULES
    if rule.name.startswith(("attention-keep", "attention-drop", "attention-mask-keep", "causal"))
}

# Rounding errors of a few operations in each type, relative to the largest element.
ROUNDING = {DType.F64: 1e-12, DType.F32: 1e-6, DType.F16: 2e-3, DType.BF16: 2e-2}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_has_an_example(rule: Rule) -> None:
    assert rule.examples


@pytest.mark.parametrize(("rule", "index"), CASES)
def test_law(rule: Rule, index: int) -> None:
    graph = left_side(rule, rule.examples[index])
    events: list[Event] = []
    after = rewrite(graph, (rule,), events.append)
    assert any(not e.reason for e in events), f"did not fire: {[e.reason for e in events]}"
    specials = (False,) if rule.name in FINITE_ONLY else (False, True)
    for special in specials:
        for seed in range(3):
            arrays = arrays_for(graph, seed, special)
            (left,), (right,) = evaluate(graph, arrays).values(), evaluate(after, arrays).values()
            assert left.dtype == right.dtype and left.shape == right.shape
            agree(left, right, ROUNDING[DType.F32] if rule in NARROW else None)


def agree(left: Array, right: Array, error: float | None = None) -> None:
    """Equal up to rounding in their element type, or up to `error`; infinities and NaN in the same places."""
    dtype = DType.of(left.dtype)
    if not dtype.is_float:
        np.testing.assert_array_equal(right, left)
        return
    wide = left.astype(np.float64)
    scale = float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0))
    error = ROUNDING[dtype] if error is None else error
    np.testing.assert_allclose(right.astype(np.float64), wide, rtol=10 * error, atol=error * max(scale, 1e-3))


# What is done for the sake of the target may be more work.
DOWNHILL = [case for case in CASES if case.values[0] not in (*WIDEN, *NARROW, *QUANTIZED, *PRODUCTS, WIDE)]


@pytest.mark.parametrize(("rule", "index"), DOWNHILL)
def test_the_right_side_is_not_more_work(rule: Rule, index: int) -> None:
    graph = left_side(rule, rule.examples[index])
    assert work(rewrite(graph, (rule,))) <= work(graph)
