"""Tensors while importing, and the builder that turns IR ops on them into contents or into values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from isthmus.frontends.onnx import indices, symbolic
from isthmus.frontends.onnx.equations import equations
from isthmus.frontends.onnx.facts import Facts, Restart, at_least, conclude
from isthmus.frontends.onnx.limits import Budget, check_type
from isthmus.frontends.onnx.open_sizes import Opened
from isthmus.ir.dims import Dim, Expr, Shape, divide_exactly, floordiv, product, symbol
from isthmus.ir.graph import Attr, Op, TypeMismatch, Value, constant, graph_input, weight_of, weight_value
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import Weight
from isthmus.ops import OPS, movement, pointwise, quantize

# Weights up to this many elements are looked at while importing.
MAX_LOOK = 1 << 12


_COUNTING = (DType.I64, DType.I32, DType.BOOL, DType.F32, DType.F64)


def _fits(number: Dim, dtype: DType) -> bool:
    bits = dtype.bits - 1 if dtype.is_integer else 53
    return isinstance(number, Expr) or abs(number) < 2**bits


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """One ONNX value: its contents when they are known at import, its IR value when it has one."""

    type: TensorType
    known: Array | None = None
    value: Value | None = None

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def dtype(self) -> DType:
        return self.type.dtype


@dataclass(frozen=True, slots=True, eq=False)
class Items(Tensor):
    """An ONNX sequence, while importing: which tensors it holds is known. Its own type means nothing."""

    items: tuple[Tensor, ...] = ()


def sequence(items: Iterable[Tensor]) -> Items:
    """The sequence of these tensors."""
    return Items(TensorType(DType.BOOL, ()), items=tuple(items))


class Builder:
    """Applies IR ops to tensors; what is known is computed now, the rest becomes IR values.

    `loc` is the node being imported; it is given to every value made.
    """

    def __init__(self, facts: Facts, budget: Budget | None = None) -> None:
        self.facts = facts
        self.budget = budget or Budget()
        self.loc = ""
        self.opened: list[Opened] = []
        self._values: dict[Tensor, Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}
        self._names: dict[str, int] = {}  # what was added last to tell it from others of the name
        self._linear: dict[Value, indices.Linear] = {}
        self._looked: dict[Tensor, indices.Linear | None] = {}

    # --- contents ---

    def known(self, tensor: Tensor) -> Array | None:
        """The contents of `tensor` if they are known at import."""
        if tensor.known is not None:
            return tensor.known
        weight = weight_of(tensor.value) if tensor.value is not None else None
        if weight is None or math.prod(weight.type.static_shape) > self._look(weight.type.dtype):
            return None
        return weight.read()

    @staticmethod
    def _look(dtype: DType) -> int:
        # Integers may become shapes, large tables of positions included.
        return MAX_LOOK if dtype.is_float else symbolic.MAX_ELEMENTS

    def number(self, value: float, dtype: DType) -> Tensor:
        """A scalar constant."""
        return self.array(np.asarray(value).astype(dtype.numpy))

    def weight(self, weight: Weight) -> Tensor:
        """A constant that is not looked at."""
        return Tensor(weight.type, None, weight_value(weight, self.loc))

    def array(self, array: Array) -> Tensor:
        """A constant with plain contents."""
        return Tensor(TensorType(DType.of(array.dtype), array.shape), array)

    def dims(self, shape: Iterable[Dim], dtype: DType = DType.I64) -> Tensor:
        """A vector of sizes."""
        array = symbolic.objects(map(self.facts.resolve, shape))
        return Tensor(TensorType(dtype, array.shape), self._settled(array, dtype))

    def dim(self, dim: Dim, dtype: DType = DType.I64) -> Tensor:
        """A size as a scalar."""
        array = symbolic.objects([self.facts.resolve(dim)]).reshape(())
        return Tensor(TensorType(dtype, ()), self._settled(array, dtype))

    def _settled(self, array: Array, dtype: DType) -> Array:
        settled = symbolic.settle(array, dtype, self.facts.bounds)
        return array if settled is None else settled

    # --- values ---

    def value(self, tensor: Tensor) -> Value:
        """`tensor` as an IR value; contents become a weight, or ops that make sizes at run time."""
        if tensor.value is not None:
            return tensor.value
        if isinstance(tensor, Items):
            raise TypeMismatch("a sequence is not a tensor")
        if tensor not in self._values:
            assert tensor.known is not None
            self._values[tensor] = self._from_contents(tensor.known, tensor.type)
        return self._values[tensor]

    def _from_contents(self, known: Array, type_: TensorType) -> Value:
        if not symbolic.is_symbolic(known):
            return self._constant(known.astype(type_.dtype.numpy))
        flat = list(known.reshape(-1))
        if all(d == flat[0] for d in flat):
            single = self._size(flat[0], type_.dtype)
            return self._shaped(movement.broadcast, single, type_.shape)
        pieces = [self._shaped(movement.reshape, self._size(d, type_.dtype), (1,)) for d in flat]
        joined = movement.concat(*pieces, axis=0, loc=self.loc)
        return self._shaped(movement.reshape, joined, type_.shape)

    def _size(self, dim: Dim, dtype: DType) -> Value:
        if isinstance(dim, Expr):
            return movement.dim_value(dim=(dim,), dtype=dtype, loc=self.loc)
        return self._constant(np.asarray(dim, dtype.numpy))

    def _shaped(self, op: Op, value: Value, shape: Shape) -> Value:
        return value if value.shape == shape else op(value, shape=shape, loc=self.loc)

    def _constant(self, array: Array) -> Value:
        """Equal constants are one weight."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = constant(self.unique(self.loc or "constant"), array, self.loc)
        return self._constants[key]

    def unique(self, name: str) -> str:
        """`name`, with a number if a weight has it already."""
        chosen, count = name, self._names.get(name, 0)
        while chosen in self._names:
            count += 1
            chosen = f"{name}.{count}"
        self._names[name] = count
        self._names.setdefault(chosen, 0)
        return chosen

    def places(self, places: Tensor, meant: Tensor) -> Tensor:
        """`places` [rank, all], of which only those count that are `meant`, bool [all]: [rank, how many]."""
        number = len(self.opened) + 1
        taken = self.facts.bounds.keys() | self.facts.equal.keys()
        name = next(n for i in count(number) if (n := f"nonzero_{i}") not in taken)
        self.facts = replace(self.facts, bounds={**self.facts.bounds, name: (0, None)})
        leaf = graph_input(name, places.type.with_shape((places.shape[0], symbol(name))))
        self.opened.append(Opened(name, leaf, self.value(places), self.value(meant), self.loc))
        return Tensor(leaf.t, None, leaf)

    # --- ops ---

    def op(self, op: Op, *args: Tensor, **attrs: Attr) -> Tensor:
        """Apply `op`. Raises TypeMismatch, or `Restart` when a fact about dims would make it fit."""
        given = {**op.defaults, **attrs}
        try:
            folded = self._folded(op, args, given)
            if folded is not None:
                return folded
            value = op(*map(self.value, args), loc=self.loc, **attrs)
            self.budget.value()
            check_type(value.t, self.loc)
        except TypeMismatch:
            self.reconcile(equations(op, [a.type for a in args], given))
            raise
        if (chosen := self._choice(op, args, value.shape)) is not None:
            return chosen
        linear = self._derive(op, args, given, value.t)
        if linear is not None:
            if op is not movement.full and linear.is_uniform and isinstance(linear.offset, int):
                return self.full(value.shape, linear.offset, value.dtype)
            self._linear[value] = linear
        return Tensor(value.t, None, value)

    def _folded(self, op: Op, args: Sequence[Tensor], attrs: dict[str, Attr]) -> Tensor | None:
        """The result as contents, when those of every argument are known."""
        contents = []
        for arg in args:
            if (known := self.known(arg)) is None:
                return None
            contents.append(known)
        type_ = op.infer(*(a.type for a in args), **attrs)
        if op is quantize.dequantize and type_.size != 1:
            return None  # quantized weights are imported as such
        folded = symbolic.evaluate(op, contents, attrs, type_, self.facts.bounds)
        if folded is None:
            return None
        self.budget.compute(folded.size, symbolic.is_symbolic(folded))
        return Tensor(type_, folded)

    def _derive(
        self, op: Op, args: Sequence[Tensor], attrs: dict[str, Attr], type_: TensorType
    ) -> indices.Linear | None:
        # Narrow integers wrap; nobody counts positions in them.
        if op.name not in indices.RULES or type_.dtype not in _COUNTING:
            return None
        arguments = []
        for arg in args:
            if (linear := self.linear(arg)) is None:
                return None
            arguments.append((linear, arg.shape))
        found = indices.derive(op, arguments, attrs, type_, self.facts.bounds)
        return found if found is None or _fits(found.offset, type_.dtype) else None

    def linear(self, tensor: Tensor) -> indices.Linear | None:
        """`tensor` as a linear function of its indices, if it is known to be one."""
        if tensor.value is not None and tensor.value in self._linear:
            return self._linear[tensor.value]
        if tensor not in self._looked:
            known = self.known(tensor)
            self._looked[tensor] = None if known is None else indices.from_contents(known)
        return self._looked[tensor]

    def _choice(self, op: Op, args: Sequence[Tensor], shape: Shape) -> Tensor | None:
        """An argument, where the others are known to leave it as it is."""
        if op is pointwise.where:
            condition = self._uniform(args[0])
            return None if condition is None else self.broadcast(args[1 if condition else 2], shape)
        if op in (pointwise.logical_and, pointwise.logical_or):
            neutral = int(op is pointwise.logical_and)
            for one, other in ((args[0], args[1]), (args[1], args[0])):
                if (uniform := self._uniform(one)) is not None:
                    return self.broadcast(other if uniform == neutral else one, shape)
        return None

    def _uniform(self, tensor: Tensor) -> int | None:
        """The number that all elements are, if known."""
        linear = self.linear(tensor)
        return linear.offset if linear and linear.is_uniform and isinstance(linear.offset, int) else None

    def reconcile(self, pairs: Iterable[tuple[Dim, Dim]]) -> None:
        """Raise `Restart` if a simple fact makes some pair of dims equal."""
        for a, b in pairs:
            if a == b:
                continue
            conclusion = conclude(a, b, self.facts)
            if conclusion is not None:
                raise Restart(conclusion, self.loc)

    def must_equal(self, a: Dim, b: Dim, what: str) -> None:
        """Raise TypeMismatch (or `Restart`) unless the two sizes are the same."""
        if self.facts.resolve(a - b) == 0:
            return
        self.reconcile([(a, b)])
        raise TypeMismatch(f"{what}: {a} and {b} differ")

    def must_reach(self, dim: Dim, least: int) -> None:
        """Raise `Restart` if `dim` may be less than `least` and a simple fact forbids that."""
        conclusion = at_least(dim, least, self.facts)
        if conclusion is not None:
            raise Restart(conclusion, self.loc)

    # --- common forms, without ops that would do nothing ---

    def reshape(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        target = tuple(map(self.facts.resolve, shape))
        return x if target == x.shape else self.op(movement.reshape, x, shape=target)

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        order = tuple(perm)
        return x if order == tuple(range(x.rank)) else self.op(movement.transpose, x, perm=order)

    def swap(self, x: Tensor, a: int, b: int) -> Tensor:
        """Exchange two axes."""
        order = list(range(x.rank))
        order[a], order[b] = order[b], order[a]
        return self.transpose(x, order)

    def broadcast(self, x: Tensor, shape: Sequence[Dim]) -> Tensor:
        target = tuple(map(self.facts.resolve, shape))
        return x if target == x.shape else self.op(movement.broadcast, x, shape=target)

    def cast(self, x: Tensor, dtype: DType) -> Tensor:
        return x if x.dtype is dtype else self.op(pointwise.cast, x, dtype=dtype)

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return parts[0] if len(parts) == 1 else self.op(movement.concat, *parts, axis=axis)

    def slice(
        self, x: Tensor, starts: Sequence[Dim], sizes: Sequence[Dim], steps: Sequence[int] | None = None
    ) -> Tensor:
        given = tuple(map(self.facts.resolve, sizes))
        begins = tuple(map(self.facts.resolve, starts))
        by = tuple(steps) if steps is not None else (1,) * x.rank
        if given == x.shape and not any(s != 0 for s in begins) and all(s == 1 for s in by):
            return x
        return self.op(movement.slice_, x, starts=begins, sizes=given, steps=by)

    def cut(self, x: Tensor, axis: int, start: Dim, size: Dim) -> Tensor:
        """`size` elements from `start` along one axis."""
        starts: list[Dim] = [0] * x.rank
        sizes = list(x.shape)
        starts[axis], sizes[axis] = start, size
        return self.slice(x, starts, sizes)

    def full(self, shape: Sequence[Dim], value: float, dtype: DType) -> Tensor:
        target = tuple(map(self.facts.resolve, shape))
        if float(value) != value and value == value:
            return self.broadcast(self.number(value, dtype), target)  # an integer beyond 2**53
        return self.op(movement.full, shape=target, value=float(value), dtype=dtype)

    def iota(self, shape: Sequence[Dim], axis: int, dtype: DType = DType.I64) -> Tensor:
        target = tuple(map(self.facts.resolve, shape))
        return self.op(movement.iota, shape=target, axis=axis, dtype=dtype)

    def call(self, name: str, *args: Tensor, **attrs: Attr) -> Tensor:
        """`op` by the op's name; Python numbers are not accepted."""
        return self.op(OPS[name], *args, **attrs)

    def quotient(self, whole: Sequence[Dim], parts: Sequence[Dim]) -> Dim:
        """product(whole) / product(parts), cancelling equal factors first."""
        left, right = list(whole), []
        for part in parts:
            if part in left:
                left.remove(part)
            else:
                right.append(part)
        top, bottom = self.facts.resolve(product(tuple(left))), self.facts.resolve(product(tuple(right)))
        if bottom == 0:
            return 0
        exact = divide_exactly(top, bottom)
        return self.facts.resolve(floordiv(top, bottom) if exact is None else exact)
