"""The passes of the phase `legalize`."""

from __future__ import annotations

from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.share import Share
from isthmus.passes.legalize.integers import BlockLinear, IntegerForm, IntegerLinear
from isthmus.passes.legalize.kernels import CheckKernels
from isthmus.passes.legalize.mixed import WidenAttention
from isthmus.passes.legalize.pack import PackWeights
from isthmus.passes.legalize.padding import PaddingFree
from isthmus.passes.legalize.quantized import QUANTIZED
from isthmus.passes.legalize.routines import IntegerProducts
from isthmus.passes.legalize.widen import NARROW, WIDEN
from isthmus.passes.sparsify.choose import ChooseSparse
from isthmus.passes.steps import Pass, Rewrite

# Whoever runs the pass of this name warns if it changes anything.
NARROWING = "narrow-doubles"

# These do the same for all targets that bring the same routines, ..
FOR_ALL: tuple[Pass, ...] = (
    IntegerLinear(),
    BlockLinear(),
    # A quantized weight that no kernel takes as it is becomes what it stands for, made when it is read.
    Fold(dequantized=True),
    # Products first: what their elements can be shows in the ops before them.
    IntegerProducts(),
    Rewrite("say-quantized", QUANTIZED),
    Rewrite("widen-halves", WIDEN),
    Rewrite(NARROWING, NARROW),
    # Only now: every op has the form it is computed in.
    PaddingFree(),
    # Weights are cast once and for all.
    Fold(),
    Share(),
)
# .. and these ask it.
FOR_TARGET: tuple[Pass, ...] = (
    IntegerForm(),
    ChooseSparse(),
    WidenAttention(),
    PackWeights(),
    CheckKernels(),
)
LEGALIZE_PASSES = (*FOR_ALL, *FOR_TARGET)
