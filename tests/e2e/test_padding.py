"""Batches without padding, compiled: masks of every kind, the same bits on every number of threads."""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from padded import arrays, encoder, masks, with_weights

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target
from isthmus.ir.evaluate import evaluate
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.runtime import load

OPTIONS = Options(verify=False, cache=cache_dir(os.environ), c_flags=("-DISTHMUS_POISON",))
SIZES = ((1, 1), (1, 7), (4, 1), (2, 9), (5, 40), (33, 6))


def agree(found: np.ndarray, wanted: np.ndarray, share: float, name: str) -> None:
    """Number by number; with a `share`, which is for bf16, in each item's noise: scores here are steep, and
    an item that saw others would be all noise."""
    if not share:
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5, err_msg=name)
        return
    finite, axes = np.isfinite(wanted), tuple(range(1, wanted.ndim))
    np.testing.assert_array_equal(found[~finite], wanted[~finite], err_msg=name)
    found, wanted = (np.where(finite, a, 0) for a in (found, wanted))
    noise, signal = (np.square(a).sum(axes) for a in (found - wanted, wanted))
    assert (noise <= share**2 * signal).all(), (name, noise, signal)


@pytest.mark.parametrize(
    ("pool", "hidden", "causal"),
    [("mean", -math.inf, False), ("first", -3e38, False), ("tokens", -3e38, True)],
)
@pytest.mark.parametrize(("precision", "share"), [("f32", 0.0), ("bf16", 0.15)])
def test_every_mask(
    precision: str, share: float, pool: str, hidden: float, causal: bool, tmp_path: Path
) -> None:
    weights = arrays(1, 1, np.ones((1, 1)))
    program = with_weights(encoder(pool, hidden, causal=causal), weights)
    options = replace(OPTIONS, precision=precision, quantize=FLOATS.get(precision, ()))
    bundle = compile_program(program, find_target("host"), tmp_path, options)
    assert "ragged" in (bundle.path / "report.json").read_text("utf-8")
    with ExitStack() as stack:
        sessions = [stack.enter_context(load(bundle.path, threads=n)) for n in (1, 2, 3)]
        for batch, length in SIZES:
            for name, mask in masks(batch, length, seed=length):
                if name == "no mask" and causal:
                    continue
                given = arrays(batch, length, mask)
                inputs = {"ids": given["ids"], "mask": given["mask"]}
                first, *others = (session.run(inputs)["y"] for session in sessions)
                wanted = evaluate(program.main, inputs)["y"]
                agree(first, wanted, share, name)
                for other in others:
                    np.testing.assert_array_equal(other, first, err_msg=name)
