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


@pytest.mark.parametrize(
    ("pool", "hidden", "causal"),
    [("mean", -math.inf, False), ("first", -3e38, False), ("tokens", -3e38, True)],
)
@pytest.mark.parametrize(("precision", "share"), [("f32", 0.0), ("bf16", 0.02)])
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
                # What bf16 loses counts against the largest number: scores here are steep.
                close = 2e-5 + share * float(np.abs(np.nan_to_num(wanted)).max())
                np.testing.assert_allclose(first, wanted, rtol=2e-4, atol=close, err_msg=name)
                for other in others:
                    np.testing.assert_array_equal(other, first, err_msg=name)
