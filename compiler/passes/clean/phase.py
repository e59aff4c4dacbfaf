"""The passes of the phase `clean`."""

from __future__ import annotations

from isthmus.passes.clean.broadcasts import BROADCASTS
from isthmus.passes.clean.casts import CASTS
from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.identities import IDENTITIES, SPELLINGS, WHERES
from isthmus.passes.clean.indexing import GATHER_NUMBER, RangeGathers
from isthmus.passes.clean.movement import MOVEMENT
from isthmus.passes.clean.quantized import QUANTIZED
from isthmus.passes.clean.ranges import RANGES
from isthmus.passes.clean.rotary import ROTARY
from isthmus.passes.clean.scalars import SCALARS
from isthmus.passes.clean.share import Share
from isthmus.passes.steps import Pass, Rewrite, Until

CANONICAL = Rewrite(
    "canonical-forms",
    (
        *IDENTITIES,
        *WHERES,
        *SPELLINGS,
        *CASTS,
        *MOVEMENT,
        *QUANTIZED,
        GATHER_NUMBER,
        *RANGES,
        *SCALARS,
        *BROADCASTS,
        *ROTARY,
    ),
)
TIDY = Until("tidy", (Fold(), Share(), CANONICAL, RangeGathers()))

CLEAN_PASSES: tuple[Pass, ...] = (TIDY,)
