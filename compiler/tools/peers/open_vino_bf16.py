"""OpenVINO in bf16, which it does by itself where the processor has that: the peer of bundles in bf16."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isthmus.tools.peers.engine import Array, refuse_fixed
from isthmus.tools.peers.open_vino import Engine


def open_model(model: Path, threads: int, fixed: Mapping[str, Array]) -> Engine:
    """`model`, which is read again for each size."""
    refuse_fixed("openvino-bf16", model, fixed)
    return Engine(model, threads, "bf16")
