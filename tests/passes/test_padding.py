"""Batches without padding: the same numbers for masks of every kind, and a reason where padding is seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from padded import arrays, encoder, masks, with_weights

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.ir.rewrite import Event
from isthmus.ir.verify import check
from isthmus.passes.legalize.mixed import WidenAttention
from isthmus.passes.legalize.padding import PaddingFree
from isthmus.passes.quantize.bf16 import NarrowProducts
from isthmus.target import Target

SIZES = ((1, 1), (1, 7), (4, 1), (2, 9), (5, 12))
LOW = float(np.finfo(np.float32).min)


def padding_free(program: Program, target: Target) -> tuple[Program, list[str]]:
    """`program` after the pass, and what it refused."""
    reasons: list[str] = []

    def watch(event: Event) -> None:
        if event.reason:
            reasons.append(event.reason)

    after = PaddingFree()(program, target, watch)
    check(after, "padding-free")
    return after, reasons


@pytest.mark.parametrize("pool", ["mean", "first", "tokens"])
@pytest.mark.parametrize(
    ("hidden", "causal", "safe"),
    [(-10000.0, False, False), (LOW, True, False), (-math.inf, False, False), (-math.inf, False, True)],
)
def test_numbers_stay(pool: str, hidden: float, causal: bool, safe: bool, target: Target) -> None:
    before = encoder(pool, hidden, causal=causal, safe=safe)
    after, reasons = padding_free(before, target)
    assert not reasons
    assert [v.op.name for v in after.main.nodes()].count("ragged_attention") == 2
    for batch, length in SIZES:
        for name, mask in masks(batch, length, seed=batch):
            if name == "no mask" and causal:
                continue  # a query may then see nothing but padding
            inputs = arrays(batch, length, mask)
            wanted, got = evaluate(before.main, inputs)["y"], evaluate(after.main, inputs)["y"]
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=f"{name} {batch} {length}")


@pytest.mark.parametrize(("batch", "length"), [("1", "s"), ("3", "s"), ("b", "6"), ("2", "6")])
def test_sizes_that_are_known(batch: str, length: str, target: Target) -> None:
    before = encoder("mean", batch=batch, length=length)
    after, reasons = padding_free(before, target)
    assert not reasons
    b, s = (int(d) if d.isdigit() else 6 for d in (batch, length))
    for name, mask in masks(b, s):
        inputs = arrays(b, s, mask)
        wanted, got = evaluate(before.main, inputs)["y"], evaluate(after.main, inputs)["y"]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_only_rows_that_are_kept_are_computed(target: Target) -> None:
    """A word that is not in the table, where there is padding, is never looked up."""
    after, _ = padding_free(encoder("mean"), target)
    inputs = arrays(2, 5, np.array([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]]))
    inputs["ids"] = np.where(inputs["mask"] == 0, 1000, inputs["ids"])
    assert np.isfinite(evaluate(after.main, inputs)["y"]).all()


@pytest.mark.parametrize("pool", ["mean", "tokens"])
def test_products_in_bf16(pool: str, target: Target) -> None:
    """Attention on bf16 stays that, within each sequence, and where there is no kernel for it, in f32."""
    weights = arrays(1, 1, np.ones((1, 1)))
    before = NarrowProducts()(with_weights(encoder(pool), weights), target, lambda _: None)
    after, reasons = padding_free(before, target)
    assert not reasons
    attentions = [v for v in after.main.nodes() if v.op.name == "ragged_attention"]
    assert len(attentions) == 2 and all(v.attr("mixed") for v in attentions)
    plain = WidenAttention()(after, replace(target, tiles=None, instructions=()), lambda _: None)
    assert "mixed=true" not in show(plain)
    assert WidenAttention()(after, target, lambda _: None) is after
    for name, mask in masks(3, 9):
        given = arrays(3, 9, mask)
        inputs = {"ids": given["ids"], "mask": given["mask"]}
        wanted, *got = (evaluate(p.main, inputs)["y"] for p in (before, after, plain))
        for each in got:
            np.testing.assert_allclose(each, wanted, atol=0.05, err_msg=name)


def test_what_looks_at_padding_is_named(target: Target) -> None:
    program = encoder("all")
    after, reasons = padding_free(program, target)
    assert after is program
    assert reasons == ["reduce_mean (pool) looks at what padding came to"] * 2


def test_scores_that_are_not_hidden_enough(target: Target) -> None:
    program = encoder("mean", hidden=-1.0)
    after, reasons = padding_free(program, target)
    assert after is program
    assert not reasons, "that is no padding mask"


def test_a_second_run_changes_nothing(target: Target) -> None:
    after, _ = padding_free(encoder("mean"), target)
    assert padding_free(after, target) == (after, [])
