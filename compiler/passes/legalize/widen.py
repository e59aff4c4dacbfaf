"""Heavy ops on 16-bit floats compute in f32 and round once, which is what their numerics say."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isthmus.ir.graph import Attr, Marker, Op, Value
from isthmus.ir.rewrite import Match, Rule
from isthmus.ir.types import DType
from isthmus.ops import nn
from isthmus.ops.pointwise import cast

HEAVY = (nn.matmul, nn.linear, nn.softmax, nn.layer_norm, nn.rms_norm, nn.attention)
HALVES = (DType.F16, DType.BF16)

_EXAMPLES: dict[str, dict[str, object]] = {
    "matmul": {"a": "f16[b,n,6]", "b": "f16[6,s]"},
    "linear": {"a": "f16[b,6]", "b": "f16[6,5]", "c": "f16[5]", "d": "f16[b,5]", "activation": "relu"},
    "softmax": {"a": "bf16[b,n]"},
    "layer_norm": {"a": "f16[b,6]", "b": "f16[6]", "c": "f16[6]", "d": "f16[b,6]", "epsilon": 1e-5},
    "rms_norm": {"a": "f16[b,6]", "b": "f16[6]", "epsilon": 1e-5},
    "attention": {
        "a": "f16[b,2,s,4]",
        "b": "f16[b,2,t,4]",
        "c": "f16[b,2,t,3]",
        "d": "f16[b,1,1,t]",
        "scale": 0.5,
        "safe": False,
    },
}


def _is_half(m: Match) -> str | None:
    return None if m.root.dtype in HALVES else ""


def _in_f32(m: Match) -> Value:
    args = (a if a.dtype is DType.F32 else cast(a, dtype=DType.F32) for a in m.root.args)
    return cast(m.root.op(*args, loc=m.root.loc, **dict(m.root.attrs)), dtype=m.root.dtype)


def _find(op: Op, arity: int) -> Callable[..., Value]:
    def build(*holes: Value) -> Value:
        attrs: dict[str, Attr] = {name: Marker(name) for name in op.attrs}
        return op(*holes, loc="", **attrs)

    match arity:
        case 1:
            return lambda a: build(a)
        case 2:
            return lambda a, b: build(a, b)
        case 3:
            return lambda a, b, c: build(a, b, c)
        case _:
            return lambda a, b, c, d: build(a, b, c, d)


def _rules() -> Iterator[Rule]:
    for op in HEAVY:
        least, most = op.arity
        for arity in range(least, most + 1):
            dropped = {"a", "b", "c", "d"} - set("abcd"[:arity])
            example = {k: v for k, v in _EXAMPLES[op.name].items() if k not in dropped}
            name = f"widen-{op.name.replace('_', '-')}{'-more' * (arity > least)}"
            yield Rule(name, _find(op, arity), _in_f32, _is_half, (example,))


WIDEN = tuple(_rules())
