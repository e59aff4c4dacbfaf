"""The passes of the phase `legalize`."""

from __future__ import annotations

from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.share import Share
from isthmus.passes.legalize.decompose import DECOMPOSE
from isthmus.passes.legalize.kernels import CheckKernels
from isthmus.passes.legalize.pack import PackWeights
from isthmus.passes.legalize.widen import WIDEN
from isthmus.passes.steps import Pass, Rewrite

LEGALIZE_PASSES: tuple[Pass, ...] = (
    Rewrite("decompose", DECOMPOSE),
    Rewrite("widen-halves", WIDEN),
    # Weights are cast once and for all.
    Fold(),
    Share(),
    PackWeights(),
    CheckKernels(),
)
