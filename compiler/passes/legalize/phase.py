"""The passes of the phase `legalize`."""

from __future__ import annotations

from isthmus.passes.clean.phase import TIDY
from isthmus.passes.legalize.kernels import CheckKernels
from isthmus.passes.legalize.pack import PackWeights
from isthmus.passes.legalize.widen import WIDEN
from isthmus.passes.steps import Pass, Rewrite

LEGALIZE_PASSES: tuple[Pass, ...] = (
    Rewrite("widen-halves", WIDEN),
    # Weights that were cast are folded.
    TIDY,
    PackWeights(),
    CheckKernels(),
)
