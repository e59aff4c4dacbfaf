"""Where the results of a machine are kept, so that those of another stand beside them."""

from __future__ import annotations

import re
from pathlib import Path

from isthmus.tools.hardware import hardware

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "bench"  # models and bundles


def results_folder(processor: str = "") -> Path:
    """The folder for this machine, or for a `processor` as the results name it.

    AMD EPYC (family 25, model 17) has `amd-epyc-family-25-model-17`; its machines share that.
    """
    name = processor or hardware(()).processor
    plain = re.sub(r"\((?:R|TM)\)", " ", name, flags=re.IGNORECASE)
    return RESULTS / re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
