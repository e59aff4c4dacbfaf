from __future__ import annotations

LEGALIZE_PASSES = ()
