"""Lowering of norms: rows of f32, and what reads them next takes instead or besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.ir.dims import Dim
from isthmus.ir.graph import Value
from isthmus.ir.types import DType
from isthmus.kernels import layer_norm, rms_norm
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.row_results import Result
from isthmus.lowering.heavy import distance, row_result
from isthmus.lowering.plan import Arg, Number, Pitch, Pointer, Real
from isthmus.lowering.state import Handler, Lowering, require_f32, static_size
from isthmus.lowering.views import View


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where the rows of a norm go: f32, bf16, or both, or f32 and bytes, and what a call is told of that.

    `more` is what bytes at known steps need.
    """

    kind: Result
    places: dict[Value, View]
    distances: list[Dim | Pitch]
    more: list[Arg]

    @property
    def pointers(self) -> list[Arg]:
        pairs = zip(self.places.values(), self.distances, strict=True)
        return [*(Pointer(view.buffer, view.offset, pitch) for view, pitch in pairs), *self.more]

    def call(self, state: Lowering, kernel: Kernel, args: list[Arg], value: Value, rows: Dim) -> None:
        first, *others = (view.buffer for view in self.places.values())
        state.call(kernel, args, first, value, rows, row_local=True, copies=tuple(others))
        state.views.update(self.places)


def _row_results(state: Lowering, value: Value) -> _Rows:
    copy, scaled, stepped = state.rounded_copy(value), state.scaled_bytes(value), state.stepped(value)
    kind: Result = "rounded" if value.attr("rounded") else "f32" if copy is None else "both"
    values = [value] if copy is None else [value, copy]
    if copy is None and scaled is not None:
        kind = "uint8" if scaled[1].dtype is DType.U8 else "int8"
        values += scaled
    elif copy is None and stepped is not None:
        kind = stepped.steps
        values.append(stepped.value)
    places, distances = {}, []
    for each in values:
        places[each], between = row_result(state, each, static_size(each, state, each.shape[-1]))
        distances.append(between)
    more = stepped.args(state.weight) if stepped is not None and kind is stepped.steps else []
    return _Rows(kind, places, distances, more)


def _layer_norm(state: Lowering, value: Value) -> None:
    require_f32(value, state.target, result=not value.attr("rounded"))
    x, scale, bias, *residual = value.args
    width = static_size(value, state, value.shape[-1])
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    gains = [state.contiguous(v) for v in (scale, bias)]
    results = _row_results(state, value)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        *(Pointer(view.buffer, view.offset) for view in gains),
        *results.pointers,
        Real(value.attr("epsilon")),
        Number(width),
        distance(ldx),
        *(distance(pitch) for _, _, pitch in others),
        *map(distance, results.distances),
    ]
    kernel = layer_norm.kernel(state.target, bool(residual), results.kind)
    results.call(state, kernel, args, value, rows)


def _rms_norm(state: Lowering, value: Value) -> None:
    require_f32(value, state.target, result=not value.attr("rounded"))
    x, scale = value.args
    width = static_size(value, state, value.shape[-1])
    source, rows, ldx = state.rows(x)
    gain = state.contiguous(scale)
    results = _row_results(state, value)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(gain.buffer, gain.offset),
        *results.pointers,
        Real(value.attr("epsilon")),
        Number(width),
        distance(ldx),
        *map(distance, results.distances),
    ]
    results.call(state, rms_norm.kernel(state.target, results.kind), args, value, rows)


HANDLERS: Mapping[str, Handler] = {"layer_norm": _layer_norm, "rms_norm": _rms_norm}
