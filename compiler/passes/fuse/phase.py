from __future__ import annotations

FUSE_PASSES = ()
