"""Attention: matmul(softmax(scale * q k^T + mask), v), in the spellings of all exporters.

Masks are added, or scores are replaced by a very low number where a condition says so; the latter becomes
the former. A row that is masked entirely gives NaN with masks of -inf; exporters that guard against it with
where(is_nan(p), 0, p) get `safe`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from isthmus.ir.graph import TypeMismatch, Value
from isthmus.ir.rewrite import Match, Rule, named, scalar
from isthmus.ir.types import TensorType
from isthmus.ops.movement import full, reshape, transpose
from isthmus.ops.nn import attention, matmul, softmax
from isthmus.ops.pointwise import add, is_nan, maximum, mul, where
from isthmus.ops.rules import broadcast_shapes

# Adding this to a score leaves this: no score is large enough to change it in f32.
LOW_ENOUGH = -1e30


@dataclass(frozen=True, slots=True)
class Masking:
    """One way to mask scores: how it is written, the mask to add instead, and examples of its holes."""

    name: str
    write: Callable[[Value, dict[str, Value]], Value]
    mask: Callable[[Match], Value | None]
    holes: dict[str, object]


def _zero(m: Match) -> Value:
    return full(shape=(), value=0.0, dtype=m.root.dtype)


def _kept(m: Match) -> Value:
    """0 where the condition holds, the low number elsewhere."""
    return where(m.value("keep"), _zero(m), m.value("low"))


def _dropped(m: Match) -> Value:
    return where(m.value("drop"), m.value("low"), _zero(m))


def _clamped(m: Match) -> Value:
    """A sum that is not let below the low number: where the mask reaches it, the score no longer counts."""
    return maximum(m.value("mask"), m.value("low"))


_BOOLS = "bool[b,1,1,t]"
MASKINGS = (
    Masking("", lambda s, h: s, lambda m: None, {}),
    Masking("-mask", lambda s, h: add(s, h["mask"]), lambda m: m.value("mask"), {"mask": "f32[b,1,1,t]"}),
    Masking("-keep", lambda s, h: where(h["keep"], s, h["low"]), _kept, {"keep": _BOOLS, "low": -3.4e38}),
    Masking("-drop", lambda s, h: where(h["drop"], h["low"], s), _dropped, {"drop": _BOOLS, "low": -3.4e38}),
    Masking(
        "-keep-mask",
        lambda s, h: add(where(h["keep"], s, h["low"]), h["mask"]),
        lambda m: add(_kept(m), m.value("mask")),
        {"keep": "bool[s,t]", "low": -3.4e38, "mask": "f32[b,1,1,t]"},
    ),
    Masking(
        "-mask-clamped",
        lambda s, h: maximum(add(s, h["mask"]), h["low"]),
        _clamped,
        {"mask": "f32[b,1,1,t]", "low": -3.4e38},
    ),
    Masking(
        "-mask-keep",
        lambda s, h: where(h["keep"], add(s, h["bias"]), h["low"]),
        lambda m: where(m.value("keep"), m.value("bias"), m.value("low")),
        {"keep": _BOOLS, "bias": "f32[1,2,s,t]", "low": -3.4e38},
    ),
    Masking(
        "-mask-mask",
        lambda s, h: add(add(s, h["bias"]), h["mask"]),
        lambda m: add(m.value("bias"), m.value("mask")),
        {"bias": "f32[1,2,s,t]", "mask": "f32[b,1,1,t]"},
    ),
)


def _attention_rule(masking: Masking, scaled: bool, safe: bool) -> Rule:
    def pattern(q: Value, kt: Value, v: Value, holes: dict[str, Value]) -> Value:
        scores = matmul(q, kt)
        scores = mul(scores, holes["scale"]) if scaled else scores
        weights = softmax(masking.write(named("scores", scores), holes))
        if safe:
            weights = where(is_nan(weights), holes["zero"], weights)
        return matmul(weights, v)

    def make(m: Match) -> Value:
        return _lift(m, m.scalar("scale") if scaled else 1.0, masking.mask(m), safe)

    holes: dict[str, object] = dict(masking.holes)
    if scaled:
        holes["scale"] = 0.25
    if safe:
        holes["zero"] = 0.0
    example = {"q": "f32[b,2,s,4]", "kt": "f32[b,2,4,t]", "v": "f32[b,2,t,3]", **holes}
    examples: tuple[Mapping[str, object], ...] = (example,)
    if not masking.name:
        shared = {**example, "kt": "f32[b,1,4,t]", "v": "f32[b,1,t,3]"}
        examples = (example, shared, {**example, "q": "f32[n,s,4]", "kt": "f32[n,4,t]", "v": "f32[n,t,3]"})
    return Rule(
        f"attention{masking.name}{'-scaled' * scaled}{'-safe' * safe}",
        _with_holes(pattern, tuple(holes)),
        make,
        unless=lambda m: _refusal(m, masking),
        examples=examples,
    )


def _with_holes(
    pattern: Callable[[Value, Value, Value, dict[str, Value]], Value], extra: tuple[str, ...]
) -> Callable[..., Value]:
    """`pattern` as a function whose parameters are its holes; `scale`, `zero` and `low` take numbers."""
    restrictions = {"scale": scalar(), "zero": scalar(0.0), "low": scalar()}

    def find(**holes: Value) -> Value:
        return pattern(holes["q"], holes["kt"], holes["v"], holes)

    names = ("q", "kt", "v", *extra)
    find.__signature__ = _signature({n: restrictions.get(n) for n in names})  # type: ignore[attr-defined]
    return find


def _signature(holes: Mapping[str, object]) -> inspect.Signature:
    kind = inspect.Parameter.KEYWORD_ONLY
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [inspect.Parameter(n, kind, default=empty if d is None else d) for n, d in holes.items()]
    )


def _refusal(m: Match, masking: Masking) -> str | None:
    q, kt, v = (m.value(name).t for name in ("q", "kt", "v"))
    if not m.root.dtype.is_float:
        return f"scores of {m.root.dtype}"
    if not q.rank == kt.rank == v.rank or q.rank not in (3, 4):
        return f"q, k and v have {q.rank}, {kt.rank} and {v.rank} axes; attention takes 4"
    if kt.shape[:-2] != v.shape[:-2] or (q.shape[:-2] != kt.shape[:-2] and not _one_head_for_all(q, kt)):
        return f"q, k and v have different batches or heads: {q}, {kt}, {v}"
    if "low" in masking.holes and m.scalar("low") > LOW_ENOUGH:
        # Where everything is masked, softmax of the number alone and of scores plus the number differ.
        return f"masked scores become {m.scalar('low')}, which is not low enough to be added instead"
    try:
        mask = masking.mask(m)
        scores = m.value("scores").shape
        if mask is not None and broadcast_shapes(mask.shape, scores) != scores:
            return f"the mask {mask.t} is larger than the scores"
    except TypeMismatch as error:
        return f"the masks do not combine: {error}"
    return None


def _one_head_for_all(q: TensorType, kt: TensorType) -> bool:
    """k and v have one head that all heads of q share; the product broadcasts it."""
    heads = q.shape[1]
    return q.rank == 4 and kt.shape[:2] == (q.shape[0], 1) and isinstance(heads, int)


def _lift(m: Match, scale: float, mask: Value | None, safe: bool) -> Value:
    """The attention of matched q, k^T, v; three axes are four with one head."""
    q, kt, v = (m.value(name) for name in ("q", "kt", "v"))
    rank = q.t.rank
    k = transpose(kt, perm=(*range(rank - 2), rank - 1, rank - 2))
    if rank == 4:
        return attention(q, k, v, *([] if mask is None else [mask]), scale=scale, safe=safe)
    q, k, v = map(_one_head, (q, k, v))
    masks = [] if mask is None else [_one_head(mask) if mask.t.rank == 3 else mask]
    return reshape(attention(q, k, v, *masks, scale=scale, safe=safe), shape=m.root.shape)


def _one_head(value: Value) -> Value:
    batch, *rest = value.shape
    return reshape(value, shape=(batch, 1, *rest))


def _rules() -> Iterator[Rule]:
    for masking in MASKINGS:
        for scaled in (False, True):
            for safe in (False, True):
                yield _attention_rule(masking, scaled, safe)


WRITTEN_OUT = tuple(_rules())
