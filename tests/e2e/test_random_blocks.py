"""Random Transformer blocks, as ONNX, compiled: what onnxruntime answers, at every size."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from random_blocks import STATIC, Block, blocks, inputs_of, model_of

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.runtime import load

OPTIONS = Options(verify=False, cache=cache_dir(os.environ), c_flags=("-DISTHMUS_POISON",))
SIZES = ((1, 1), (2, 7), (1, 16), (3, 33))
# Of the largest element: sums in another order, twice through attention and feed-forward.
CLOSE = 2e-5


def check(block: Block) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "block.onnx"
        onnx.save(model_of(block), path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        peer = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        bundle = compile_model(path, "host", Path(folder), OPTIONS)
        with load(bundle.path, threads=2) as session:
            for batch, length in (STATIC,) if block.static else SIZES:
                inputs = inputs_of(block, batch, length)
                (wanted,) = peer.run(None, inputs)
                got = session.run(inputs)["y"]
                scale = float(np.abs(wanted).max())
                np.testing.assert_allclose(
                    got, wanted, rtol=0, atol=CLOSE * scale, err_msg=f"{batch, length}"
                )


SLOW_IS_FINE = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(blocks())
@settings(max_examples=4, suppress_health_check=SLOW_IS_FINE)
def test_a_few(block: Block) -> None:
    check(block)


@pytest.mark.slow
@given(blocks())
@settings(max_examples=60, suppress_health_check=SLOW_IS_FINE)
def test_many(block: Block) -> None:
    check(block)
