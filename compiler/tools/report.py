"""report.json of a bundle: what became of the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from isthmus.ir.graph import Program
from isthmus.lowering.plan import Plan


def report(program: Program, plan: Plan, objects: Mapping[str, bytes], fired: Counter[str]) -> bytes:
    """report.json: what became of the model, without anything that differs from run to run."""
    uses = Counter(call.kernel.symbol for call in plan.calls())
    raw = {
        "rewrites": dict(sorted(fired.items())),
        "nodes": {"imported": sum(1 for _ in program.main.nodes()), "calls": len(plan.calls())},
        "kernels": [
            {"symbol": k.symbol, "uses": uses[k.symbol], "object_bytes": len(objects[k.symbol])}
            for k in plan.kernels()
        ],
        "calls": [
            {
                "op": call.value.op.name,
                "kernel": call.kernel.symbol,
                "type": str(call.value.t),
                "node": call.value.loc,
                "stage": number,
            }
            for number, stage in enumerate(plan.stages)
            for call in stage.calls
        ],
        "weights": [{"name": w.name, "type": str(w.type), "bytes": w.type.nbytes} for w in plan.weights],
    }
    return (json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
