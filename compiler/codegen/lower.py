"""Intrinsics of a kernel as what LLVM knows: TVM's own pass, kept from proofs that nothing here needs.

`LowerIntrin` keeps what each integer is bound to, simplified together with all that it is made of, to divide
towards minus infinity with less code. Kernels do not divide like that, and in causal attention this took two
thirds of the time to compile. So, while the pass runs, integers are named by statements it looks into but
knows nothing of. The result is the same, to the last expression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isthmus.kernels.tir import tirx, tvm

# A call without a meaning of its own, whose arguments are lowered like any others.
_NAMED = "tirx.tvm_tuple"


def lower_intrinsics(symbol: str, func: Any, tvm_target: Any) -> Any:
    """The module that holds `func`, a kernel of `Builder`, bound to `tvm_target` and ready for its code."""
    hidden = func.with_body(_each(func.body, _hide))
    module = tirx.transform.BindTarget(tvm_target)(tvm.IRModule({symbol: hidden}))
    lowered = tirx.transform.LowerIntrin()(module)[symbol]
    return tvm.IRModule({symbol: lowered.with_body(_each(lowered.body, _show))})


def _each(statement: Any, change: Callable[[Any], Any]) -> Any:
    """`statement` with each that contains no other replaced by what `change` makes of it."""
    match statement:
        case tirx.SeqStmt():
            return tirx.SeqStmt([_each(part, change) for part in statement.seq])
        case tirx.For():
            body = _each(statement.body, change)
            return tirx.For(statement.loop_var, statement.min, statement.extent, statement.kind, body)
        case tirx.While():
            return tirx.While(statement.condition, _each(statement.body, change))
        case tirx.IfThenElse():
            otherwise = statement.else_case
            return tirx.IfThenElse(
                statement.condition,
                _each(statement.then_case, change),
                None if otherwise is None else _each(otherwise, change),
            )
        case tirx.AttrStmt():
            body = _each(statement.body, change)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
    return change(statement)


def _hide(statement: Any) -> Any:
    if not isinstance(statement, tirx.Bind) or str(statement.var.ty) != "int64":
        return statement
    return tirx.Evaluate(tirx.call_intrin("int64", _NAMED, statement.var, statement.value))


def _show(statement: Any) -> Any:
    if not isinstance(statement, tirx.Evaluate):
        return statement
    value = statement.value
    named = isinstance(value, tvm.ir.Call) and value.op.name == _NAMED
    return tirx.Bind(*value.args) if named else statement
