"""The passes of the phase `legalize`."""

from __future__ import annotations

from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.share import Share
from isthmus.passes.legalize.kernels import CheckKernels
from isthmus.passes.legalize.pack import PackWeights
from isthmus.passes.legalize.quantized import PRODUCTS, QUANTIZED
from isthmus.passes.legalize.widen import WIDEN
from isthmus.passes.steps import Pass, Rewrite

LEGALIZE_PASSES: tuple[Pass, ...] = (
    # Products first: what their elements can be shows in the ops before them.
    Rewrite("integer-products", PRODUCTS),
    Rewrite("say-quantized", QUANTIZED),
    Rewrite("widen-halves", WIDEN),
    # Weights are cast once and for all.
    Fold(),
    Share(),
    PackWeights(),
    CheckKernels(),
)
