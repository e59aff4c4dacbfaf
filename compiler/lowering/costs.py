"""What kernel calls cost: multiply-adds and bytes, as expressions of the dims."""

from __future__ import annotations

from isthmus.ir.dims import Dim, minimum, product, substitute
from isthmus.ir.graph import Value
from isthmus.ir.sparse import Blocks
from isthmus.lowering.plan import Call, Fault, Plan

# Rows of the first argument by a matrix, in whatever numbers.
PRODUCTS = (
    "linear", "matmul", "integer_linear", "integer_matmul", "block_linear", "integer_block_linear",
)  # fmt: skip


def call_costs(plan: Plan) -> list[tuple[Dim, Dim]]:
    """Multiply-adds, and bytes read and written, of each call of `plan`, in its order.

    Where several calls make one value, the last does the arithmetic. Bytes count each buffer once and whole,
    but what is indexed by data is read at most as much as is written.
    """
    last = {call.value: call for call in plan.calls()}
    most = {counted.name: counted.most for counted in plan.counted()}
    return [
        (substitute(multiply_adds_of(call.value), most) if last[call.value] is call else 0, _bytes(call))
        for call in plan.calls()
    ]


def _bytes(call: Call) -> Dim:
    written: Dim = 0
    for buffer in call.written:
        written = written + buffer.size * buffer.dtype.bytes
    total = written
    gathers = any(isinstance(arg, Fault) and arg.site for arg in call.args)
    for buffer in dict.fromkeys(call.reads):
        size = buffer.size * buffer.dtype.bytes
        total = total + (minimum(size, written) if gathers else size)
    return total


def multiply_adds_of(value: Value) -> Dim:
    """Multiply-adds of the products of matrices in one value."""
    stored = value.args[1].t.encoding if value.op.name in ("linear", "integer_linear") else None
    if isinstance(stored, Blocks):
        # Zeros that are not stored take none.
        return product(value.shape[:-1]) * (2 * stored.pairs * stored.outputs * stored.inputs)
    if value.op.name in PRODUCTS:
        return product(value.shape) * value.args[0].shape[-1]
    if value.op.name == "attention":
        q, k, v = value.args[:3]
        return product(q.shape[:3]) * k.shape[2] * (q.shape[3] + v.shape[3])
    if value.op.name == "ragged_attention":
        q, _, v = value.args[:3]
        longest: Dim = value.attr("longest")[0]
        return product(q.shape[:2]) * longest * (q.shape[2] + v.shape[2])
    return 0
