"""report.json of a bundle: what became of the model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from isthmus.ir.graph import Program
from isthmus.lowering.costs import call_costs
from isthmus.lowering.plan import Plan
from isthmus.passes.sparsify.choose import ChooseSparse
from isthmus.target import Target
from isthmus.tools.sparsity import as_json, layers, with_zeros

Report = Mapping[str, object]


def report(
    program: Program,
    made: Program,
    plan: Plan,
    target: Target,
    objects: Mapping[str, bytes],
    fired: Counter[str],
    choose: ChooseSparse,
) -> Report:
    """What became of the model, `made` by all passes, without anything that differs from run to run; `choose`
    decided about zeros."""
    uses = Counter(call.kernel.symbol for call in plan.calls())
    calls = [(number, call) for number, stage in enumerate(plan.stages) for call in stage.calls]
    return {
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
                "multiply_adds": str(arithmetic),
                "bytes": str(traffic),
            }
            for (number, call), (arithmetic, traffic) in zip(calls, call_costs(plan), strict=True)
        ],
        "sparsity": [as_json(layer) for layer in with_zeros(layers(made, target, choose))],
        "weights": [{"name": w.name, "type": str(w.type), "bytes": w.type.nbytes} for w in plan.weights],
    }


def report_json(reports: Mapping[str, Report], quantization: Mapping[str, object] | None = None) -> bytes:
    """report.json: the report, or those of several levels by name; what quantizing did stands beside."""
    one = next(iter(reports.values()))
    raw: dict[str, object] = {"levels": dict(reports)} if len(reports) > 1 else dict(one)
    if quantization:
        raw["quantization"] = quantization
    return (json.dumps(raw, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
