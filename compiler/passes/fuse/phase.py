"""The passes of the phase `fuse`."""

from __future__ import annotations

from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.identities import IDENTITIES
from isthmus.passes.clean.movement import MOVEMENT
from isthmus.passes.clean.phase import TIDY
from isthmus.passes.clean.scalars import SCALARS
from isthmus.passes.clean.share import Share
from isthmus.passes.fuse import activations, attention, causal, channels, heads, linear, normalization, rms
from isthmus.passes.fuse.integers import KeepIntegers
from isthmus.passes.fuse.leftovers import Leftovers
from isthmus.passes.fuse.wide import WideLinear
from isthmus.passes.steps import Pass, Rewrite

FUSE_PASSES: tuple[Pass, ...] = (
    KeepIntegers(),
    Share(),
    # Other products take f32: from here on a quantized weight is what it stands for, made when it is read.
    Fold(dequantized=True),
    Rewrite("fuse-activations", (*activations.ACTIVATIONS, *SCALARS, *IDENTITIES)),
    Rewrite("fuse-layer-norm", (*normalization.WRITTEN_OUT, *normalization.SCALE_AND_SHIFT)),
    # Only now: what is centred first is more than this.
    Rewrite("fuse-rms-norm", (*rms.WRITTEN_OUT, *rms.SCALE)),
    # Before linear: the scores of one head must not look like a product with a constant.
    Rewrite(
        "fuse-attention",
        (
            *heads.MERGED,
            *heads.SPLIT,
            *attention.WRITTEN_OUT,
            *heads.FACTORS,
            *heads.SHARED,
            *MOVEMENT,
            *SCALARS,
        ),
    ),
    # Biases first, then what is added: a bias is added to a product alone, a residual to a whole layer.
    Rewrite("fuse-linear", (*linear.MATMUL, *linear.BIAS, *linear.ROWS, *MOVEMENT)),
    Rewrite("fuse-channels", (*channels.CHANNELS, *linear.BIAS, *MOVEMENT)),
    Rewrite("fuse-residual", (*linear.RESIDUAL, *linear.BIAS)),
    Rewrite("fuse-activation", linear.ACTIVATION),
    Rewrite("fuse-layer-norm-residual", normalization.RESIDUAL),
    WideLinear(),
    TIDY,
    Rewrite("fuse-causal", causal.CAUSAL),
    Leftovers(),
)
