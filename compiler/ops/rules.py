"""Type rules shared by op declarations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from isthmus.ir.dims import Shape
from isthmus.ir.graph import TypeMismatch
from isthmus.ir.types import DType, TensorType

Infer = Callable[..., TensorType]


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy broadcasting over symbolic shapes: dims are equal as expressions, or one of them is 1."""
    rank = max(map(len, shapes), default=0)
    result = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in shapes if len(s) >= -axis]
        wide = [d for d in dims if d != 1]
        if any(d != wide[0] for d in wide):
            shown = " and ".join(f"[{','.join(map(str, s))}]" for s in shapes)
            differing = " and ".join(map(str, dict.fromkeys(wide)))
            raise TypeMismatch(f"shapes {shown} do not broadcast: {differing} differ")
        result.append(wide[0] if wide else 1)
    return tuple(result)


def same_dtype(*types: TensorType) -> DType:
    if any(t.dtype is not types[0].dtype for t in types):
        raise TypeMismatch(f"expected one element type, got {', '.join(str(t.dtype) for t in types)}")
    return types[0].dtype


def computing(*types: TensorType) -> None:
    """Refuse elements that are only stored."""
    for type_ in types:
        if type_.dtype.is_stored:
            raise TypeMismatch(f"nothing computes with {type_.dtype}: cast {type_} to f32 first")


def pointwise(*types: TensorType, **_: object) -> TensorType:
    """Same element type in and out, shapes broadcast."""
    computing(*types)
    return TensorType(same_dtype(*types), broadcast_shapes(*(t.shape for t in types)))


def numeric(*types: TensorType, **_: object) -> TensorType:
    """Pointwise on numbers, that is anything but bool."""
    if any(t.dtype is DType.BOOL for t in types):
        raise TypeMismatch(f"expected numbers, got {', '.join(map(str, types))}")
    return pointwise(*types)


def floating(*types: TensorType, **_: object) -> TensorType:
    """Pointwise on floating-point elements."""
    if not types[0].dtype.is_float:
        raise TypeMismatch(f"expected floating-point elements, got {types[0]}")
    return pointwise(*types)


def integral(*types: TensorType, **_: object) -> TensorType:
    """Pointwise on integers."""
    if not all(t.dtype.is_integer for t in types):
        raise TypeMismatch(f"expected integers, got {', '.join(map(str, types))}")
    return pointwise(*types)


def comparison(*types: TensorType, **_: object) -> TensorType:
    """Pointwise with a boolean result."""
    return pointwise(*types).with_dtype(DType.BOOL)


def logical(*types: TensorType, **_: object) -> TensorType:
    """Pointwise on booleans."""
    if any(t.dtype is not DType.BOOL for t in types):
        raise TypeMismatch(f"expected bool elements, got {', '.join(map(str, types))}")
    return pointwise(*types)


def check_axis(axis: int, rank: int) -> None:
    """Axes inside the IR count from the front."""
    if rank == 0:
        raise TypeMismatch("a scalar has no axes")
    if not 0 <= axis < rank:
        raise TypeMismatch(f"axis {axis} is not in 0..{rank - 1}")


def reduction(x: TensorType, *, axes: tuple[int, ...], **_: object) -> TensorType:
    """The reduced axes stay, with size 1."""
    computing(x)
    for axis in axes:
        check_axis(axis, x.rank)
    if list(axes) != sorted(set(axes)):
        raise TypeMismatch(f"axes {axes} must be sorted and distinct")
    return x.with_shape(tuple(1 if i in axes else d for i, d in enumerate(x.shape)))


def numeric_reduction(x: TensorType, *, axes: tuple[int, ...], **_: object) -> TensorType:
    """A reduction that computes, so not of bool."""
    if x.dtype is DType.BOOL:
        raise TypeMismatch(f"expected numbers, got {x}")
    return reduction(x, axes=axes)


def check_shape(shape: Shape) -> None:
    """Sizes given as attributes are not negative."""
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise TypeMismatch(f"the shape [{','.join(map(str, shape))}] has a negative size")


def with_dtype(infer: Infer, dtype: DType) -> Infer:
    """`infer`, with another element type."""

    def rule(*types: TensorType, **attrs: Any) -> TensorType:
        return infer(*types, **attrs).with_dtype(dtype)

    return rule
