"""Heavy ops compute in f32: 16-bit floats are rounded once, as their numerics say; f64 loses digits.

The second is told as a warning by whoever runs the pass `NARROW`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from isthmus.ir.graph import Attr, Marker, Op, Value, weight_of
from isthmus.ir.rewrite import Match, Rule
from isthmus.ir.types import DType
from isthmus.ops import nn
from isthmus.ops.pointwise import cast

HEAVY = (nn.matmul, nn.linear, nn.softmax, nn.layer_norm, nn.rms_norm, nn.attention)
HALVES = (DType.F16, DType.BF16)

_EXAMPLES: dict[str, dict[str, object]] = {
    "matmul": {"a": "f16[b,n,6]", "b": "f16[6,s]"},
    "linear": {
        "a": "f16[b,6]",
        "b": "f16[6,5]",
        "c": "f16[5]",
        "d": "f16[b,5]",
        "activation": "relu",
        "rounded": False,
    },
    "softmax": {"a": "bf16[b,n]"},
    "layer_norm": {
        "a": "f16[b,6]",
        "b": "f16[6]",
        "c": "f16[6]",
        "d": "f16[b,6]",
        "epsilon": 1e-5,
        "rounded": False,
    },
    "rms_norm": {"a": "f16[b,6]", "b": "f16[6]", "epsilon": 1e-5, "rounded": False},
    "attention": {
        "a": "f16[b,2,s,4]",
        "b": "f16[b,2,t,4]",
        "c": "f16[b,2,t,3]",
        "d": "f16[b,1,1,t]",
        "scale": 0.5,
        "safe": False,
        "causal": True,
        "mixed": False,
        "rounds": "",
    },
}


def _unless(kinds: Collection[DType]) -> Callable[[Match], str | None]:
    def reason(m: Match) -> str | None:
        return None if m.root.dtype in kinds and not computes_wide(m.root) else ""

    return reason


def computes_wide(node: Value) -> bool:
    """Whether a heavy op on bf16 says itself that it computes in f32."""
    return any(node.attr(name) for name in ("rounded", "mixed") if name in node.op.attrs)


def _in_f32(m: Match) -> Value:
    if m.root.op is nn.linear and m.root.dtype in HALVES and weight_of(m.root.args[1]) is not None:
        return _linear(m.root)
    args = (a if a.dtype is DType.F32 else cast(a, dtype=DType.F32) for a in m.root.args)
    return cast(m.root.op(*args, loc=m.root.loc, **dict(m.root.attrs)), dtype=m.root.dtype)


def _linear(node: Value) -> Value:
    """The matrix stays as it is: kernels widen it as they read it, or multiply bf16."""
    x, w, *sums = node.args
    wide = [cast(a, dtype=DType.F32) for a in sums]
    activation = node.attr("activation")
    if node.dtype is DType.BF16:
        return nn.linear(x, w, *wide, activation=activation, rounded=True, loc=node.loc)
    product = nn.linear(cast(x, dtype=DType.F32), w, *wide, activation=activation, loc=node.loc)
    return cast(product, dtype=node.dtype)


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


def _rules(verb: str, kinds: Collection[DType], example_types: str) -> Iterator[Rule]:
    for op in HEAVY:
        least, most = op.arity
        for arity in range(least, most + 1):
            dropped = {"a", "b", "c", "d"} - set("abcd"[:arity])
            example = {
                k: re.sub(r"^b?f16(?=\[)", example_types, v) if isinstance(v, str) else v
                for k, v in _EXAMPLES[op.name].items()
                if k not in dropped
            }
            name = f"{verb}-{op.name.replace('_', '-')}{'-more' * (arity > least)}"
            yield Rule(name, _find(op, arity), _in_f32, _unless(kinds), (example,))


WIDEN = tuple(_rules("widen", HALVES, r"\g<0>"))
NARROW = tuple(_rules("narrow", (DType.F64,), "f64"))
